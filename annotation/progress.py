"""How far the voting is: one voter's votes, everybody's, and the pairs that still want some.

Owns a short cache of everybody's figures, so that hundreds who ask cost one look at the journal.
Says how many, never which way.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from annotation.journal.reader import JournalReader, quarter
from annotation.schema import utc_now

LOOK_BACK = timedelta(hours=48)
CACHE_S = 5.0


@dataclass(frozen=True, slots=True)
class Tally:
    """Live votes, skips left out."""

    today: int
    all: int


@dataclass(frozen=True, slots=True)
class Progress:
    """`today` begins at the caller's own midnight, to the quarter of an hour."""

    mine: Tally
    everyone: Tally
    pairs_wanted: int


class ProgressBoard:
    """Reads one journal; safe to share between threads."""

    def __init__(
        self,
        journal: JournalReader,
        *,
        votes_per_pair: int,
        clock: Callable[[], datetime] = utc_now,
        cache_s: float = CACHE_S,
    ) -> None:
        self._journal = journal
        self._votes_per_pair = votes_per_pair
        self._clock = clock
        self._cache_s = cache_s
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._everyone: dict[str, int] = {}
        self._wanted = 0

    def progress(self, voter: str, since: datetime | None = None) -> Progress:
        """What `voter` may know; `since` is when their day began, at most 48 hours ago.

        None is the server's midnight, in UTC. A later time than now is a clock that is ahead.
        Raises ValueError for a `since` that is older.
        """
        now = self._clock()
        since = since or now.replace(hour=0, minute=0, second=0, microsecond=0)
        if not now - LOOK_BACK <= since <= now + LOOK_BACK:
            raise ValueError(f"{since} is not within 48 hours of now.")
        mine = self._journal.live_by_quarter(now - LOOK_BACK, voter)
        everyone, wanted = self._shared(now)
        return Progress(_tally(mine, since), _tally(everyone, since), wanted)

    def _shared(self, now: datetime) -> tuple[dict[str, int], int]:
        # Under the lock: while one reads, the others wait for that figure and read nothing.
        with self._lock:
            if time.monotonic() - self._read_at >= self._cache_s:
                self._everyone = self._journal.live_by_quarter(now - LOOK_BACK)
                self._wanted = self._journal.wanted_count(self._votes_per_pair)
                self._read_at = time.monotonic()
            return self._everyone, self._wanted


def _tally(by_quarter: dict[str, int], since: datetime) -> Tally:
    first = quarter(since)
    today = sum(votes for slot, votes in by_quarter.items() if slot >= first)
    return Tally(today=today, all=sum(by_quarter.values()))
