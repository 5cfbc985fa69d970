"""A GPU that the Space lends for a moment (ZeroGPU): borrowed to draw answers, for nothing else.

Owns when the `spaces` package is asked: where the Space says that it lends, and nowhere else, so
that nobody needs the package. Must be asked before torch is imported, as the package wants.
"""

import importlib
import logging
from collections.abc import Callable
from typing import TypeVar

BORROW_S = 60
"""For how long a batch or a stream may hold the GPU."""
F = TypeVar("F", bound=Callable[..., object])
_log = logging.getLogger(__name__)


class Lending:
    """`lend` gives a function the GPU while it runs; where none is lent, it stays as it is.

    A lent function runs in a forked process: what it takes and gives must be picklable, and what
    it leaves in memory is lost.
    """

    def __init__(self, *, zero_gpu: bool) -> None:
        self._spaces = None
        if zero_gpu:
            try:
                self._spaces = importlib.import_module("spaces")
            except ImportError:
                _log.warning("SPACES_ZERO_GPU is set and `spaces` is missing: drawing on the CPU")

    def lend(self, draw: F) -> F:
        if self._spaces is None:
            return draw
        lent: F = self._spaces.GPU(draw, duration=BORROW_S)
        return lent

    def begin(self) -> None:
        """Once the weights are loaded and everything is lent: the package packs and reports them.

        It does so itself where Gradio launches the page; this process launches none.
        """
        if self._spaces is not None:
            importlib.import_module("spaces.zero").startup()
