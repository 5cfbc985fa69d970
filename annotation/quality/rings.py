"""Voters who vote as one: do two agree more often than chance and truth explain?

Pure: votes in, flags out. Which of two copied from the other no votes can tell, so both are named.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from annotation.quality.flags import Flag, copy_evidence, honest_rate, ring_level, short_name
from annotation.schema import Choice, Vote

if TYPE_CHECKING:
    import numpy as np

MIN_SHARED = 10
"""Pairs that two voters must both have decided before anybody asks whether they vote as one."""
NEARLY_ALL = 0.8
"""Share of the same answers among them without which nobody looks closer."""
_SIGNS = {Choice.A: 1, Choice.B: -1}


@dataclass(frozen=True, slots=True)
class _Twins:
    one: str
    other: str
    same: int
    shared: int
    evidence: float


def find_rings(votes: Iterable[Vote], trusted: Iterable[Vote], noise: float) -> dict[str, Flag]:
    """Voter to flag, for voters who give the same answers more than chance and truth explain.

    Each shared pair weighs by how likely the second would have agreed anyway, given the first and
    everybody else who is `trusted`, each vote wrong at rate `noise`; two who agree where all
    others do prove nothing.
    """
    decided = [vote for vote in votes if vote.choice in _SIGNS]
    if not decided:
        return {}
    ballots = _Ballots(decided, {vote.id for vote in trusted})
    alike, compared = ballots.alike()
    twins: defaultdict[str, list[_Twins]] = defaultdict(list)
    for found in ballots.weighed(alike, noise):
        if found.evidence > ring_level(compared):
            twins[found.one].append(found)
            twins[found.other].append(found)
    return {name: _flag(name, found) for name, found in twins.items()}


def _flag(name: str, found: list[_Twins]) -> Flag:
    closest = max(found, key=lambda twins: twins.evidence)
    twin = closest.other if closest.one == name else closest.one
    more = f" The same holds for {len(found) - 1} more." if len(found) > 1 else ""
    return Flag(
        "ring",
        f"Gave the same answer as {short_name(twin)} on {closest.same} of {closest.shared} pairs "
        f"that both saw, more than two who vote apart would.{more}",
    )


class _Ballots:
    """Decided votes as arrays: voter (row), pair (column), sign of the answer, trusted or not."""

    def __init__(self, votes: list[Vote], trusted: set[str]) -> None:
        import numpy as np

        self._names = sorted({vote.voter for vote in votes})
        rows = {name: row for row, name in enumerate(self._names)}
        columns: dict[str, int] = {}
        self._rows = np.array([rows[vote.voter] for vote in votes])
        self._columns = np.array([columns.setdefault(v.pair_id, len(columns)) for v in votes])
        self._signs = np.array([_SIGNS[vote.record_choice] for vote in votes])
        self._trusted = np.array([vote.id in trusted for vote in votes], dtype=int)
        # By how much those trusted prefer each pair's first answer.
        self._lead = np.bincount(self._columns, weights=self._signs * self._trusted).astype(int)

    def alike(self) -> tuple["np.ndarray[Any, Any]", int]:
        """Rows of voters with nearly the same answers, and how many share enough to tell."""
        import numpy as np
        from scipy.sparse import coo_array

        votes = coo_array((self._signs, (self._rows, self._columns))).tocsr()
        shared = (abs(votes) @ abs(votes).T).tocoo()
        enough = (shared.data >= MIN_SHARED) & (shared.row < shared.col)
        pairs = np.stack([shared.row[enough], shared.col[enough]], axis=1)
        if not len(pairs):
            return pairs, 0
        # Same less different.
        balance = np.asarray((votes @ votes.T).tocsr()[pairs[:, 0], pairs[:, 1]]).ravel()
        return pairs[balance >= (2 * NEARLY_ALL - 1) * shared.data[enough]], len(pairs)

    def weighed(self, pairs: "np.ndarray[Any, Any]", noise: float) -> Iterator[_Twins]:
        """Each two of `pairs` with the evidence that they vote as one."""
        import numpy as np

        # Others lead by no more than all of them; the first of the two counts as one more.
        most = int(abs(self._lead).max()) + 3
        rates = [honest_rate(noise, lead) for lead in range(-most, most + 1)]
        weights = np.array([[copy_evidence(same, p) for p in rates] for same in (False, True)])
        order = np.lexsort((self._columns, self._rows))
        starts = np.searchsorted(self._rows[order], np.arange(len(self._names) + 1))
        for one, other in pairs:
            mine, theirs = (order[starts[row] : starts[row + 1]] for row in (one, other))
            common, i, j = np.intersect1d(
                self._columns[mine], self._columns[theirs], assume_unique=True, return_indices=True
            )
            mine, theirs = mine[i], theirs[j]
            signs = self._signs[mine]
            same = signs == self._signs[theirs]
            both = signs * self._trusted[mine] + self._signs[theirs] * self._trusted[theirs]
            lead = 1 + signs * (self._lead[common] - both)
            yield _Twins(
                self._names[one],
                self._names[other],
                int(same.sum()),
                len(common),
                float(weights[same.astype(int), lead + most].sum()),
            )
