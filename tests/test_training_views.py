"""What the training page draws, as text: plots, form, findings, tokens, table, bake-off."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from alignment.bakeoff.store import Rate, Row
from alignment.checks.diagnosis import Diagnosis, ExampleTokens, Finding, TokenPiece
from alignment.runs.alarms import Alarm
from alignment.runs.estimate import Estimate
from alignment.runs.recipes import Recipe, TrainingOptions, TrainingSpec
from alignment.runs.run_store import FinalMetrics, Metric, RunFolder, RunState, Sample, Status
from alignment.runs.runs import Run, RunError
from alignment.settings import AlignmentSettings
from alignment.web.markup import safe_text
from alignment.web.plots import (
    Chart,
    Series,
    draw_chart,
    nice_ticks,
    number,
    running_mean,
    thinned,
)
from alignment.web.training.bakeoff_view import say_best
from alignment.web.training.doctor_view import draw_diagnosis, draw_tokens
from alignment.web.training.training_form import Form, offered_places, say_estimate, why_not
from alignment.web.training.training_view import (
    can_cancel,
    can_resume,
    charts,
    draw_alarms,
    draw_progress,
    draw_runs,
    draw_samples,
)
from tests.preferences import TINY, WHEN

HOSTILE = "<script>alert(1)</script>\u202eevil"
SPEC = TrainingSpec(
    method="dpo",
    recipe=Recipe(learning_rate=1e-3, beta=0.1),
    steps=40,
    checkpoint_steps=10,
    seed=0,
    base=TINY,
    base_path=Path("base"),
    dataset_sha256="0" * 64,
    examples=100,
    code_revision=None,
    versions=(),
)


def run_in(state: RunState, folder: Path = Path("none"), **status: object) -> Run:
    told = Status(state, WHEN, WHEN, **status)
    return Run("dpo-20261123-1200-beef", RunFolder(folder), SPEC, told)


# Plots


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-9.3, -0.7, [-8, -6, -4, -2]), (0, 58, [0, 20, 40])],
)
def test_ticks_are_round_and_inside(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == ticks


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (0.2143, "0.214"), (-12.34, "−12.3"), (1240.4, "1,240"), (3.0, "3"), (1e-6, "0")],
)
def test_numbers_have_three_digits(value: float, said: str) -> None:
    assert number(value) == said


def test_a_running_mean_looks_back_only() -> None:
    # Ten points: a width of max(3, 1) = 3.
    mean = running_mean([(float(i), float(i)) for i in range(10)])
    assert [y for _, y in mean] == [0, 0.5, 1, 2, 3, 4, 5, 6, 7, 8]


def test_a_long_run_is_thinned_and_keeps_its_end() -> None:
    points = [(float(i), 1.0) for i in range(2000)]
    kept = thinned(points)
    assert len(kept) <= 241
    assert kept[-1] == points[-1]
    assert thinned(points[:50]) == tuple(points[:50])


def test_points_scored_now_and_then_are_marked_even_when_there_is_one() -> None:
    held_out = Series("held out", ((10.0, 0.5),), measured_now_and_then=True)
    drawn = draw_chart(Chart("x", "X", "share", "note", (held_out,)), steps=40)
    assert drawn.count("<circle") >= 1
    assert 'aria-label="X, share: held out 0.5 at step 10"' in drawn
    assert 'd="M"' not in drawn
    nothing = draw_chart(Chart("x", "X", "share", "note", (Series("a", ()),)), steps=40)
    assert "Nothing measured yet" in nothing


def test_what_is_no_number_is_left_out_of_the_plots() -> None:
    metrics = [Metric(1, 0.5), Metric(2, float("nan")), Metric(3, 0.4)]
    loss = charts(metrics, SPEC)[0]
    assert [x for x, _ in loss.series[0].points] == [1, 3]


def test_sft_shows_no_empty_plot_of_pairs() -> None:
    metrics = [Metric(1, 0.5, tokens_per_s=9.0)]
    assert [c.name for c in charts(metrics, SPEC)][1:3] == ["reward-accuracy", "reward-margin"]
    shown = [c.name for c in charts(metrics, replace(SPEC, method="sft"))]
    assert shown == ["loss", "tokens-per-s"]


# What others wrote


def test_nothing_that_models_or_people_wrote_becomes_markup() -> None:
    piece = TokenPiece(1, HOSTILE, "text", True)
    tokens = ExampleTokens("p", (piece,), (piece,), (piece,), False, False)
    failed = run_in(RunState.FAILED, reason=HOSTILE)
    drawn = [
        draw_samples([Sample(0, HOSTILE, HOSTILE, 3), Sample(9, HOSTILE, HOSTILE, 3)]),
        draw_tokens([tokens], 512),
        draw_diagnosis(diagnosis(Finding("x", "warning", HOSTILE, HOSTILE, HOSTILE))),
        draw_alarms([Alarm("x", HOSTILE, HOSTILE)], failed),
        draw_progress(failed, []),
        draw_runs([failed], None),
    ]
    for html in drawn:
        assert "<script" not in html
        assert "&lt;script&gt;" in html
    assert "U+202E" in safe_text(HOSTILE)
    assert "\u202e" not in safe_text(HOSTILE)


def test_the_latest_sample_stands_before_the_first_and_the_rest_is_folded() -> None:
    told = [Sample(step, "Why?", f"answer at {step}", 3) for step in (0, 10, 20, 30)]
    html = draw_samples(told)
    seen = [int(step) for step in re.findall(r"answer at (\d+)", html)]
    assert seen == [30, 0, 20, 10]
    assert html.index("<details") < html.index("answer at 20")
    assert "Before training" in html


# The form


def test_an_untouched_form_asks_for_what_the_doctor_advises() -> None:
    advised = TrainingOptions("dpo", loss="robust", flip_rate=0.1)
    assert Form().to_options(advised) == advised
    assert Form(steps=" ", beta="").to_options(advised) == advised


def test_what_is_filled_in_goes_before_advice_and_dpo_s_advice_stays_with_dpo() -> None:
    advised = TrainingOptions("dpo", loss="robust", flip_rate=0.1)
    assert Form(steps="12", seed="3").to_options(advised) == replace(advised, steps=12, seed=3)
    assert Form(start="policy").to_options(None).start == "policy"
    assert Form(length_penalty="-0.05").to_options(None).length_penalty == -0.05
    assert Form(loss="ipo").to_options(advised) == TrainingOptions("dpo", loss="ipo")
    assert Form(method="orpo").to_options(advised) == TrainingOptions("orpo")
    assert Form(method="orpo", loss="ipo").to_options(None).loss is None
    assert Form(tuning="full", beta="0.3").to_options(None) == TrainingOptions(
        "dpo", tuning="full", beta=0.3
    )


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ({"steps": "ten"}, "Steps 'ten' is no number"),
        ({"steps": "1.5"}, "Steps can't be 1.5: write a whole number"),
        ({"learning_rate": "nan"}, "Learning rate 'nan' is no number"),
        ({"beta": "1e999"}, "Beta '1e999' is no number"),
    ],
)
def test_what_is_no_number_is_refused_by_name(field: dict[str, str], said: str) -> None:
    with pytest.raises(RunError, match=re.escape(said)):
        Form(**field).to_options(None)


def test_only_places_that_the_settings_name_are_offered() -> None:
    settings = AlignmentSettings(hf_token=None, accelerate_config=None)
    assert [where for _, where in offered_places(settings)] == ["here"]
    there = settings.model_copy(update={"hf_token": "x", "accelerate_config": Path("a")})
    assert [where for _, where in offered_places(there)] == ["here", "accelerate", "jobs"]


def test_an_estimate_says_time_memory_and_disk() -> None:
    estimate = Estimate(150.0, 812_000_000, 10_000_000, 20_500_000_000, 77_000_000_000, False, True)
    assert say_estimate(estimate) == (
        "About <b>2 min</b>, as an earlier run did; 0.8 GB of memory (20.5 GB free), "
        "10 MB of disk (77.0 GB free)."
    )


# The doctor


def diagnosis(*findings: Finding) -> Diagnosis:
    return Diagnosis("tiny", "0" * 64, 40, findings, TrainingOptions("dpo"), ())


def test_the_worst_finding_comes_first_and_what_is_fine_is_folded() -> None:
    html = draw_diagnosis(
        diagnosis(
            Finding("a", "ok", "Fine thing", "m"),
            Finding("b", "warning", "Odd thing", "m", "look"),
            Finding("c", "blocking", "Bad thing", "m", "stop that"),
        )
    )
    order = [html.index(text) for text in ("Bad thing", "Odd thing", "<details", "Fine thing")]
    assert order == sorted(order)
    assert "What to do: stop that." in html
    assert "can't start yet" in html


def test_train_waits_for_a_blocking_finding_and_for_another_run() -> None:
    bad = Finding("c", "blocking", "Bad thing", "m", "stop that")
    assert why_not(diagnosis(), None) is None
    assert why_not(diagnosis(bad), None) == bad.line
    active = why_not(diagnosis(), run_in(RunState.TRAINING))
    assert active is not None
    assert "one run goes at a time" in active


def test_underlined_tokens_are_those_that_count() -> None:
    prompt = (TokenPiece(1, "<|im_start|>", "template", False), TokenPiece(2, "Hi", "text", False))
    answer = (TokenPiece(3, " yes\n", "text", True), TokenPiece(4, "<|im_end|>", "end", True))
    html = draw_tokens([ExampleTokens("p", prompt, answer, answer[:1], False, True)], 512)
    shown = html[html.index("<article") :]
    assert len(re.findall("vta-counts", shown)) == 3
    assert "·yes↵" in shown
    assert "no end of turn" in shown
    assert "512 tokens" in html


# Runs


def test_buttons_are_there_only_where_they_make_sense(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    cancelled = run_in(RunState.CANCELLED, tmp_path)
    assert not can_resume(cancelled)
    (tmp_path / "checkpoints" / "checkpoint-3" / "complete").touch()
    assert can_resume(cancelled)
    assert not can_resume(run_in(RunState.DONE, tmp_path))
    assert not can_resume(run_in(RunState.TRAINING, tmp_path))
    assert can_cancel(run_in(RunState.QUEUED))
    assert not any(map(can_cancel, (None, cancelled, run_in(RunState.DONE))))


def test_progress_says_what_is_left_and_what_it_took() -> None:
    metrics = [Metric(s, 0.5, seconds=0.5 * s, tokens_per_s=800.0) for s in range(1, 11)]
    going = draw_progress(run_in(RunState.TRAINING, step=10), metrics)
    # 30 steps at half a second.
    assert "about <b>15 s</b> left" in going
    assert 'aria-valuenow="25"' in going
    assert "<b>800</b> tokens a second" in going
    final = FinalMetrics(0.2, 1.0, 3.0, 61.0, 12, 0.3, 0.83, 2.0, 30, True, 20, 700_000_000, 650.0)
    done = draw_progress(run_in(RunState.DONE, step=30, final=final), metrics)
    assert "took <b>61 s</b>" in done
    assert "0.7 GB" in done
    assert "83% of 12 held-out pairs" in done
    assert "the model of step 20" in done
    assert 'aria-valuenow="100"' in done
    # A robust run says what its sift did.
    for count, said in ((31, "31 examples were left out"), (1, "1 example was left out")):
        sifted = run_in(RunState.DONE, step=30, final=replace(final, left_out=count))
        assert f"{said}: a first pass ranked" in draw_progress(sifted, metrics)
    preparing = run_in(RunState.PREPARING)
    robust = replace(SPEC.recipe, loss="robust", sift=True)
    waiting = replace(preparing, spec=replace(SPEC, recipe=robust, flip_rate=0.2))
    assert "first pass" not in done + draw_progress(preparing, [])
    # Twice over 100 examples in batches of 8.
    assert "25 steps of a first pass" in draw_progress(waiting, [])
    # SFT ranks no pairs.
    sft = replace(final, eval_reward_accuracy=None, stopped_early=False)
    assert "Loss 0.3 on 12 held-out pairs." in draw_progress(
        run_in(RunState.DONE, step=30, final=sft), metrics
    )


# The bake-off


def row(method: str, value: float, margin: float = 0.04) -> Row:
    return Row(method, f"{method}-1", Rate(value, margin, 268), None, 20.0)


def test_the_best_is_named_only_where_intervals_tell_it_apart() -> None:
    base = Row("base", None, None, None, 12.0)
    clear = say_best([base, row("sft", 0.55), row("orpo", 0.62), row("dpo", 0.78)])
    assert clear.startswith("<b>DPO</b> is best here: it wins 78%")
    close = say_best([base, row("sft", 0.55), row("orpo", 0.72), row("dpo", 0.78)])
    assert "ORPO may be as good" in close
    assert "SFT" not in close
    # Head to head tells more than two intervals: ORPO lost to SFT on the same prompts.
    behind = replace(row("orpo", 0.63), over_sft=Rate(0.44, 0.04, 268))
    level = replace(row("dpo", 0.69), over_sft=Rate(0.5, 0.04, 268))
    said = say_best([base, row("sft", 0.70), level, behind])
    assert said.startswith("<b>SFT</b> has the highest win rate, 70%, but DPO may be as good")
    assert "ORPO" not in said
    none = say_best([base, row("sft", 0.47), row("orpo", 0.48), row("dpo", 0.52)])
    assert none.startswith("None clearly beats the base")
    unjudged = say_best([base, replace(row("dpo", 0.5), win_rate=None)])
    assert "blind votes" in unjudged
