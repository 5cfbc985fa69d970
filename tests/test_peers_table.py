"""The table of `make bench`: ratios by hand, and which of them meet their goals."""

import pytest

from tests.benchmarks.peers.table import HEAD, Direction, Goal, Limit, Row


def _row(
    ours: list[float], peer: list[float], direction: Direction, goal: Goal, notes: str = ""
) -> Row:
    return Row("sampling", "generate", "tokens a CPU-s", ours, peer, direction, goal, "ids", notes)


AT_LEAST_2 = Goal("at least", 2)
AT_MOST_HALF = Goal("at most", 0.5)


def test_the_ratio_is_the_median_of_the_rounds_not_of_the_sides() -> None:
    # 30/10 = 3, 8/2 = 4, 10/5 = 2; the sides' own medians would give 10/5 = 2.
    row = _row([30, 8, 10], [10, 2, 5], "more is better", AT_LEAST_2)
    assert row.ratios() == [3, 4, 2]
    assert row.ratio() == 3


def test_at_least_turns_seconds_round_so_that_faster_is_more() -> None:
    assert _row([2], [6], "less is better", AT_LEAST_2).ratio() == 3
    assert _row([6], [2], "less is better", AT_LEAST_2).ratio() == pytest.approx(1 / 3)


def test_at_most_is_our_share_of_the_peers() -> None:
    assert _row([2], [8], "less is better", AT_MOST_HALF).ratio() == 0.25


@pytest.mark.parametrize(
    ("ours", "goal", "met"),
    [
        (20, AT_LEAST_2, True),
        (19.99, AT_LEAST_2, False),
        (5, AT_MOST_HALF, True),
        (5.01, AT_MOST_HALF, False),
    ],
)
def test_a_goal_is_compared_unrounded(ours: float, goal: Goal, met: bool) -> None:
    direction: Direction = "more is better" if goal is AT_LEAST_2 else "less is better"
    row = _row([ours], [10], direction, goal)
    assert row.is_met() is met
    assert ("missed" in str(row)) is not met


def test_sides_with_unlike_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="sampling: 2 rounds against 1"):
        _row([1, 2], [1], "more is better", AT_LEAST_2).ratios()
    with pytest.raises(ValueError, match="0 rounds"):
        _row([], [], "more is better", AT_LEAST_2).ratio()


def test_a_row_says_both_sides_the_spread_and_what_was_checked() -> None:
    text = str(_row([30, 20, 10], [10, 5, 1], "more is better", AT_LEAST_2, "GEMM next"))
    assert text == (
        "| sampling | generate | 20 against 5 tokens a CPU-s | **4×** [3, 10], n 3 | ≥ 2×, met "
        "| ids; GEMM next |"
    )


def test_every_kind_of_row_has_the_heads_columns() -> None:
    limit = Limit("first pair", "s", [5, 7, 6], 6, "a pair was shown")
    row = _row([1], [1], "more is better", AT_LEAST_2)
    columns = {str(line).count("|") for line in (*HEAD.splitlines(), row, limit)}
    assert columns == {7}
    assert limit.is_met()
    assert not Limit("first pair", "s", [5, 6.1, 7], 6, "").is_met()
