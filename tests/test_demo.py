"""What the demonstration says of its second round: as much as the interval allows, no more."""

from dataclasses import replace

import pytest

from alignment.commands.demo import GATE_VOTES, Answers, say_rounds
from alignment.contest.promotions import Promotion
from alignment.scripted_voter import Evaluation, Quality
from alignment.starter.starter import report_prompts
from annotation.schema import ModelRef, utc_now

PROMOTION = Promotion(ModelRef("starter", "1" * 40, "dpo-1", "2" * 40), utc_now(), "gate", 19, 4)
GOOD = Quality(1.0, 1.0, 0.5, 20.0)
SECOND = Evaluation(268, 60, 40, 168, 0.537, 0.03, GOOD, GOOD)


@pytest.mark.parametrize(
    ("win_rate", "says"),
    [
        (0.537, "0.54 (0.51–0.57): the second round gained."),
        (0.46, "0.46 (0.43–0.49): the second round lost."),
        (0.52, "0.52 (0.49–0.55): no gain that so many prompts could show; the interval holds one"),
    ],
)
def test_a_gain_is_claimed_only_where_the_interval_leaves_one_half(
    win_rate: float, says: str
) -> None:
    said = say_rounds(PROMOTION, replace(SECOND, win_rate=win_rate))
    assert says in said
    assert said.startswith("The gate promoted the first model 19 to 4. ")


def test_a_gate_that_was_not_persuaded_ends_it_after_one_round() -> None:
    assert f"{GATE_VOTES} more votes did not persuade the gate" in say_rounds(None, None)


def test_equal_answers_of_two_models_tie() -> None:
    prompt = report_prompts()[0].messages[-1].content
    answers = Answers([prompt], {"base": ["Nonsense."], "one": ["Nonsense."]})
    assert answers.judge("one", "base").win_rate == 0.5
    assert answers.judge("one", "base").n == 1
