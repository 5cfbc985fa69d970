"""Fixtures shared by every test file."""

import gc
import os
import signal
import sys
import warnings
from collections.abc import Iterator

import pytest
from argilla_fixture import argilla_server  # noqa: F401
from hub_double import hub_double_fixture  # noqa: F401
from hypothesis import settings
from running_app import voted_app  # noqa: F401

from tests.trainer_fixture import make_trainer, one_thread, tiny_export, tiny_folder  # noqa: F401

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in a shell's background: it is inherited, and no command under test would hear Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# As the app's children have it: on cores that others use, threads that spin while they wait took
# five times the CPU of a training that a test waits for. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Gradio asks for it at each page that is built. Looking takes an import's lock, and where the
# garbage collector runs then and a finalizer imports something, Python 3.11 raises KeyError
# (`_blocking_on` in importlib). A page of the app is built while nothing is collected.
sys.modules.setdefault("IPython.core.getipython", None)  # type: ignore[arg-type]

# Every run tries the same examples, and on a busy machine none of them is late.
settings.register_profile("votetune", deadline=None, derandomize=True)
settings.load_profile("votetune")


@pytest.fixture(scope="module", autouse=True)
def what_gradio_leaves() -> Iterator[None]:
    """Gradio leaves event loops unclosed where Blocks are built: they go with their module, so
    that the collector does not find them in the middle of another's test.
    """
    yield
    if "gradio" in sys.modules:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
