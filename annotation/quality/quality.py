"""How far votes can be trusted as a whole: agreement, noise, leans, each with its interval.

Pure: votes and pairs in, figures out. Knows no journal, no page and no model. What a single voter
does is in `voter_health`.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date

from annotation.schema import Choice, Pair, PairKind, Vote

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


@dataclass(frozen=True, slots=True)
class Alpha:
    """Krippendorff's α of `votes` votes on the `pairs` pairs that have two or more.

    1 is full agreement and 0 what chance would give; below 0 voters contradict each other.
    """

    value: float
    votes: int
    pairs: int


@dataclass(frozen=True, slots=True)
class SplitPair:
    """A pair that no answer won: how many votes each choice has, in the record's order."""

    pair_id: str
    tally: Mapping[Choice, int]


@dataclass(frozen=True, slots=True)
class Quality:
    """What the votes that count say of themselves; checks (gold, repeats) are in none of it.

    `agreement` is how many decided votes side with the majority of the others on their pair,
    `side_a` and `longer` how many went to the answer shown first and to the longer one. `days`
    are UTC days from the first vote's to the last one's, with how many votes each has.
    """

    votes: int
    voters: int
    pairs: int
    days: tuple[tuple[date, int], ...]
    alpha: Alpha | None
    agreement: Share | None
    side_a: Share | None
    longer: Share | None
    flip_rate: FlipRate | None
    split_pairs: tuple[SplitPair, ...]


def summarise_quality(votes: Iterable[Vote], pairs: Mapping[str, Pair]) -> Quality:
    """The figures of the votes that count; a vote on a pair that is not in `pairs` is left out."""
    counting = [vote for vote in ordinary_votes(votes, pairs) if vote.counts]
    return Quality(
        votes=len(counting),
        voters=len({vote.voter for vote in counting}),
        pairs=len({vote.pair_id for vote in counting}),
        days=_votes_by_day(counting),
        alpha=krippendorff_alpha(counting),
        agreement=share_of_flags(agreements(counting, decided_votes_by_pair(counting))),
        side_a=share_for_side_a(counting),
        longer=share_of_flags(went_to_longer(vote, pairs[vote.pair_id]) for vote in counting),
        flip_rate=estimate_flip_rate(counting),
        split_pairs=_split_pairs(counting),
    )


def ordinary_votes(votes: Iterable[Vote], pairs: Mapping[str, Pair]) -> list[Vote]:
    """Live votes that judge a pair, whether or not they count; no skip and no check."""
    return [
        vote
        for vote in votes
        if vote.superseded_at is None
        and vote.choice is not Choice.SKIP
        and (pair := pairs.get(vote.pair_id)) is not None
        and pair.kind in (PairKind.POOL, PairKind.OWN)
    ]


def krippendorff_alpha(votes: Iterable[Vote]) -> Alpha | None:
    """Agreement beyond chance over all four answers, ties and "both bad" too (nominal).

    None where no pair has two votes, or where all votes are alike in a way that leaves nothing
    to disagree on. Which answer of a pair is its first is arbitrary and α depends on it, so each
    pair is entered both ways round.
    """
    by_pair: defaultdict[str, list[Choice]] = defaultdict(list)
    for vote in votes:
        by_pair[vote.pair_id].append(vote.record_choice)
    overlaps = [choices for choices in by_pair.values() if len(choices) > 1]
    if not overlaps:
        return None
    # A second and a half where nothing else has loaded pandas.
    import evalica
    import pandas as pd

    # α counts how often each value was given to a unit, not who gave it: any row will do.
    units = [way for chosen in overlaps for way in (chosen, [_mirrored(c) for c in chosen])]
    found = evalica.alpha(pd.DataFrame(units, dtype=object).T, distance="nominal")
    if not found.expected:
        return None
    return Alpha(float(found.alpha), sum(map(len, overlaps)), len(overlaps))


def agreements(votes: Iterable[Vote], tallies: Mapping[str, Counter[Choice]]) -> list[bool]:
    """For each decided vote that can tell: does it side with the majority of the others?

    `tallies` are the decided votes that it is compared with; one that counts is taken out of its
    own. Where the others are none or evenly split, a vote can't tell.
    """
    return [lead > 0 for vote in votes if (lead := lead_of_others(vote, tallies))]


def lead_of_others(vote: Vote, tallies: Mapping[str, Counter[Choice]], *, own: bool = True) -> int:
    """By how many votes the others on its pair are for this decided vote's answer; below 0 against.

    `own` says whether `tallies` hold this vote, if it counts. 0 for an undecided vote.
    """
    tally = tallies.get(vote.pair_id)
    if tally is None or vote.choice not in (Choice.A, Choice.B):
        return 0
    mine = vote.record_choice
    other = Choice.B if mine is Choice.A else Choice.A
    return tally[mine] - (own and vote.counts) - tally[other]


def went_to_longer(vote: Vote, pair: Pair) -> bool | None:
    """Whether a vote chose the answer of more characters; None where it can't say."""
    preference = pair.resolve(vote.choice, vote.flipped)
    if preference is None:
        return None
    gap = len(preference.chosen.text) - len(preference.rejected.text)
    return gap > 0 if gap else None


def share_of_flags(flags: Iterable[bool | None]) -> Share | None:
    """The share of True among what is not None; None of nothing."""
    said = [flag for flag in flags if flag is not None]
    return share_of(sum(said), len(said))


def share_of(count: int, total: int) -> Share | None:
    """`count` of `total` with its interval and test, or None of nothing."""
    if total == 0:
        return None
    # Imported here for its time, which a vote need not take; scipy.stats would take four times it.
    from scipy.special import bdtr

    low, high = wilson_interval(count / total, total)
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
    tallies = decided_votes_by_pair(votes).values()
    return flip_rate_of_tallies(Counter((t[Choice.A], t[Choice.B]) for t in tallies))


def flip_rate_of_tallies(pairs: Mapping[tuple[int, int], int]) -> FlipRate | None:
    """As `estimate_flip_rate`, of how many pairs have (a, b) decided votes for their two answers.

    The same in whatever order they come.
    """
    overlaps = {(a, b): count for (a, b), count in pairs.items() if a + b > 1}
    if not overlaps:
        return None
    # Differing comparisons and all of them, and the pairs that have so many.
    compared = [(a * b, math.comb(a + b, 2), count) for (a, b), count in overlaps.items()]
    total = sum(all_ * count for _, all_, count in compared)
    d = sum(differing * count for differing, _, count in compared) / total
    error = _ratio_error(compared)
    # No spread seen, all alike or a single pair: then a pair is one comparison, at the most.
    effective = min(total, d * (1 - d) / error**2) if error > 0 else float(sum(overlaps.values()))
    low, high = wilson_interval(d, effective)
    slope = math.sqrt(max(0.0, 1 - 2 * d))
    return FlipRate(
        rate=_from_disagreement(d),
        standard_error=error / (2 * slope) if slope else None,
        low=_from_disagreement(low),
        high=_from_disagreement(high),
        disagreement=d,
        compared=total,
        votes=sum((a + b) * count for (a, b), count in overlaps.items()),
        pairs=sum(overlaps.values()),
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


def _votes_by_day(votes: Iterable[Vote]) -> tuple[tuple[date, int], ...]:
    counts = Counter(vote.created_at.astimezone(UTC).date() for vote in votes)
    if not counts:
        return ()
    days = range(min(counts).toordinal(), max(counts).toordinal() + 1)
    return tuple((day, counts[day]) for day in map(date.fromordinal, days))


def _split_pairs(votes: Iterable[Vote]) -> tuple[SplitPair, ...]:
    """Pairs of two votes or more without a strict majority, those with most votes first."""
    tallies: defaultdict[str, Counter[Choice]] = defaultdict(Counter)
    for vote in votes:
        tallies[vote.pair_id][vote.record_choice] += 1
    split = [
        SplitPair(pair_id, dict(tally))
        for pair_id, tally in tallies.items()
        if tally.total() > 1 and 2 * max(tally.values()) <= tally.total()
    ]
    return tuple(sorted(split, key=lambda pair: (-sum(pair.tally.values()), pair.pair_id)))


def _mirrored(choice: Choice) -> Choice:
    return {Choice.A: Choice.B, Choice.B: Choice.A}.get(choice, choice)


def _more_than_half(rate: float, votes: int) -> float:
    return sum(
        math.comb(votes, k) * rate**k * (1 - rate) ** (votes - k)
        for k in range(votes // 2 + 1, votes + 1)
    )


def _from_disagreement(d: float) -> float:
    return (1 - math.sqrt(max(0.0, 1 - 2 * d))) / 2


def _ratio_error(items: Iterable[tuple[int, int, int]]) -> float:
    """Standard error of Σ counts / Σ totals when whole items are drawn (linearised ratio).

    `items` are a count, a total, and how many items have these two.
    """
    items = sorted(items)
    n = sum(times for _, _, times in items)
    total = sum(t * times for _, t, times in items)
    if n < 2:
        return 0.0
    ratio = sum(c * times for c, _, times in items) / total
    squares = math.fsum((c - ratio * t) ** 2 * times for c, t, times in items)
    return math.sqrt(squares * n / (n - 1)) / total


def wilson_interval(share: float, total: float) -> tuple[float, float]:
    """Wilson's 95 % interval (1927); `total` need not be whole."""
    middle = (share + _Z**2 / (2 * total)) / (1 + _Z**2 / total)
    half = (
        _Z / (1 + _Z**2 / total) * math.sqrt(share * (1 - share) / total + _Z**2 / (4 * total**2))
    )
    return max(0.0, middle - half), min(1.0, middle + half)
