"""The quality of one journal's votes and voters, looked at again only when votes have changed.

Owns what is read for it and how often. The figures are `quality`'s, the voters `voter_health`'s.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Generic, TypeVar

from annotation.journal.journal import JournalReader
from annotation.quality.quality import FlipRate, Quality, summarise_quality
from annotation.quality.voter_health import VoterHealth, assess_voters, flip_rate_after_flags
from annotation.schema import Pair, Vote

T = TypeVar("T")
PATIENCE_S = 20.0
"""While votes come in, a page that asks every two seconds gets figures up to this old."""


@dataclass(frozen=True, slots=True)
class QualityReport:
    """All figures. `after_flags` is the flip rate without the voters who are flagged."""

    overall: Quality
    after_flags: FlipRate | None
    voters: tuple[VoterHealth, ...]

    @property
    def suspects(self) -> list[VoterHealth]:
        """Voters who are flagged and whose votes count all the same."""
        return _suspects(self.voters)

    def to_json(self) -> str:
        """Every figure by its name in the types; days as text, tallies by choice."""
        return json.dumps(asdict(self), indent=2, default=str)


def report_quality(votes: Iterable[Vote], pairs: Mapping[str, Pair]) -> QualityReport:
    """The report of these votes; about half a second for ten thousand. Pure."""
    votes = list(votes)
    voters = assess_voters(votes, pairs)
    after = flip_rate_after_flags(votes, pairs, voters)
    return QualityReport(summarise_quality(votes, pairs), after, voters)


def _suspects(voters: Iterable[VoterHealth]) -> list[VoterHealth]:
    return [v for v in voters if v.is_flagged and v.set_aside is None]


@dataclass(frozen=True, slots=True)
class _Kept(Generic[T]):
    mark: tuple[str, str]
    made_at: float
    what: T


class QualityDesk:
    """The report of one journal, kept until its votes change; safe to share between threads."""

    def __init__(
        self, journal: JournalReader, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._lock = threading.Lock()
        self._report: _Kept[QualityReport] | None = None
        self._voters: _Kept[tuple[VoterHealth, ...]] | None = None

    def report(self, *, fresh: bool = False) -> QualityReport:
        """The report as it is now; unless `fresh`, one up to PATIENCE_S old while votes come in.

        Who is set aside is never old: nobody should wonder whether a click did anything.
        """
        with self._lock:
            mark = self._journal.vote_mark()
            if not (self._report and self._holds(self._report, mark, fresh=fresh)):
                self._report = _Kept(mark, self._clock(), report_quality(*self._read()))
            return self._report.what

    def suspects(self) -> list[VoterHealth]:
        """The report's suspects, for those who want no more: a command need not load pandas."""
        with self._lock:
            mark = self._journal.vote_mark()
            if self._report and self._holds(self._report, mark):
                return self._report.what.suspects
            if not (self._voters and self._holds(self._voters, mark)):
                self._voters = _Kept(mark, self._clock(), assess_voters(*self._read()))
            return _suspects(self._voters.what)

    def _holds(self, kept: _Kept[T], mark: tuple[str, str], *, fresh: bool = False) -> bool:
        is_recent = not fresh and self._clock() - kept.made_at < PATIENCE_S
        return kept.mark == mark or (is_recent and kept.mark[1] == mark[1])

    def _read(self) -> tuple[list[Vote], dict[str, Pair]]:
        votes = self._journal.votes()
        pairs = self._journal.pairs(list({vote.pair_id for vote in votes}))
        return votes, {pair.id: pair for pair in pairs}
