"""Win rates by hand, states instead of numbers, and what the page draws of both."""

import math
from datetime import UTC, datetime

import pytest

from alignment.contest.comparisons import Comparison, Outcome, comparisons_of
from alignment.contest.gate import decide
from alignment.contest.leaderboard import MIN_DECIDED, Standing, build_leaderboard, win_rate
from alignment.contest.promotions import Promotion
from alignment.web.contest.leaderboard_view import draw_gate, draw_leaderboard, draw_promotions
from annotation.schema import (
    Choice,
    Completion,
    ModelRef,
    Pair,
    PairKind,
    Prompt,
    Sampling,
    Vote,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
BASE = ModelRef("starter", "1" * 40)
ONE, TWO = (ModelRef("starter", "1" * 40, f"run-{n}", str(n) * 40) for n in (1, 2))
NAMES = {BASE: "base", ONE: "run-1", TWO: "<b>run-2</b>"}


def some(first: ModelRef, second: ModelRef, **outcomes: int) -> list[Comparison]:
    names: list[Outcome] = ["win", "loss", "tie"]
    return [
        Comparison(f"{o}{n}", first, second, o) for o in names for n in range(outcomes.get(o, 0))
    ]


def test_a_win_rate_counts_ties_half_and_has_wilsons_interval() -> None:
    # 7 + 2/2 of 11 = 8/11. Wilson: centre (p + z²/2n)/(1 + z²/n), half z·√(p(1−p)/n + z²/4n²)/(…).
    found = win_rate(some(ONE, BASE, win=7, loss=2, tie=2), ONE, BASE)
    z, n, p = 1.959963984540054, 11, 8 / 11
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert (found.rate, found.n) == (pytest.approx(p), 11)
    assert (found.low, found.high) == (pytest.approx(centre - half), pytest.approx(centre + half))
    turned = win_rate(some(BASE, ONE, win=2, loss=7, tie=2), ONE, BASE)
    assert turned == found


def test_nothing_counted_is_no_number() -> None:
    found = win_rate(some(TWO, BASE, win=3), ONE, BASE)
    assert found.n == 0
    assert all(math.isnan(value) for value in (found.rate, found.low, found.high))


def test_too_few_votes_and_one_sided_results_are_states() -> None:
    few = build_leaderboard(some(ONE, BASE, win=MIN_DECIDED - 2, loss=1), BASE)
    assert {row.model: row.standing for row in few.rows} == {
        BASE: Standing.PLACED,
        ONE: Standing.NOT_ENOUGH_VOTES,
    }
    never = build_leaderboard(
        [*some(ONE, BASE, win=MIN_DECIDED), *some(BASE, TWO, win=MIN_DECIDED)], BASE
    )
    assert {row.model: row.standing for row in never.rows} == {
        BASE: Standing.PLACED,
        ONE: Standing.NEVER_LOST,
        TWO: Standing.NEVER_WON,
    }
    assert all(row.strength is None for row in never.rows if row.model != BASE)


def test_the_strongest_stands_first() -> None:
    board = build_leaderboard(
        [*some(ONE, BASE, win=30, loss=20), *some(TWO, BASE, win=20, loss=30)], BASE
    )
    assert [row.model for row in board.rows] == [ONE, BASE, TWO]
    assert [(d.model, d.over) for d in board.duels] == [(ONE, BASE), (TWO, BASE)]


def test_both_bad_skips_checks_and_votes_set_aside_rank_nobody() -> None:
    completions = (Completion("# A\n- b", ONE, Sampling()), Completion("plain", BASE, Sampling()))
    pair = Pair("p", Prompt.from_text("Hi"), completions, NOON, kind=PairKind.COMPARE)
    gold = Pair("g", pair.prompt, completions, NOON, kind=PairKind.GOLD, expected=Choice.A)
    votes = [
        Vote("1", "p", "a", Choice.A, True, NOON),  # flipped: side a was the second, the base
        Vote("2", "p", "b", Choice.TIE, False, NOON),
        Vote("3", "p", "c", Choice.BOTH_BAD, False, NOON),
        Vote("4", "p", "d", Choice.SKIP, False, NOON, counted=False, why="skipped"),
        Vote("5", "p", "e", Choice.A, False, NOON, set_aside="a ring"),
        Vote("6", "p", "f", Choice.A, False, NOON, superseded_at=NOON),
        Vote("7", "g", "g", Choice.A, False, NOON),
    ]
    found = comparisons_of(votes, {"p": pair, "g": gold})
    assert [(c.voter, c.outcome) for c in found] == [("a", "loss"), ("b", "tie")]
    # 7 characters against 5, and two marks of Markdown against none.
    assert found[0].length == pytest.approx(2 / 12)
    assert found[0].markdown == 1.0


def test_the_page_says_words_where_there_is_no_number() -> None:
    assert "No comparison is closed yet" in draw_leaderboard(build_leaderboard([], BASE), NAMES)
    shown = draw_leaderboard(build_leaderboard(some(TWO, BASE, win=5), BASE), NAMES)
    assert "not enough votes" in shown
    assert "<b>run-2</b>" not in shown
    assert "&lt;b&gt;run-2&lt;/b&gt;" in shown
    assert "nan" not in shown
    assert "inf" not in shown


def test_the_page_shows_a_far_bound_as_far() -> None:
    """Two voters who never disagree with themselves: some resamples know one of them only."""
    votes = [
        *(Comparison("ann", ONE, BASE, "win") for _ in range(15)),
        *(Comparison("bob", ONE, BASE, "loss") for _ in range(10)),
    ]
    shown = draw_leaderboard(build_leaderboard(votes, BASE), NAMES)
    assert "under −800 to over +800" in shown


def test_the_gate_says_what_it_still_takes() -> None:
    assert "No model waits" in draw_gate(None, NAMES)
    lone = [Comparison("ann", ONE, BASE, "win")] * 30
    shown = draw_gate(decide(lone, ONE, BASE), NAMES)
    assert "It takes 3 more voters at least" in shown
    assert "25 votes beyond that are left out" in shown
    passed = decide(some(ONE, BASE, win=40, loss=2), ONE, BASE)
    assert "it becomes the policy now" in draw_gate(passed, NAMES)


def test_promotions_are_listed_with_how_they_came() -> None:
    assert "nothing was promoted" in draw_promotions([], NAMES)
    shown = draw_promotions(
        [Promotion(ONE, NOON, "gate", 36, 14), Promotion(BASE, NOON, "roll-back")], NAMES
    )
    assert shown.index("rolled back") < shown.index("by the votes")
    assert "36 to 14" in shown


def test_a_pair_of_models_is_told_from_the_winners_side() -> None:
    lost = [Comparison(f"v{n}", ONE, BASE, "loss") for n in range(15)]
    won = [Comparison(f"w{n}", ONE, BASE, "win") for n in range(5)]
    board = build_leaderboard([*lost, *won], BASE)
    (duel,) = board.duels
    drawn = draw_leaderboard(board, {ONE: "one", BASE: "base"})
    told = drawn[drawn.index('aria-label="Pairs of models"') :]
    assert '<th scope="row">base</th><td>one</td>' in told
    assert f"<b>0.75</b> <small>{1 - duel.high:.2f} to {1 - duel.low:.2f}</small>" in told
    assert "15 to 5, 0 ties" in told


def test_votes_of_voters_set_aside_are_told_as_left_out() -> None:
    board = build_leaderboard([Comparison("ann", ONE, BASE, "win")], BASE)
    assert "set aside" not in draw_leaderboard(board, {})
    assert "1 vote of voters who are set aside is left out." in draw_leaderboard(
        board, {}, left_out=1
    )
    empty = build_leaderboard([], BASE)
    assert "12 votes of voters who are set aside are left out." in draw_leaderboard(
        empty, {}, left_out=12
    )
