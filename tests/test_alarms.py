"""Alarms on series made by hand, one a fault, and none on a real run of the starter."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from running_app import RunningApp

from alignment.base import ResolvedBase
from alignment.runs.alarms import alarms
from alignment.runs.pace import remaining_s, say_duration, tokens_per_s
from alignment.runs.recipes import Method, Recipe, TrainingOptions, TrainingSpec
from alignment.runs.run_store import Metric, RunState, Sample
from alignment.runs.runs import Runs
from alignment.starter.starter import STARTER_DIR, starter_revision
from annotation.export.export import export_preferences
from annotation.journal.journal import JournalReader
from annotation.schema import ModelRef
from tests.preferences import TINY

STARTER = ModelRef("starter", starter_revision())
STEPS = 60
Value = Callable[[int], float]


def spec_of(method: Method = "dpo", **recipe: object) -> TrainingSpec:
    """60 steps of 8 pairs on 160 examples: a pass is 20 steps, half a pass 10."""
    return TrainingSpec(
        method=method,
        recipe=dataclasses.replace(Recipe(learning_rate=1e-3, beta=0.1), **recipe),
        steps=STEPS,
        checkpoint_steps=15,
        seed=0,
        base=TINY,
        base_path=Path("base"),
        dataset_sha256="0" * 64,
        examples=160,
        code_revision=None,
        versions=(),
    )


def series(through: int = STEPS, **wrong: Value) -> list[Metric]:
    """A healthy run of DPO, told by the step, but for what is `wrong`.

    The margin rises to 3 (30 nats at β .1), accuracy from .5 to .9, held-out accuracy to .8.
    """
    healthy: dict[str, Value] = {
        "loss": lambda s: 0.69 - 0.5 * s / STEPS,
        "reward_margin": lambda s: 3.0 * s / STEPS,
        "reward_accuracy": lambda s: 0.5 + 0.4 * s / STEPS,
        "chosen_logps": lambda s: -100.0 - 20 * s / STEPS,
        "rejected_logps": lambda s: -100.0 - 60 * s / STEPS,
        "grad_norm": lambda s: 2.0 if s % 7 else 9.0,
    }
    held_out: Value = wrong.pop("held_out", lambda s: 0.5 + 0.3 * s / STEPS)
    told = healthy | wrong
    return [
        Metric(
            step=step,
            **{name: value(step) for name, value in told.items()},
            eval_reward_accuracy=held_out(step) if step % 15 == 0 else None,
        )
        for step in range(1, through + 1)
    ]


def samples(before: str, now: str, *, tokens: tuple[int, int] = (20, 22)) -> list[Sample]:
    return [
        Sample(step, f"Question {n}?", f"{text}", length)
        for step, text, length in ((0, before, tokens[0]), (STEPS, now, tokens[1]))
        for n in range(4)
    ]


def names(
    metrics: list[Metric],
    told: list[Sample] | None = None,
    method: Method = "dpo",
    examples: int = 160,
) -> list[str]:
    spec = dataclasses.replace(spec_of(method), examples=examples)
    return [alarm.name for alarm in alarms(metrics, told or [], spec)]


@pytest.mark.parametrize("through", range(0, STEPS + 1, 3))
def test_a_healthy_run_raises_no_alarm_at_any_step(through: int) -> None:
    assert names(series(through)) == []


def test_accuracy_at_once_is_too_easy_or_memorised() -> None:
    # Step 1 is before any update; half a pass over 160 examples in batches of 8 is 10 steps.
    at_once = series(reward_accuracy=lambda s: 0.0 if s == 1 else 1.0)
    assert names(at_once) == ["too_easy"]
    assert names(at_once[:4]) == []
    later = series(reward_accuracy=lambda s: 0.5 if s < 6 else 1.0)
    assert names(later) == []
    # ORPO's accuracy is the base's own at the start: 1.0 there is the healthy starter.
    assert names(at_once, method="orpo") == []


def test_a_gap_between_training_and_held_out_pairs_is_memorising() -> None:
    wrong = series(
        reward_accuracy=lambda s: min(1.0, 0.5 + s / 30), held_out=lambda s: 0.5 + s / 400
    )
    (alarm,) = alarms(wrong, [], spec_of())
    # 1.0 on the last steps against .65 at step 60: a gap of .35. Two standard errors of .65 from
    # 16 pairs are 2 sqrt(.65 .35 / 16) = .24, so from .34 on; from 10 pairs .30, so from .40 on.
    assert alarm.name == "memorised"
    assert alarm.serious
    assert "100%" in alarm.says
    assert "65%" in alarm.says
    assert names(wrong, examples=100) == []


def test_held_out_accuracy_that_falls_while_training_rises() -> None:
    # .80, .72, .64, .56: of 16 held-out pairs, about four.
    falling = series(held_out=lambda s: 0.8 - 0.08 * (s // 15 - 1))
    (alarm,) = alarms(falling, [], spec_of())
    assert alarm.name == "held_out_falls"
    assert "80% at step 15 to 56%" in alarm.says
    assert "about 15 steps" in alarm.do
    # .80 to .62 is less than three pairs of 16, and 18 of 100.
    noise = series(held_out=lambda s: 0.8 - 0.06 * (s // 15 - 1))
    assert names(noise) == []
    assert names(noise, examples=1000) == ["held_out_falls"]


def test_some_fall_of_the_chosen_log_prob_is_usual_and_a_doubling_is_not() -> None:
    assert names(series(chosen_logps=lambda s: -100 - 60 * s / STEPS)) == []
    assert names(series(chosen_logps=lambda s: -100 - 140 * s / STEPS)) == ["chosen_falls"]
    # Short answers: from -2 to -6 is three times as much, and still a few nats.
    assert names(series(chosen_logps=lambda s: -2 - 4 * s / STEPS)) == []
    # ORPO's are per token: from -.4 to -1.6 a token.
    per_token = series(chosen_logps=lambda s: -0.4 - 1.2 * s / STEPS)
    assert names(per_token, method="orpo") == ["chosen_falls"]


def test_nothing_learned_shows_in_the_margin_even_where_accuracy_says_1() -> None:
    # Seen on the starter at a rate of 1e-6: accuracy 1.00, margin +.002.
    still = series(reward_margin=lambda s: 0.002, reward_accuracy=lambda s: 0.5 + 0.5 * (s > 12))
    (alarm,) = alarms(still, [], spec_of())
    assert alarm.name == "unlearned"
    assert "+0.002" in alarm.says
    chance = series(reward_accuracy=lambda s: 0.5, held_out=lambda s: 0.5)
    assert names(chance) == ["unlearned"]
    assert "unlearned" not in names(still[:20])
    # ORPO's margin is the base's own at the start: it must grow by a tenth, or the loss fall.
    flat = {"loss": lambda s: 0.4, "reward_margin": lambda s: 0.3 + 0.02 * s / STEPS}
    assert names(series(**flat), method="orpo") == ["unlearned"]
    assert names(series(**flat | {"reward_margin": lambda s: 0.3 + s / STEPS}), method="orpo") == []
    assert names(series(), method="orpo") == []


def test_a_gradient_that_explodes_and_stays_so() -> None:
    assert names(series(grad_norm=lambda s: 1.0 if s < 40 else 30.0)) == ["exploded"]
    assert names(series(grad_norm=lambda s: 30.0 if s == 40 else 1.0)) == []


def test_a_loss_above_twice_the_base_is_off_the_road() -> None:
    assert names(series(loss=lambda s: 0.7 if s < 20 else 1.6)) == ["exploded"]


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_said_with_its_step(name: str, value: float) -> None:
    wrong = series(**{name: lambda s: value if s == 33 else 0.5})
    first = alarms(wrong, [], spec_of())[0]
    assert first.name == "not_finite"
    assert "step 33" in first.says
    assert first.serious


def test_answers_that_grow() -> None:
    text = "Plain words."
    assert names(series(), samples(text, text, tokens=(40, 95))) == ["longer"]
    assert names(series(), samples(text, text, tokens=(40, 75))) == []
    # Twice as long, and still short: what the starter's voters like.
    assert names(series(), samples(text, text, tokens=(10, 25))) == []


def test_answers_that_collapse_to_repeats() -> None:
    prose = (
        "Water boils at a hundred degrees at sea level, and a little below that in the hills, "
        "because the air there presses less on it."
    )
    assert names(series(), samples(prose, prose)) == []
    assert names(series(), samples(prose, "Thank you so much. " * 8)) == ["repeats"]
    # A list is no loop, and neither is a loop that the base had already.
    listed = "\n".join(f"- {word}" for word in prose.split())
    assert names(series(), samples(prose, listed)) == []
    assert names(series(), samples("na " * 40, "na " * 40)) == []


def test_one_answer_to_everything_is_a_collapse() -> None:
    told = [
        Sample(step, f"Question {n}?", text if step else f"{n} it is.", 3)
        for step, text in ((0, ""), (STEPS, "Sure."))
        for n in range(4)
    ]
    assert names(series(), told) == ["repeats"]


def test_serious_alarms_come_first() -> None:
    found = alarms(
        series(held_out=lambda s: 0.8 - 0.08 * (s // 15 - 1), grad_norm=lambda s: math.inf),
        [],
        spec_of(),
    )
    assert [a.serious for a in found] == sorted((a.serious for a in found), reverse=True)
    assert {a.name for a in found} == {"not_finite", "held_out_falls"}


# The starter, trained for real


@pytest.mark.slow
@pytest.mark.argilla
def test_a_healthy_run_of_the_starter_raises_no_alarm(
    voted_app: RunningApp, tmp_path: Path
) -> None:
    journal = JournalReader(voted_app.home / "journal.sqlite3")
    export = export_preferences(journal, tmp_path / "export")
    journal.close()
    base = ResolvedBase(STARTER, STARTER_DIR, is_starter=True, notice=None)
    runs = Runs(tmp_path)
    options = TrainingOptions("dpo", steps=30)
    run = runs.wait(runs.start(options, base=base, export=export).id, timeout_s=250)
    assert run.state is RunState.DONE, run.reason
    assert alarms(runs.metrics(run.id), run.folder.samples(), run.spec) == []


# How long it still takes


def test_what_is_left_follows_from_the_last_steps() -> None:
    # One slow step, then two a second: 40 steps left at half a second each.
    metrics = [Metric(1, 1.0, seconds=10.0)] + [
        Metric(s, 1.0, seconds=10.0 + 0.5 * (s - 1), tokens_per_s=100.0 * (s % 2))
        for s in range(2, 31)
    ]
    assert remaining_s(metrics, 70) == pytest.approx(20.0)
    assert tokens_per_s(metrics) == pytest.approx(50.0)
    assert remaining_s(metrics[:1], 70) is None
    assert remaining_s([Metric(1, 1.0), Metric(2, 1.0)], 70) is None


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "1 s"), (89, "89 s"), (150, "2 min"), (9000, "2.5 h")]
)
def test_durations_as_people_say_them(seconds: float, said: str) -> None:
    assert say_duration(seconds) == said
