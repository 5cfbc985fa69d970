"""The sha256 over lines in sorted order, however many there are. Knows nothing of votes.

Holds RUN lines in memory and keeps the sorted rest in a folder, so that memory stays flat.
"""

import hashlib
import heapq
import marshal
from collections.abc import Iterator
from pathlib import Path

RUN = 100_000
_CHUNK = 1_000


class SortedHash:
    """Takes lines in any order, then says the sha256 of all of them, sorted, one after another."""

    def __init__(self, scratch: Path) -> None:
        """Writes files named after no line into the folder `scratch`, which the caller removes."""
        self._scratch = scratch
        self._lines: list[bytes] = []
        self._files: list[Path] = []

    def add(self, line: str) -> None:
        self._lines.append(line.encode())
        if len(self._lines) >= RUN:
            self._spill()

    def hexdigest(self) -> str:
        """Of all lines so far; takes no more afterwards."""
        self._lines.sort()
        runs = [iter(self._lines), *map(_lines_of, self._files)]
        digest = hashlib.sha256()
        for line in heapq.merge(*runs):
            digest.update(line)
        return digest.hexdigest()

    def _spill(self) -> None:
        # The order of UTF-8 bytes is that of the text's characters.
        self._lines.sort()
        file = self._scratch / f"run-{len(self._files)}"
        with file.open("wb") as out:
            for start in range(0, len(self._lines), _CHUNK):
                marshal.dump(self._lines[start : start + _CHUNK], out)
        self._files.append(file)
        self._lines.clear()


def _lines_of(file: Path) -> Iterator[bytes]:
    with file.open("rb") as kept:
        while True:
            try:
                # Our own bytes of a moment ago, in a folder that nobody else writes to.
                lines: list[bytes] = marshal.load(kept)  # noqa: S302
            except EOFError:
                return
            yield from lines
