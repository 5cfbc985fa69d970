"""Importing large libraries quickly: without garbage collection, and without Gradio's type stubs.

Owns what an import need not do. Imports none of the libraries. What is imported stays as it is.
"""

import gc
import importlib.machinery
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

_COMPONENT_META = "gradio.component_meta"


@contextmanager
def uncollected() -> Iterator[None]:
    """Import within it: no collector walks the modules meanwhile, nor those that are there later.

    Modules live as long as the process, so there is nothing to collect; looking took a sixth of
    the CPU of importing torch and transformers.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def without_gradio_stubs() -> None:
    """Let a later `import gradio` write no .pyi file of its components, and be two fifths shorter.

    Gradio parses its own source at each import to write them into its package, for editors.
    """
    if not any(finder is _NoStubs for finder in sys.meta_path):
        sys.meta_path.insert(0, _NoStubs)


class _NoStubs:
    """Finds one module as ever, and takes one function out of it once it is loaded."""

    @staticmethod
    def find_spec(
        fullname: str, path: object = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _COMPONENT_META:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)  # type: ignore[arg-type]
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _StublessLoader(spec.loader.name, spec.loader.path)
        return spec


class _StublessLoader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        vars(module)["create_or_modify_pyi"] = lambda *_: None
