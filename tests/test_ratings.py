"""Strengths by hand, by another implementation, and where there are none."""

import math
from collections import Counter
from itertools import combinations

import evalica
import numpy as np
import pytest

from alignment.contest.comparisons import Comparison, Outcome
from alignment.contest.ratings import ELO, Placement, placements, strengths
from annotation.schema import ModelRef

BASE = ModelRef("starter", "1" * 40)
TUNED = [ModelRef("starter", "1" * 40, f"run-{n}", str(n) * 40) for n in range(4)]


def some(first: ModelRef, second: ModelRef, **outcomes: int) -> list[Comparison]:
    """Comparisons by as many voters; `outcomes` are those of `first`: win, loss, tie."""
    names: list[Outcome] = ["win", "loss", "tie"]
    return [
        Comparison(f"{o}-{n}", first, second, o) for o in names for n in range(outcomes.get(o, 0))
    ]


def elo(found: list[Comparison], **options: bool) -> dict[ModelRef, float]:
    return {s.model: s.elo for s in strengths(found, BASE, resamples=2, **options)}


def test_two_models_are_the_log_odds_whatever_the_ties() -> None:
    # Davidson on two models fits the three shares exactly: wins/losses = exp(d).
    for ties in (0, 5, 500):
        found = elo(some(TUNED[0], BASE, win=30, loss=10, tie=ties))
        assert found[TUNED[0]] == pytest.approx(400 * math.log10(3), abs=1e-3)
        assert found[BASE] == 0


def test_strengths_agree_with_a_published_implementation() -> None:
    """evalica 0.4 on the same votes, without ties, where both are plain Bradley-Terry."""
    generator = np.random.default_rng(5)
    truth = dict(zip([BASE, *TUNED], (0.0, 0.4, -0.3, 1.1, 0.7), strict=True))
    ours = []
    for first, second in combinations(truth, 2):
        chance = 1 / (1 + math.exp(truth[second] - truth[first]))
        won = int(generator.binomial(80, chance))
        ours += some(first, second, win=won, loss=80 - won)
    names = [(str(c.first.adapter), str(c.second.adapter)) for c in ours]
    winners = [evalica.Winner.X if c.outcome == "win" else evalica.Winner.Y for c in ours]
    theirs = evalica.bradley_terry(
        [x for x, _ in names], [y for _, y in names], winners, tolerance=1e-12, limit=10_000
    ).scores
    found = elo(ours)
    for model in TUNED:
        expected = math.log(theirs[str(model.adapter)] / theirs["None"]) * ELO
        assert found[model] == pytest.approx(expected, abs=0.01)


def test_which_side_was_shown_first_does_not_matter() -> None:
    one = elo(some(TUNED[0], BASE, win=9, loss=4, tie=3))
    other = elo(some(BASE, TUNED[0], win=4, loss=9, tie=3))
    assert one[TUNED[0]] == pytest.approx(other[TUNED[0]], abs=1e-6)


def test_a_taste_for_length_is_taken_out_where_asked() -> None:
    """Voters prefer the longer answer at odds e² per unit; the models are equal."""
    generator = np.random.default_rng(3)
    found = []
    for n in range(4000):
        length = float(generator.normal(0.3, 0.3))  # the tuned model writes more
        won = generator.random() < 1 / (1 + math.exp(-2 * length))
        outcome: Outcome = "win" if won else "loss"
        found.append(Comparison(f"v{n}", TUNED[0], BASE, outcome, length=length))
    assert elo(found)[TUNED[0]] > 70
    assert abs(elo(found, controlled=True)[TUNED[0]]) < 25


def test_models_that_no_chain_holds_have_no_number() -> None:
    found = [
        *some(TUNED[0], BASE, win=3, loss=1),
        *some(TUNED[1], TUNED[0], win=2),
        *some(BASE, TUNED[2], win=5),
        *some(TUNED[3], TUNED[2], win=1),
    ]
    assert placements(found, BASE) == {
        BASE: Placement.PLACED,
        TUNED[0]: Placement.PLACED,
        TUNED[1]: Placement.NEVER_LOST,
        TUNED[2]: Placement.NEVER_WON,
        TUNED[3]: Placement.NEVER_COMPARED,
    }
    assert set(elo(found)) == {BASE, TUNED[0]}
    # One tie holds it from the other side.
    held = placements([*found, *some(TUNED[1], TUNED[0], tie=1)], BASE)
    assert held[TUNED[1]] is Placement.PLACED


def test_without_votes_there_is_only_the_base() -> None:
    assert placements([], BASE) == {BASE: Placement.PLACED}
    assert strengths([], BASE) == []


def test_intervals_come_from_voters_not_votes() -> None:
    """The same 200 votes of 100 people or of 4 who never change their mind."""
    outcomes: list[Outcome] = ["win"] * 120 + ["loss"] * 80
    many = [Comparison(f"v{n % 100}", TUNED[0], BASE, o) for n, o in enumerate(outcomes)]
    few = [Comparison(f"{o}-{n % 2}", TUNED[0], BASE, o) for n, o in enumerate(outcomes)]

    def width(found: list[Comparison]) -> float:
        top = next(s for s in strengths(found, BASE, resamples=200) if s.model == TUNED[0])
        assert top.low < top.elo < top.high
        return top.high - top.low

    assert Counter(c.outcome for c in many) == Counter(c.outcome for c in few)
    assert width(few) > 3 * width(many)


def test_the_same_seed_gives_the_same_intervals() -> None:
    found = some(TUNED[0], BASE, win=12, loss=8, tie=2)
    assert strengths(found, BASE, resamples=50) == strengths(found, BASE, resamples=50)
