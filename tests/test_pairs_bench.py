"""The pairs benchmark: its strategies on a pool made by hand, and its table's arithmetic."""

import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from alignment.scripted_voter import Taste
from tests.benchmarks.pair_strategies import (
    RANDOM,
    STRATEGIES,
    Asked,
    Chosen,
    best_half,
    best_so_far,
    bradley_terry,
    content,
    different,
)
from tests.benchmarks.pairs_table import Result, fair_tastes, interval, report

SHORT, PLAIN, POLITE = "In a pond.", "A frog lives in a pond.", "Good question! A frog does."


def asked(*answers: str, prompt: str = "Where does a frog live?") -> Asked:
    hidden = np.arange(len(answers) * 3, dtype=float).reshape(-1, 3) ** 2
    return Asked(prompt, answers, tuple(-float(len(a)) for a in answers), hidden)


def pool(count: int) -> list[Asked]:
    """Prompts of six answers each, of which some are equal."""
    rng = random.Random(1)
    texts = [SHORT, PLAIN, POLITE, "Hmm, I guess in a pond.", "A lake."]
    return [asked(*rng.choices(texts, k=6), prompt=f"Where is frog {n}?") for n in range(count)]


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_shows_different_answers_and_each_prompt_once(name: str) -> None:
    ground = pool(40)
    found = STRATEGIES[name](ground, 12, random.Random(0))
    assert len(found.pairs) == 12
    assert len({p.index for p in found.pairs}) == 12
    for p in found.pairs:
        assert ground[p.index].answers[p.first] != ground[p.index].answers[p.second]
    assert found.drawn >= 24


def test_random_takes_the_first_two_that_differ_and_pays_for_them() -> None:
    ground = [asked(*[SHORT] * 6), asked(SHORT, SHORT, PLAIN, POLITE, SHORT, SHORT)]
    found = STRATEGIES[RANDOM](ground, 1, random.Random(0))
    # Six for the prompt that never gives two, three for the other.
    assert found.pairs == (Chosen(1, 0, 2),)
    assert found.drawn == 9


def test_pairs_come_in_the_order_of_drawing() -> None:
    assert different(asked(SHORT, PLAIN, SHORT, POLITE), 4) == [
        (0, 1),
        (1, 2),
        (0, 3),
        (1, 3),
        (2, 3),
    ]


def test_the_best_half_leaves_out_the_prompts_whose_answers_are_alike() -> None:
    alike, apart = asked(PLAIN, "A frog lives in a big pond."), asked(SHORT, POLITE)
    found = best_half([alike, apart], 1, random.Random(0), draws=2, score=content)
    assert found.pairs == (Chosen(1, 0, 1),)
    assert found.drawn == 4


def test_what_votes_like_is_found_in_the_words() -> None:
    moved = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]] * 20)
    weights = bradley_terry(moved, np.array([1.0, 0.5, 1.0] * 20))
    assert weights[0] > 1
    assert abs(weights[1]) < 1
    # All ties: nothing is liked.
    assert bradley_terry(moved, np.full(60, 0.5)) == pytest.approx([0, 0])


def test_learning_shows_the_answer_that_was_voted_for() -> None:
    ground = pool(60)
    likes_polite = lambda a, one, _other: float(a.answers[one] == POLITE)  # noqa: E731
    choose = partial(best_so_far, draws=6, ahead=0)
    found = choose(ground, 40, likes_polite)
    shown = [
        POLITE in (ground[p.index].answers[p.first], ground[p.index].answers[p.second])
        for p in found.pairs[20:]
    ]
    had = [POLITE in ground[p.index].answers for p in found.pairs[20:]]
    assert shown == had
    assert sum(had) >= 10


def result(strategy: str, taste: Taste, win: float, seed: int = 1, examples: int = 40) -> Result:
    return Result(
        strategy, taste, seed, False, 80, 160, examples, 36, win, 0.98, 0.01, 0.02, 12.0, 9.0
    )


def test_a_taste_with_nothing_to_decide_counts_in_no_mean() -> None:
    base = [result(RANDOM, "polite", 0.7), result(RANDOM, "correct", 0.5, examples=4)]
    assert fair_tastes({(r.seed, r.taste): r for r in base}) == ["polite"]


def test_the_goal_is_judged_on_gains_of_the_same_seed_and_voter() -> None:
    base = [result(RANDOM, "polite", 0.6), result(RANDOM, "short", 0.7)]
    name = "edit distance of 4"
    better = [result(name, "polite", 0.7), result(name, "short", 0.69)]
    # Gains .10 and -.01: mean .045, the worst voter above -.02.
    assert "| +0.045 [" in report([*base, *better])
    assert report([*base, *better]).endswith("| met |")
    worse = [better[0], result(name, "short", 0.67)]
    assert report([*base, *worse]).endswith("| NOT met (gain -0.005, worst voter -0.010) |")
    wrong = [replace(r, correct_lost=0.02) for r in better]
    assert report([*base, *wrong]).endswith("| NOT met (correct -0.010) |")


def test_the_interval_holds_the_mean_and_is_a_point_where_nothing_differs() -> None:
    assert interval({(1, "polite"): 0.1, (2, "polite"): 0.1}) == pytest.approx((0.1, 0.1))
    low, high = interval({(s, "polite"): s / 100 for s in range(1, 11)})
    assert 0.01 < low < 0.055 < high < 0.1
