"""Krippendorff's α by counting alone, with an interval from pairs drawn anew. Pure.

A pair is five numbers here (`alpha_unit`), so that a million votes need no more room than those.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from annotation.quality.votes_measured import Figure
from annotation.schema import Choice, Vote

DRAWS = 1000
"""Times that the pairs are drawn anew for the interval."""
_CHUNK = 100
_DRAWN_AT_ONCE = 5_000_000
"""Counts of pairs in memory at a time, 8 bytes each, twice."""
_CHOICES = (Choice.A, Choice.B, Choice.TIE, Choice.BOTH_BAD)


def alpha_with_interval(votes: Iterable[Vote]) -> Figure | None:
    """Krippendorff's nominal α over all four answers, each pair entered both ways round.

    With n votes on a pair, of which c_k for answer k, and N votes in all, n_k for answer k:
    α = 1 − (N − 1) · Σ (n² − Σ c_k²) / (n − 1) / (N² − Σ n_k²). The interval is the middle 95 %
    of α over DRAWS draws of as many pairs with replacement, seeded; None where no two votes on one
    pair differ, since draws from such pairs all agree, however few they are. None where no pair
    has two votes, or nothing could differ.
    """
    by_pair: defaultdict[str, Counter[Choice]] = defaultdict(Counter)
    for vote in votes:
        by_pair[vote.pair_id][vote.record_choice] += 1
    tallies = [by_pair[pair] for pair in sorted(by_pair) if by_pair[pair].total() > 1]
    return alpha_of_units(np.array([alpha_unit(tally) for tally in tallies]))


def alpha_of_units(units: NDArray[np.float64]) -> Figure | None:
    """As `alpha_with_interval`, of a row of `alpha_unit` a pair that has two votes, by pair id."""
    if not len(units):
        return None
    value = float(_alphas(units.sum(axis=0)[None])[0])
    if np.isnan(value):
        return None
    if not units[:, 0].any():
        return Figure(value, None, None, len(units))
    drawn = np.concatenate([_draw(units, start) for start in range(0, DRAWS, _CHUNK)])
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return Figure(value, float(low), float(high), len(units))


def alpha_unit(tally: Mapping[Choice, int]) -> list[float]:
    """A pair's disagreement, then how often each answer was given, entered both ways round."""
    n = sum(tally.values())
    disagreement = 2 * (n * n - sum(c * c for c in tally.values())) / (n - 1)
    a, b, tie, bad = (tally.get(choice, 0) for choice in _CHOICES)
    return [disagreement, a + b, a + b, 2 * tie, 2 * bad]


def _draw(units: NDArray[np.float64], start: int) -> NDArray[np.float64]:
    draws = np.random.default_rng(start)
    shares = np.full(len(units), 1 / len(units))
    # A few at a time where there are many pairs: the same draws, in flat memory.
    rows = max(1, min(_CHUNK, _DRAWN_AT_ONCE // len(units)))
    sizes = [min(rows, _CHUNK - done) for done in range(0, _CHUNK, rows)]
    sums = [draws.multinomial(len(units), shares, size=size) @ units for size in sizes]
    return _alphas(np.concatenate(sums))


def _alphas(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """α of each row of summed units; nan where all votes are alike."""
    observed, given = sums[:, 0], sums[:, 1:]
    total = given.sum(axis=1)
    expected = total**2 - (given**2).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected > 0, 1 - (total - 1) * observed / expected, np.nan)
