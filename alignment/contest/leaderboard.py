"""The leaderboard: win rates, strengths and their intervals, from blind comparisons.

Pure: comparisons in, rows out. A number stands only where it can be told: too few votes, never
lost, never won and never compared are states, shown as such. Which comparisons are closed, and so
may be shown to voters, is the caller's business.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from alignment.contest.comparisons import Comparison
from alignment.contest.ratings import Placement, Strength, models_of, placements, strengths
from annotation.quality.quality import wilson_interval
from annotation.schema import ModelRef

MIN_DECIDED = 20
"""Decided votes below which a rate says nothing worth reading."""


class Standing(StrEnum):
    """What can be said of a model."""

    PLACED = "placed"
    NOT_ENOUGH_VOTES = "not enough votes"
    NEVER_LOST = "never lost"
    NEVER_WON = "never won"
    NEVER_COMPARED = "never compared with the base"


@dataclass(frozen=True, slots=True)
class WinRate:
    """Blind votes of one model against another. `rate` has its 95 % Wilson interval.

    A tie gives half a win to each side; with nothing counted, `rate`, `low` and `high` are nan.
    """

    model: ModelRef
    over: ModelRef
    wins: int
    losses: int
    ties: int
    rate: float
    low: float
    high: float

    @property
    def n(self) -> int:
        return self.wins + self.losses + self.ties


@dataclass(frozen=True, slots=True)
class Row:
    """One model. `strength` and `controlled` (length and markdown taken out) are over the base.

    Both are None where `standing` is not PLACED. `decided` counts its votes that are no tie.
    """

    model: ModelRef
    standing: Standing
    voters: int
    decided: int
    over_base: WinRate | None
    strength: Strength | None
    controlled: Strength | None


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """Models, strongest first and those without a number behind; and every pair that was judged."""

    rows: tuple[Row, ...]
    duels: tuple[WinRate, ...]


def win_rate(comparisons: Sequence[Comparison], model: ModelRef, over: ModelRef) -> WinRate:
    """How often `model` was preferred to `over` in the votes on these two."""
    outcomes = [o for c in comparisons if (o := c.outcome_for(model, over)) is not None]
    wins, losses, ties = (outcomes.count(kind) for kind in ("win", "loss", "tie"))
    n = len(outcomes)
    rate = (wins + ties / 2) / n if n else float("nan")
    low, high = wilson_interval(rate, n) if n else (float("nan"), float("nan"))
    return WinRate(model, over, wins, losses, ties, rate, low, high)


def build_leaderboard(comparisons: Sequence[Comparison], base: ModelRef) -> Leaderboard:
    """Everything that the votes say of the models compared, and of the base."""
    placed = placements(comparisons, base)
    plain = {s.model: s for s in strengths(comparisons, base)}
    controlled = {s.model: s for s in strengths(comparisons, base, controlled=True)}
    rows = [
        _row(model, base, comparisons, placed[model], plain.get(model), controlled.get(model))
        for model in models_of(comparisons, base)
    ]
    rows.sort(key=lambda row: -row.strength.elo if row.strength else float("inf"))
    return Leaderboard(tuple(rows), tuple(_duels(comparisons, base)))


def _row(
    model: ModelRef,
    base: ModelRef,
    comparisons: Sequence[Comparison],
    placement: Placement,
    plain: Strength | None,
    controlled: Strength | None,
) -> Row:
    own = [c for c in comparisons if model in (c.first, c.second)]
    decided = sum(c.outcome != "tie" for c in own)
    standing = Standing.PLACED
    if placement is Placement.NEVER_COMPARED:
        standing = Standing.NEVER_COMPARED
    elif decided < MIN_DECIDED and model != base:
        standing = Standing.NOT_ENOUGH_VOTES
    elif placement is not Placement.PLACED:
        standing = Standing.NEVER_LOST if placement is Placement.NEVER_LOST else Standing.NEVER_WON
    told = standing is Standing.PLACED
    over_base = win_rate(comparisons, model, base) if model != base else None
    return Row(
        model=model,
        standing=standing,
        voters=len({c.voter for c in own}),
        decided=decided,
        over_base=over_base if over_base and over_base.n else None,
        strength=plain if told else None,
        controlled=controlled if told else None,
    )


def _duels(comparisons: Sequence[Comparison], base: ModelRef) -> list[WinRate]:
    """Each pair of models that was judged, the later model first."""
    models = models_of(comparisons, base)
    pairs = [(models[n], models[m]) for n in range(len(models)) for m in range(n)]
    return [duel for a, b in pairs if (duel := win_rate(comparisons, a, b)).n]
