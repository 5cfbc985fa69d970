"""What a dataset's card says of its votes: agreement, leans, noise, each with an interval.

Owns the types alone; `votes_meter` measures.
"""

from dataclasses import dataclass


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
