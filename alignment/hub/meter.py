"""How far a download is, and how it is told to stop. Knows no file and no repository."""

import threading
from typing import Any

from huggingface_hub.utils.tqdm import tqdm

from annotation.faults import Fault


class Cancelled(Fault):
    """Somebody stopped the download; nothing of it is kept."""


class Meter:
    """Bytes of one download of several files, counted in one thread and read in any.

    A file that is begun again is counted again from its start; `done` never passes `total`.
    """

    def __init__(self) -> None:
        self.total = 0
        self._finished = 0
        self._current = 0
        self._stop = threading.Event()

    @property
    def done(self) -> int:
        return min(self.total, self._finished + max(0, self._current))

    def begin(self, total: int) -> None:
        """`total` bytes are to come."""
        self.total, self._finished, self._current = total, 0, 0

    def finish_file(self, size: int) -> None:
        """A file of `size` bytes is here. Raises Cancelled."""
        self._finished, self._current = self._finished + size, 0
        self.check()

    def cancel(self) -> None:
        """End the download at its next bytes; from any thread."""
        self._stop.set()

    @property
    def is_cancelled(self) -> bool:
        return self._stop.is_set()

    def check(self) -> None:
        if self._stop.is_set():
            raise Cancelled("cancelled, and nothing of it is kept.")

    def bars(self) -> type[Any]:
        """What huggingface_hub is given as its progress bar for one file; it draws nothing."""
        meter = self
        meter._current = 0

        class Bar(tqdm):
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options | {"disable": True})  # type: ignore[no-untyped-call]
                meter._current = int(options.get("initial") or 0)

            def update(self, n: float | None = 1) -> None:
                meter._current += int(n or 0)
                meter.check()

        return Bar
