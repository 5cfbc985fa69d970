"""Tokens on their way from a generation in one thread to the reader of its text in another.

Owns what a reader sees while rows are unfinished, and the flag by which it stops them. Knows
`generate`'s streamer protocol (`put`, `end`), and nothing of models.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Decode = Callable[[Sequence[int]], str]
"""Token ids of one row, past its end of turn too, to text."""


class TokenFeed:
    """A streamer for `generate` over several rows, read through `texts`.

    The generating thread calls `open`, then `generate` calls `put`, then `close` or `fail`.
    `stopped` is set by a reader who has gone.
    """

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._items: queue.SimpleQueue[list[int] | tuple[str, ...] | Exception] = (
            queue.SimpleQueue()
        )
        self._decode: Decode | None = None
        self._prompt_seen = False

    def open(self, decode: Decode) -> None:
        self._decode = decode

    def put(self, value: Any) -> None:
        """Tensors: first the prompts (rows, width), then at each step one token a row (rows,)."""
        if self._prompt_seen:
            self._items.put(value.tolist())
        self._prompt_seen = True

    def end(self) -> None:
        """`generate` is done; `close` follows with the whole texts."""

    def close(self, texts: tuple[str, ...]) -> None:
        self._items.put(texts)

    def fail(self, error: Exception) -> None:
        self._items.put(error)

    def texts(self) -> Iterator[tuple[str, ...]]:
        """Texts so far, whenever there are new tokens; last the whole; raises what `fail` got."""
        rows: list[list[int]] = []
        while True:
            item = self._items.get()
            while isinstance(item, list):
                rows = rows or [[] for _ in item]
                for row, token in zip(rows, item, strict=True):
                    row.append(token)
                if self._items.empty():
                    break
                item = self._items.get()
            if isinstance(item, Exception):
                raise item
            if isinstance(item, tuple):
                yield item
                return
            yield tuple(self._partial(row) for row in rows)

    def _partial(self, ids: list[int]) -> str:
        assert self._decode is not None
        # The last character may still lack bytes; it shows when they are there.
        return self._decode(ids).rstrip("\ufffd")
