"""Voters who vote as one: do two agree more often than chance and truth explain?

Pure: votes in, flags out. Which of two copied from the other no votes can tell, so both are named.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from annotation.quality import decided_votes_by_pair
from annotation.schema import Choice, Vote
from annotation.voter_flags import Flag, copy_evidence, honest_rate, ring_level

MIN_SHARED = 10
"""Pairs that two voters must both have decided before anybody asks whether they vote as one."""
_SIGNS = {Choice.A: 1, Choice.B: -1}


def find_rings(
    votes: Iterable[Vote], trusted: Iterable[Vote], noise: float
) -> list[tuple[str, Flag]]:
    """A flag for both of two voters who give the same answers more than chance and truth explain.

    Each shared pair weighs by how likely the second would have agreed anyway, given the first and
    everybody else who is `trusted`, each vote wrong at rate `noise`; two who agree where all
    others do prove nothing.
    """
    trusted = list(trusted)
    tallies, peers = decided_votes_by_pair(trusted), {vote.id for vote in trusted}
    by_voter: defaultdict[str, dict[str, Vote]] = defaultdict(dict)
    for vote in votes:
        if vote.choice in _SIGNS:
            by_voter[vote.voter][vote.pair_id] = vote
    candidates, compared = _alike(by_voter)
    rings: list[tuple[str, Flag]] = []
    for one, other in candidates:
        mine, theirs = by_voter[one], by_voter[other]
        shared = mine.keys() & theirs.keys()
        evidence = 0.0
        for pair_id in shared:
            rest = Counter(tallies.get(pair_id, ()))
            for vote in (mine[pair_id], theirs[pair_id]):
                rest[vote.record_choice] -= vote.id in peers
            choice, theirs_is = mine[pair_id].record_choice, theirs[pair_id].record_choice
            lead = 1 + rest[choice] - rest[Choice.B if choice is Choice.A else Choice.A]
            evidence += copy_evidence(choice is theirs_is, honest_rate(noise, lead))
        if evidence > ring_level(compared):
            same = sum(mine[p].record_choice is theirs[p].record_choice for p in shared)
            for name, twin in ((one, other), (other, one)):
                rings.append((name, _ring_flag(twin, same, len(shared))))
    return rings


def _ring_flag(twin: str, same: int, shared: int) -> Flag:
    return Flag(
        "ring",
        f"Gave the same answer as {twin[:8]} on {same} of {shared} pairs that both saw, more "
        "than two who vote apart would.",
    )


def _alike(by_voter: Mapping[str, Mapping[str, Vote]]) -> tuple[list[tuple[str, str]], int]:
    """Pairs of voters with nearly the same answers, and how many share enough to be compared."""
    import numpy as np
    from scipy.sparse import coo_array

    voters = sorted(name for name, votes in by_voter.items() if len(votes) >= MIN_SHARED)
    columns: dict[str, int] = {}
    cells = [
        (
            row,
            columns.setdefault(pair_id, len(columns)),
            1 if vote.record_choice is Choice.A else -1,
        )
        for row, name in enumerate(voters)
        for pair_id, vote in by_voter[name].items()
    ]
    if not cells:
        return [], 0
    rows, cols, signs = (np.array(column) for column in zip(*cells, strict=True))
    votes = coo_array((signs, (rows, cols)), shape=(len(voters), len(columns))).tocsr()
    shared = (abs(votes) @ abs(votes).T).tocoo()
    enough = (shared.data >= MIN_SHARED) & (shared.row < shared.col)
    one, other, count = shared.row[enough], shared.col[enough], shared.data[enough]
    if not len(one):
        return [], 0
    # Same less different, over all shared.
    balance = np.asarray((votes @ votes.T).tocsr()[one, other]).ravel()
    alike = balance >= 0.6 * count
    names = [(voters[i], voters[j]) for i, j in zip(one[alike], other[alike], strict=True)]
    return names, len(one)
