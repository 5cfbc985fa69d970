"""Strengths of models from blind comparisons: Bradley-Terry with Davidson's ties.

Pure: comparisons in, strengths out. With d = θ_i − θ_j (+ γ·x, where length and markdown are
controlled), Davidson (1970, JASA 65:317–328) has

    P(i wins) : P(j wins) : P(tie) = exp(d/2) : exp(−d/2) : ν,

a multinomial logit, whose log-likelihood is concave in θ, γ and log ν. Intervals come from
resampling voters, since votes of one voter share that voter's taste. A model that is not held from
both sides (Ford's condition, 1957: some chain of wins or ties leads from it to the base and back)
has no finite strength; `placements` says so, and no number is given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from alignment.contest.comparisons import Comparison
from annotation.schema import ModelRef

ELO = 400 / np.log(10)
"""Points of Elo's scale for one unit of θ."""
RESAMPLES = 1000
_RIDGE = 1e-6
_STEPS = 50
_TOLERANCE = 1e-9
_SIGNS = {"win": 0, "loss": 1, "tie": 2}
Array = NDArray[np.float64]


class Placement(StrEnum):
    """Whether a model's strength over the base can be told from the votes.

    A chain of wins and ties leads both ways, or in one direction only, or in none.
    """

    PLACED = "placed"
    NEVER_LOST = "never lost"
    NEVER_WON = "never won"
    NEVER_COMPARED = "never compared"


@dataclass(frozen=True, slots=True)
class Strength:
    """A model's strength over the base in Elo points, with a 95 % interval over voters."""

    model: ModelRef
    elo: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class _Design:
    """Comparisons as arrays, equal ones as one row: n rows, k columns, v voters.

    `features`: (n, k) of d; `outcome`: (n,) of 0 win, 1 loss, 2 tie; `cast`: (v, n), how many
    votes each voter cast on each row. The base's θ is 0, so models 1.. have a column each, and
    the covariates one each behind them.
    """

    features: Array
    outcome: NDArray[np.int_]
    cast: Array


def placements(comparisons: Sequence[Comparison], base: ModelRef) -> dict[ModelRef, Placement]:
    """Whether each compared model, and the base, can be placed against the base."""
    models = models_of(comparisons, base)
    index = {model: n for n, model in enumerate(models)}
    beats = np.zeros((len(models), len(models)), dtype=bool)
    for c in comparisons:
        first, second = index[c.first], index[c.second]
        beats[first, second] |= c.outcome in ("win", "tie")
        beats[second, first] |= c.outcome in ("loss", "tie")
    below, above = _reachable(beats, 0), _reachable(beats.T, 0)

    def place(n: int) -> Placement:
        if below[n] and above[n]:
            return Placement.PLACED
        if below[n]:
            return Placement.NEVER_WON
        return Placement.NEVER_LOST if above[n] else Placement.NEVER_COMPARED

    return {model: place(n) for n, model in enumerate(models)}


def strengths(
    comparisons: Sequence[Comparison],
    base: ModelRef,
    *,
    controlled: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Strength]:
    """Strengths of the models that can be placed, strongest first; the base is 0.

    `controlled` takes length and markdown out: what is left is what the models would win between
    answers alike in both. The base has no interval of its own: [0, 0].
    """
    placed = [m for m, p in placements(comparisons, base).items() if p is Placement.PLACED]
    ours = [c for c in comparisons if c.first in placed and c.second in placed]
    if not ours:
        return []
    design = _design(ours, placed, controlled)
    fitted = _fit(design, design.cast.sum(axis=0))
    voters = len(design.cast)
    drawn = np.random.default_rng(seed).multinomial(voters, np.full(voters, 1 / voters), resamples)
    draws = np.array([_fit(design, times @ design.cast, start=fitted) for times in drawn])
    low, high = np.quantile(draws, (0.025, 0.975), axis=0) * ELO
    rated = [Strength(base, 0.0, 0.0, 0.0)]
    for n, model in enumerate(placed[1:]):
        rated.append(Strength(model, float(fitted[n] * ELO), float(low[n]), float(high[n])))
    return sorted(rated, key=lambda strength: -strength.elo)


def models_of(comparisons: Sequence[Comparison], base: ModelRef) -> list[ModelRef]:
    """The base, then every other model compared, in the order of its first comparison."""
    return list(dict.fromkeys([base, *(m for c in comparisons for m in (c.first, c.second))]))


def _design(
    comparisons: Sequence[Comparison], models: Sequence[ModelRef], controlled: bool
) -> _Design:
    index = {model: n for n, model in enumerate(models)}
    voters = {voter: n for n, voter in enumerate(dict.fromkeys(c.voter for c in comparisons))}
    features = np.zeros((len(comparisons), len(models) + 2))
    for row, c in enumerate(comparisons):
        features[row, index[c.first]] += 1
        features[row, index[c.second]] -= 1
        features[row, -2:] = (c.length, c.markdown) if controlled else (0.0, 0.0)
    outcome = np.array([_SIGNS[c.outcome] for c in comparisons])
    rows, place = np.unique(
        np.column_stack([features[:, 1:], outcome]), axis=0, return_inverse=True
    )
    cast = np.zeros((len(voters), len(rows)))
    np.add.at(cast, (np.array([voters[c.voter] for c in comparisons]), place.ravel()), 1)
    return _Design(rows[:, :-1], rows[:, -1].astype(int), cast)


def _fit(design: _Design, weights: Array, start: Array | None = None) -> Array:
    """(θ of models 1.., γ of length and markdown, log ν) by damped Newton with a small ridge."""
    columns = design.features.shape[1] + 1
    beta = np.zeros(columns) if start is None else start.copy()
    value = _objective(design, weights, beta)
    for _ in range(_STEPS):
        gradient, hessian = _derivatives(design, weights, beta)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while (new := _objective(design, weights, beta - size * step)) > value and size > 1e-6:
            size /= 2
        beta, value = beta - size * step, min(new, value)
        if float(np.abs(size * step).max()) < _TOLERANCE:
            break
    return beta


def _log_shares(design: _Design, beta: Array) -> Array:
    """(n, 3): log P(win), log P(loss), log P(tie)."""
    half = design.features @ beta[:-1] / 2
    scores = np.stack([half, -half, np.full_like(half, beta[-1])], axis=1)
    shifted = scores - scores.max(axis=1, keepdims=True)
    found: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


def _objective(design: _Design, weights: Array, beta: Array) -> float:
    chosen = _log_shares(design, beta)[np.arange(len(design.outcome)), design.outcome]
    return float(-(weights * chosen).sum() + _RIDGE * (beta**2).sum() / 2)


def _derivatives(design: _Design, weights: Array, beta: Array) -> tuple[Array, Array]:
    """Gradient and Hessian of `_objective`: those of a multinomial logit, plus the ridge."""
    win, loss, tie = np.exp(_log_shares(design, beta)).T
    z, rows = design.features / 2, np.arange(len(design.outcome))
    signs = np.array([1.0, -1.0, 0.0])[design.outcome]
    mean = win - loss
    residual_d = weights * (mean - signs)
    residual_tie = weights * (tie - (design.outcome == 2))
    gradient = np.append(z.T @ residual_d, residual_tie.sum()) + _RIDGE * beta
    spread = weights * (win + loss - mean**2)
    cross = -(z.T @ (weights * mean * tie))
    hessian = np.empty((len(beta), len(beta)))
    hessian[:-1, :-1] = z.T @ (spread[rows, None] * z)
    hessian[:-1, -1] = hessian[-1, :-1] = cross
    hessian[-1, -1] = (weights * tie * (1 - tie)).sum()
    return gradient, hessian + _RIDGE * np.eye(len(beta))


def _reachable(beats: NDArray[np.bool_], start: int) -> NDArray[np.bool_]:
    """Which models a chain of wins and ties leads to from `start`."""
    reached = np.zeros(len(beats), dtype=bool)
    reached[start] = True
    while (wider := reached | beats[reached].any(axis=0)).sum() > reached.sum():
        reached = wider
    return reached
