"""Which two answers become a pair, by answers written by hand."""

import random

import pytest

from annotation.choosing import (
    MOST_WORDS,
    Chosen,
    EditDistance,
    Mixed,
    Random,
    Strategy,
    edit_distance,
    strategy_named,
    words,
)
from annotation.schema import Prompt

ASK = Prompt.from_text("Where does a frog live?")
SHORT = "In a pond."
PLAIN = "A frog lives in a pond."
DEEP = "A frog lives in a deep pond."
POLITE = "Good question! A frog lives in a pond. I hope that helps!"


def slow_distance(first: list[str], second: list[str]) -> int:
    """Levenshtein by its definition."""
    if not first or not second:
        return len(first) + len(second)
    return min(
        slow_distance(first[1:], second) + 1,
        slow_distance(first, second[1:]) + 1,
        slow_distance(first[1:], second[1:]) + (first[0] != second[0]),
    )


def test_words_and_marks_are_counted_alike() -> None:
    assert words("It's 7, or oink-oink!") == ["it's", "7", ",", "or", "oink-oink", "!"]


@pytest.mark.parametrize(
    ("first", "second", "far"),
    [
        (PLAIN, PLAIN.upper(), 0),
        (PLAIN, DEEP, 1),  # deep put in
        (SHORT, PLAIN, 3),  # a, frog and lives put in before
        (PLAIN, POLITE, 8),  # good question ! before, i hope that helps ! for nothing
        ("", SHORT, 4),
        ("", "", 0),
    ],
)
def test_distance_is_the_fewest_words_to_touch(first: str, second: str, far: int) -> None:
    assert edit_distance(words(first), words(second)) == far
    assert edit_distance(words(second), words(first)) == far


def test_distance_agrees_with_its_definition() -> None:
    rng = random.Random(0)
    for _ in range(200):
        first, second = (rng.choices("abc", k=rng.randrange(6)) for _ in range(2))
        assert edit_distance(first, second) == slow_distance(first, second)


@pytest.mark.parametrize("name", ["random", "edit_distance", "mixed"])
def test_every_strategy_ends_with_two_places_or_none(name: str) -> None:
    strategy: Strategy = strategy_named(name)  # type: ignore[arg-type]
    for prompt in (Prompt.from_text(f"Number {n}?") for n in range(20)):
        for answers in ([], [SHORT]):
            assert strategy.choose(prompt, answers, more=False) is None
        for count in (2, 3, 4):
            found = strategy.choose(prompt, [SHORT, PLAIN, POLITE, DEEP][:count], more=False)
            assert found is not None
            assert 0 <= found.first < found.second < count


def test_random_takes_what_came_first_and_asks_for_no_more() -> None:
    assert Random().choose(ASK, [SHORT, PLAIN, POLITE], more=True) == Chosen(0, 1, "random")


def test_edit_distance_waits_for_its_answers_and_takes_the_farthest() -> None:
    strategy = EditDistance()
    assert strategy.choose(ASK, [SHORT, POLITE], more=True) is None
    # 11 words from the short one to the polite one; 1 to 9 between the others.
    answers = [PLAIN, SHORT, DEEP, POLITE]
    assert strategy.choose(ASK, answers, more=False) == Chosen(1, 3, "edit_distance")
    # Equals go to those that were drawn first.
    assert strategy.choose(ASK, [PLAIN, DEEP, "A frog lives in a dark pond."], more=False) == (
        Chosen(0, 1, "edit_distance")
    )


def test_long_answers_are_compared_by_their_beginnings() -> None:
    same = "word " * MOST_WORDS
    far = EditDistance().choose(ASK, [same + "one", same + "two", "x " + same], more=False)
    assert far == Chosen(0, 2, "edit_distance")


def test_mixed_halves_the_prompts_and_sticks_to_it() -> None:
    strategy, answers = Mixed(), [PLAIN, DEEP, SHORT, POLITE]
    asked = [Prompt.from_text(f"Question {n}?") for n in range(400)]
    chosen = [strategy.choose(prompt, answers, more=False) for prompt in asked]
    assert chosen == [strategy.choose(prompt, answers, more=False) for prompt in asked]
    assert {c.by: (c.first, c.second) for c in chosen if c} == {
        "random": (0, 1),
        "edit_distance": (2, 3),
    }
    # Binomial(400, 1/2): a standard deviation of 10, four of them.
    assert 160 < sum(c is not None and c.by == "random" for c in chosen) < 240
    # Random's half never waits for more answers.
    waits = [strategy.choose(prompt, answers, more=True) is None for prompt in asked]
    assert waits == [c is not None and c.by == "edit_distance" for c in chosen]
