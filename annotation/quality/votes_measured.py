"""What a dataset's card says of its votes: agreement, leans, noise, each with an interval. Pure.

The same votes give the same figures, in whatever order they come. Loads no pandas and no scipy,
for an export waits for it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from annotation.quality.quality import estimate_flip_rate, went_to_longer, wilson_interval
from annotation.schema import Choice, Pair, Vote


@dataclass(frozen=True, slots=True)
class Figure:
    """A value with its 95 % interval over `count` things; None where none can be told."""

    value: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True, slots=True)
class VotesMeasured:
    """The figures of the votes behind a dataset; None for what they can't tell.

    `alpha` counts pairs that two voters or more judged, as does `flip_rate` with decided votes;
    `side_a` and `longer` are shares of decided votes: to the answer shown first, and to the longer.
    """

    pairs_judged_twice: int
    alpha: Figure | None
    side_a: Figure | None
    longer: Figure | None
    flip_rate: Figure | None


def measure_votes(votes: Iterable[Vote], pairs: Mapping[str, Pair]) -> VotesMeasured:
    """The figures of `votes`, all of which count, on `pairs` by id."""
    # Here for its numpy, which commands that only look at these types need not wait for.
    from annotation.quality.alpha import alpha_with_interval

    votes = list(votes)
    sides = [v.choice is Choice.A for v in votes if v.choice in (Choice.A, Choice.B)]
    longer = [went_to_longer(v, pairs[v.pair_id]) for v in votes]
    flips = estimate_flip_rate(votes)
    return VotesMeasured(
        pairs_judged_twice=sum(n > 1 for n in Counter(v.pair_id for v in votes).values()),
        alpha=alpha_with_interval(votes),
        side_a=_share(sides),
        longer=_share([flag for flag in longer if flag is not None]),
        flip_rate=Figure(flips.rate, flips.low, flips.high, flips.pairs) if flips else None,
    )


def _share(flags: Sequence[bool]) -> Figure | None:
    if not flags:
        return None
    rate = sum(flags) / len(flags)
    return Figure(rate, *wilson_interval(rate, len(flags)), len(flags))
