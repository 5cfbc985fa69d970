"""Who is the policy: promotions, roll-backs, and a file that can't be read."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from alignment.contest.promotions import PromotionError, Promotions
from annotation.schema import ModelRef

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
BASE = ModelRef("starter", "1" * 40)
ONE, TWO, THREE = (ModelRef("starter", "1" * 40, f"run-{n}", str(n) * 40) for n in (1, 2, 3))


@pytest.fixture
def promotions(tmp_path: Path) -> Promotions:
    return Promotions(tmp_path, clock=lambda: NOON)


def test_the_base_is_the_policy_until_another_is_promoted(promotions: Promotions) -> None:
    assert promotions.current() is None
    promotions.promote(ONE, "gate", wins=36, losses=14)
    assert promotions.current() == ONE
    (made,) = promotions.history()
    assert (made.by, made.wins, made.losses, made.at) == ("gate", 36, 14, NOON)


def test_roll_backs_walk_the_way_back_to_the_base(promotions: Promotions) -> None:
    for model in (ONE, TWO, THREE):
        promotions.promote(model, "gate")
    assert promotions.roll_back(BASE).model == TWO
    assert promotions.roll_back(BASE).model == ONE
    promotions.promote(THREE, "override")
    assert promotions.roll_back(BASE).model == ONE
    assert promotions.roll_back(BASE).model == BASE
    assert promotions.current() is None
    with pytest.raises(PromotionError, match="nothing to roll back to"):
        promotions.roll_back(BASE)
    assert len(promotions.history()) == 8  # nothing was overwritten


def test_the_policy_is_not_promoted_twice(promotions: Promotions) -> None:
    promotions.promote(ONE, "gate")
    with pytest.raises(PromotionError, match="is the policy already"):
        promotions.promote(ONE, "override")


def test_a_damaged_file_is_one_line_and_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text("[{")
    with pytest.raises(PromotionError, match="restore it, or remove it"):
        Promotions(tmp_path).promote(ONE, "gate")
    assert (tmp_path / "policy.json").read_text() == "[{"
