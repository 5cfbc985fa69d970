"""Measures the votes behind a dataset, pair by pair: agreement, leans, noise. Pure.

The same votes give the same figures, in whatever order they were cast. Keeps five numbers a pair
and no vote. Loads no pandas and no scipy, for an export waits for it.
"""

from array import array
from collections import Counter
from collections.abc import Sequence

import numpy as np

from annotation.quality.alpha import alpha_of_units, alpha_unit
from annotation.quality.quality import flip_rate_of_tallies, wilson_interval
from annotation.quality.votes_measured import Figure, VotesMeasured
from annotation.schema import Choice, Pair, Vote


class VotesMeter:
    """Takes pairs with all votes on them that count, in the order of the pairs' ids."""

    def __init__(self) -> None:
        self._units = array("d")
        self._decided: Counter[tuple[int, int]] = Counter()
        self._side_a = 0
        self._longer = self._of_two_lengths = 0

    def take(self, pair: Pair, votes: Sequence[Vote]) -> None:
        tally = Counter(vote.record_choice for vote in votes)
        first, second = tally[Choice.A], tally[Choice.B]
        self._decided[first, second] += 1
        self._side_a += sum(vote.choice is Choice.A for vote in votes)
        lengths = [len(completion.text) for completion in pair.completions]
        if lengths[0] != lengths[1]:
            self._of_two_lengths += first + second
            self._longer += first if lengths[0] > lengths[1] else second
        if len(votes) > 1:
            self._units.extend(alpha_unit(tally))

    def measured(self) -> VotesMeasured:
        """The figures of all votes taken so far."""
        units = np.frombuffer(self._units).reshape(-1, 5)
        flips = flip_rate_of_tallies(self._decided)
        decided = sum((a + b) * pairs for (a, b), pairs in self._decided.items())
        return VotesMeasured(
            pairs_judged_twice=len(units),
            alpha=alpha_of_units(units),
            side_a=_share(self._side_a, decided),
            longer=_share(self._longer, self._of_two_lengths),
            flip_rate=Figure(flips.rate, flips.low, flips.high, flips.pairs) if flips else None,
        )


def _share(count: int, total: int) -> Figure | None:
    if not total:
        return None
    rate = count / total
    return Figure(rate, *wilson_interval(rate, total), total)
