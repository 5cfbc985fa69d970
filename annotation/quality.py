"""How far votes can be trusted: their noise from overlaps, and shares with intervals.

Pure: votes in, figures out. Knows no journal, no page and no model.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from annotation.schema import Choice, Vote

_Z = 1.959963984540054
"""Standard normal quantile of .975: every interval here is a 95 % one."""


@dataclass(frozen=True, slots=True)
class Share:
    """`count` of `total`, with its 95 % Wilson interval `low`–`high`.

    `p_value` is that of the exact two-sided binomial test against one half.
    """

    count: int
    total: int
    low: float
    high: float
    p_value: float

    @property
    def rate(self) -> float:
        return self.count / self.total


@dataclass(frozen=True, slots=True)
class FlipRate:
    """The chance `rate` that a decided vote names the worse side, with a 95 % interval.

    `disagreement` is d, the share of pairs of decided votes on one pair that differ: `compared`
    such pairs of votes, cast as `votes` votes on `pairs` pairs. `capped` says that votes differ
    half the time or more, as coin flips would; `rate` is then ½, its largest value, which has no
    standard error.
    """

    rate: float
    standard_error: float | None
    low: float
    high: float
    disagreement: float
    compared: int
    votes: int
    pairs: int
    capped: bool

    def of_majority(self, votes: int) -> float:
        """The flip rate of what a strict majority of `votes` decided votes prefers."""
        return majority_flip_rate(self.rate, votes)


def share_of(count: int, total: int) -> Share | None:
    """`count` of `total` with its interval and test, or None of nothing."""
    if total == 0:
        return None
    # Imported here for its time, which a vote need not take; scipy.stats would take four times it.
    from scipy.special import bdtr

    low, high = _wilson(count / total, total)
    # At one half the distribution is symmetric, so two tails are twice the smaller one.
    tails = 2 * float(bdtr(min(count, total - count), total, 0.5))
    return Share(count, total, low, high, min(1.0, tails))


def share_for_side_a(votes: Iterable[Vote]) -> Share | None:
    """How many decided votes went to side a, the side that the voter saw first; None of none."""
    choices = Counter(vote.choice for vote in votes)
    return share_of(choices[Choice.A], choices[Choice.A] + choices[Choice.B])


def decided_votes_by_pair(votes: Iterable[Vote]) -> dict[str, Counter[Choice]]:
    """Pair id to how many votes its first and its second completion have, in the record's order."""
    tallies: defaultdict[str, Counter[Choice]] = defaultdict(Counter)
    for vote in votes:
        if vote.choice in (Choice.A, Choice.B):
            tallies[vote.pair_id][vote.record_choice] += 1
    return dict(tallies)


def estimate_flip_rate(votes: Iterable[Vote]) -> FlipRate | None:
    """The flip rate ε of a decided vote from how often votes on one pair differ.

    None where no pair has two decided votes. Two votes that err independently at rate ε differ
    with probability d = 2ε(1 − ε), so ε̂ = (1 − √(1 − 2d)) / 2. The standard error is that of d,
    resampling pairs and not votes (the sandwich of a ratio), by the delta method; the interval is
    Wilson's for d on as many independent comparisons as give that error, carried over.
    """
    tallies = decided_votes_by_pair(votes)
    overlaps = [t for t in tallies.values() if t.total() > 1]
    if not overlaps:
        return None
    compared = [math.comb(t.total(), 2) for t in overlaps]
    differing = [t[Choice.A] * t[Choice.B] for t in overlaps]
    total, pairs = sum(compared), len(overlaps)
    d = sum(differing) / total
    error = _ratio_error(differing, compared)
    # No spread seen, all alike or a single pair: then a pair is one comparison, at the most.
    effective = min(total, d * (1 - d) / error**2) if error > 0 else float(pairs)
    low, high = _wilson(d, effective)
    slope = math.sqrt(max(0.0, 1 - 2 * d))
    return FlipRate(
        rate=_from_disagreement(d),
        standard_error=error / (2 * slope) if slope else None,
        low=_from_disagreement(low),
        high=_from_disagreement(high),
        disagreement=d,
        compared=total,
        votes=sum(t.total() for t in overlaps),
        pairs=pairs,
        capped=d >= 0.5,
    )


def majority_flip_rate(rate: float, votes: int) -> float:
    """The chance that a strict majority of `votes` votes is wrong, each wrong at `rate`.

    3ε² − 2ε³ of three. An even number can split evenly and then decides nothing: the chance is
    among the numbers that decide, ε² / (ε² + (1 − ε)²) of two.
    """
    if votes < 1:
        raise ValueError(f"A majority needs a vote, not {votes}.")
    if votes % 2:
        return _more_than_half(rate, votes)
    wrong = _more_than_half(rate, votes)
    return wrong / (wrong + _more_than_half(1 - rate, votes))


def example_flip_rate(rate: float, votes_by_example: Mapping[int, int]) -> float:
    """The flip rate of examples: the mean over them of what their majorities err.

    `votes_by_example` is how many examples were decided by 1, by 2, ... decided votes.
    """
    examples = sum(votes_by_example.values())
    if examples == 0:
        raise ValueError("There is no example to have a flip rate.")
    wrong = sum(majority_flip_rate(rate, n) * count for n, count in votes_by_example.items())
    return wrong / examples


def _more_than_half(rate: float, votes: int) -> float:
    return sum(
        math.comb(votes, k) * rate**k * (1 - rate) ** (votes - k)
        for k in range(votes // 2 + 1, votes + 1)
    )


def _from_disagreement(d: float) -> float:
    return (1 - math.sqrt(max(0.0, 1 - 2 * d))) / 2


def _ratio_error(counts: Sequence[int], totals: Sequence[int]) -> float:
    """Standard error of Σ counts / Σ totals when whole items are drawn (linearised ratio)."""
    n, total = len(counts), sum(totals)
    if n < 2:
        return 0.0
    ratio = sum(counts) / total
    squares = sum((c - ratio * t) ** 2 for c, t in zip(counts, totals, strict=True))
    return math.sqrt(squares * n / (n - 1)) / total


def _wilson(share: float, total: float) -> tuple[float, float]:
    """Wilson's 95 % interval (1927); `total` need not be whole."""
    middle = (share + _Z**2 / (2 * total)) / (1 + _Z**2 / total)
    half = (
        _Z / (1 + _Z**2 / total) * math.sqrt(share * (1 - share) / total + _Z**2 / (4 * total**2))
    )
    return max(0.0, middle - half), min(1.0, middle + half)
