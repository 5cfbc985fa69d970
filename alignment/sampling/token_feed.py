"""Tokens on their way from generations in other threads to the reader of their texts.

Owns what a reader sees while rows are unfinished, and the flag by which it stops them. Knows
`generate`'s streamer protocol (`put`, `end`), and nothing of models.
"""

import queue
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from annotation.schema import Finish

Count = Callable[[Sequence[int]], None]
"""Told how many tokens each answer has, before its text is."""


def count_nothing(tokens: Sequence[int]) -> None:
    """For a reader who wants texts only."""


class Decoder(Protocol):
    """What makes an answer of one row's token ids, which may go past its end of turn."""

    def text(self, ids: Sequence[int]) -> str: ...

    def length(self, ids: Sequence[int]) -> int:
        """In tokens."""
        ...


class TokenFeed:
    """The texts of `rows` answers as they grow, read through `texts`.

    Each batch that is generated puts its tokens in through a `part` of its own; `close` or `fail`
    ends the feed. `stopped` is set by a reader who has gone.
    """

    def __init__(self, rows: int) -> None:
        self.stopped = threading.Event()
        self._rows = rows
        self._items: queue.SimpleQueue[_Tokens | _Whole | Exception] = queue.SimpleQueue()

    def part(self, rows: Sequence[int], decoder: Decoder, then: Callable[[], None]) -> "FeedPart":
        """A streamer for the batch that draws the answers at `rows`; it calls `then` after each
        token of theirs was put.
        """
        return FeedPart(self, tuple(rows), decoder, then)

    def put(self, tokens: "_Tokens") -> None:
        self._items.put(tokens)

    def close(self, answers: Sequence[tuple[str, Finish]]) -> None:
        self._items.put(_Whole(tuple(answers)))

    def fail(self, error: Exception) -> None:
        self._items.put(error)

    def texts(
        self, count: Count = count_nothing
    ) -> Generator[tuple[str, ...], None, tuple[Finish, ...]]:
        """Texts so far, whenever there are new tokens; last the whole.

        Returns how each answer ended; raises what `fail` got.
        """
        ids: list[list[int]] = [[] for _ in range(self._rows)]
        decoder: dict[int, Decoder] = {}
        while True:
            item = self._items.get()
            while isinstance(item, _Tokens):
                for row, token in zip(item.rows, item.ids, strict=True):
                    ids[row].append(token)
                    decoder[row] = item.decoder
                if self._items.empty():
                    break
                item = self._items.get()
            if isinstance(item, Exception):
                raise item
            count([decoder[row].length(some) if some else 0 for row, some in enumerate(ids)])
            if isinstance(item, _Whole):
                yield tuple(text for text, _ in item.answers)
                return tuple(finish for _, finish in item.answers)
            # The last character may still lack bytes; it shows when they are there.
            yield tuple(
                decoder[row].text(some).rstrip("\ufffd") if some else ""
                for row, some in enumerate(ids)
            )


class FeedPart:
    """A streamer for `generate`: first the prompts come, then one token a row at each step."""

    def __init__(
        self, feed: TokenFeed, rows: tuple[int, ...], decoder: Decoder, then: Callable[[], None]
    ) -> None:
        self._feed = feed
        self._rows = rows
        self._decoder = decoder
        self._then = then
        self._prompt_seen = False

    @property
    def is_stopped(self) -> bool:
        return self._feed.stopped.is_set()

    def put(self, value: Any) -> None:
        """Tensors: the prompts (rows, width), then tokens (rows,)."""
        if self._prompt_seen:
            self._feed.put(_Tokens(self._rows, value.tolist(), self._decoder))
            self._then()
        self._prompt_seen = True

    def end(self) -> None:
        """`generate` is done; `TokenFeed.close` follows with the whole texts."""


@dataclass(frozen=True, slots=True)
class _Tokens:
    """One new token for each of `rows`."""

    rows: tuple[int, ...]
    ids: list[int]
    decoder: Decoder


@dataclass(frozen=True, slots=True)
class _Whole:
    """The answers as they ended."""

    answers: tuple[tuple[str, Finish], ...]
