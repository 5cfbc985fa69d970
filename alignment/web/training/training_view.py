"""What the training section shows of a run: progress, plots, samples, alarms, the table. Pure.

Strings of HTML; every text of a prompt, an answer or an error is escaped here and nowhere else.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape

from alignment.axes import Point, number
from alignment.runs.alarms import Alarm
from alignment.runs.pace import remaining_s, say_duration, tokens_per_s
from alignment.runs.recipes import TrainingSpec, sift_steps
from alignment.runs.run_store import Metric, Sample
from alignment.runs.runs import Run, RunState
from alignment.web.markup import count_of, draw_bar, draw_table, safe_text
from alignment.web.plots import Chart, Series, draw_charts

NO_RUN = '<p class="vta-note">No run yet: what it does will show here.</p>'
SHOWN_PROMPTS = 6


def draw_progress(run: Run, metrics: Sequence[Metric]) -> str:
    """State, bar, what is left and how fast it goes, and how it ended or why it stopped."""
    done, steps = run.status.step, run.spec.steps
    # A run that stopped early has done all that it will.
    share = 1.0 if run.state is RunState.DONE else min(1.0, done / max(1, steps))
    facts = "".join(f"<span>{fact}</span>" for fact in _facts(run, metrics))
    return (
        f'<div class="vta-progress"><p><b>{escape(run.id)}</b> is {run.state}</p>'
        f"{draw_bar('Steps done', share)}"
        f'<p class="vta-facts">{facts}</p>{_paragraph(_said(run))}</div>'
    )


def _facts(run: Run, metrics: Sequence[Metric]) -> Iterable[str]:
    yield f"step <b>{run.status.step}</b> of {run.spec.steps}"
    left = remaining_s(metrics, run.spec.steps) if run.state is RunState.TRAINING else None
    if left is not None:
        yield f"about <b>{say_duration(left)}</b> left"
    final = run.status.final
    speed = final.tokens_per_s if final and final.tokens_per_s else tokens_per_s(metrics)
    if speed is not None:
        yield f"<b>{number(speed)}</b> tokens a second"
    if final is not None:
        yield f"took <b>{say_duration(final.seconds)}</b>"
        if final.peak_memory_bytes:
            yield f"memory at most <b>{final.peak_memory_bytes / 1e9:.1f} GB</b>"
        if final.disk_bytes:
            yield f"disk <b>{final.disk_bytes / 1e6:.0f} MB</b>"
    elif metrics:
        yield f"loss <b>{number(metrics[-1].loss)}</b>"


_NOW = {
    RunState.QUEUED: "Waiting for its process to start.",
    RunState.PREPARING: "Loading the libraries and the model, some seconds.",
    RunState.EVALUATING: "All steps are done; scoring the held-out pairs.",
}


def _said(run: Run) -> str:
    """One sentence on where the run stands."""
    final = run.status.final
    if run.reason or final is None:
        return run.reason or _now(run)
    where = "It is in the Compare tab now: ask both models the same thing."
    if final.left_out is not None:
        where = f"{_sifted(final.left_out)} {where}"
    early = f" Stopped early; it is the model of step {final.kept_step}, which scored best."
    early = early if final.stopped_early and final.kept_step else ""
    if not final.eval_pairs:
        return f"Too few examples to hold any out: only a comparison tells if it is better. {where}"
    if final.eval_reward_accuracy is None:
        held_out = f"Loss {number(final.eval_loss or 0.0)} on {final.eval_pairs} held-out pairs."
        return f"{held_out}{early} {where}"
    return (
        f"It ranks {final.eval_reward_accuracy:.0%} of {final.eval_pairs} held-out pairs as "
        f"voters did.{early} {where}"
    )


def _now(run: Run) -> str:
    said = _NOW.get(run.state, "")
    if run.state is RunState.PREPARING and (steps := sift_steps(run.spec)):
        said += f" Then {steps} steps of a first pass, to find votes that stand against the rest."
    return said


def _sifted(left_out: int) -> str:
    one = left_out == 1
    return (
        f"{count_of(left_out, 'example')} {'was' if one else 'were'} left out: a first pass ranked "
        f"{'it' if one else 'them'} against the vote."
    )


def draw_alarms(found: Sequence[Alarm], run: Run, *, remarked: bool = False) -> str:
    """Each alarm with what to do; one calm line when there is none, nothing before the start and
    nothing where something else is `remarked` on.
    """
    if not found:
        calm = run.state is RunState.DONE and not remarked
        return '<p class="vta-fine">Nothing looks wrong in this run.</p>' if calm else ""
    return "".join(
        f'<div class="vta-finding{" vta-serious" if alarm.serious else ""}" role="note">'
        f"<p><b>{escape(alarm.says)}</b></p><p>{escape(alarm.do)}</p></div>"
        for alarm in found
    )


def draw_pictures(metrics: Sequence[Metric], spec: TrainingSpec) -> str:
    """The plots that a run of this method has, in one grid; empty before its first step."""
    return draw_charts(charts(metrics, spec), steps=spec.steps) if metrics else ""


def charts(metrics: Sequence[Metric], spec: TrainingSpec) -> list[Chart]:
    """Loss, accuracy, margin, log-probs, sample length and speed.

    SFT trains on no pairs: of those, only what was measured all the same is shown.
    """
    every = [
        _loss(metrics, spec),
        _accuracy(metrics, spec),
        _margin(metrics),
        _logps(metrics, spec),
        _lengths(metrics),
        _speed(metrics),
    ]
    if spec.method != "sft":
        return every
    return [chart for chart in every if any(series.points for series in chart.series)]


def _loss(metrics: Sequence[Metric], spec: TrainingSpec) -> Chart:
    return Chart(
        "loss",
        "Loss",
        "loss",
        "What training lowers. The trend counts, not single steps; "
        + (
            "held-out loss that rises means enough."
            if spec.method == "sft"
            else "held-out loss may rise again while the ranking holds."
        ),
        _train_and_held_out(metrics, lambda m: m.loss, lambda m: m.eval_loss),
    )


def _accuracy(metrics: Sequence[Metric], spec: TrainingSpec) -> Chart:
    start = (
        "ORPO starts where the base stands."
        if spec.method == "orpo"
        else "It starts near one half, which is chance."
    )
    return Chart(
        "reward-accuracy",
        "Reward accuracy",
        "share of pairs ranked right",
        f"How often the chosen answer gets the higher reward. {start} Believe held-out pairs.",
        _train_and_held_out(metrics, lambda m: m.reward_accuracy, lambda m: m.eval_reward_accuracy),
        bounds=(0.0, 1.0),
        level=0.5,
        level_name="chance",
    )


def _margin(metrics: Sequence[Metric]) -> Chart:
    return Chart(
        "reward-margin",
        "Reward margin",
        "β × nats",
        "How far chosen lies above rejected. It should rise and level off; at 0 nothing is "
        "learned, whatever the accuracy says.",
        _train_and_held_out(metrics, lambda m: m.reward_margin, lambda m: m.eval_reward_margin),
        level=0.0,
    )


def _logps(metrics: Sequence[Metric], spec: TrainingSpec) -> Chart:
    unit = "nats per token" if spec.method == "orpo" else "nats, whole answer"
    return Chart(
        "logps",
        "Log-probability of both answers",
        unit,
        "Negative is normal: it is the log of a probability. The gap should widen; in DPO "
        "both may sink somewhat.",
        (
            Series("chosen", _points(metrics, lambda m: m.chosen_logps)),
            Series("rejected", _points(metrics, lambda m: m.rejected_logps)),
        ),
    )


def _lengths(metrics: Sequence[Metric]) -> Chart:
    lengths = Series("mean", _points(metrics, lambda m: m.sample_tokens), True)
    return Chart(
        "sample-tokens",
        "Length of sampled answers",
        "tokens",
        "Steady is good. Steep growth means that length is taken for quality.",
        (lengths,),
        from_zero=True,
    )


def _speed(metrics: Sequence[Metric]) -> Chart:
    return Chart(
        "tokens-per-s",
        "Speed",
        "tokens a second",
        "How fast this machine trains; it says nothing about quality.",
        (Series("speed", _points(metrics, lambda m: m.tokens_per_s)),),
        from_zero=True,
    )


def _train_and_held_out(
    metrics: Sequence[Metric],
    train: Callable[[Metric], float | None],
    held_out: Callable[[Metric], float | None],
) -> tuple[Series, Series]:
    return (
        Series("training", _points(metrics, train)),
        Series("held out", _points(metrics, held_out), True),
    )


def _points(metrics: Sequence[Metric], of: Callable[[Metric], float | None]) -> tuple[Point, ...]:
    found = ((m.step, of(m)) for m in metrics)
    return tuple((float(s), v) for s, v in found if v is not None and math.isfinite(v))


def draw_samples(samples: Sequence[Sample]) -> str:
    """A card for each prompt: the first answer beside the latest, those between on demand."""
    if not samples:
        return ""
    by_prompt: dict[str, list[Sample]] = {}
    for sample in sorted(samples, key=lambda s: s.step):
        by_prompt.setdefault(sample.prompt, []).append(sample)
    cards = "".join(_card(prompt, told) for prompt, told in [*by_prompt.items()][:SHOWN_PROMPTS])
    return (
        "<h3>What it answers as it learns</h3>"
        '<p class="vta-note">The same prompts each time; nobody votes on them.</p>'
        f'<div class="vta-samples">{cards}</div>'
    )


def _card(prompt: str, told: Sequence[Sample]) -> str:
    first, last = told[0], told[-1]
    now = _answer(f"Now, step {last.step}", last) if last is not first else ""
    start = "Before training" if first.step == 0 else f"First, step {first.step}"
    between = "".join(_answer(f"Step {s.step}", s) for s in reversed(told[1:-1]))
    more = (
        f"<details><summary>{len(told) - 2} in between</summary>{between}</details>"
        if between
        else ""
    )
    return (
        f'<article class="vta-sample"><h4>{safe_text(prompt)}</h4>'
        f'<div class="vta-pair">{now}{_answer(start, first)}</div>{more}</article>'
    )


def _answer(when: str, sample: Sample) -> str:
    tokens = count_of(sample.tokens, "token")
    return (
        f'<div class="vta-answer"><p class="vta-when">{when} · {tokens}</p>'
        f'<p class="vta-text">{safe_text(sample.completion) or "<i>(empty)</i>"}</p></div>'
    )


def draw_runs(runs: Sequence[Run], chosen: str | None) -> str:
    """The table of all runs, newest first; the chosen one marked."""
    if not runs:
        return ""
    newest = [*reversed(runs)]
    mark = next((i for i, run in enumerate(newest) if run.id == chosen), None)
    return draw_table("All runs", RUN_COLUMNS, [_cells(run) for run in newest], mark)


RUN_COLUMNS = (
    "run",
    "state",
    "method",
    "examples",
    "steps",
    "held-out accuracy",
    "time",
    "memory",
)


def _cells(run: Run) -> list[str]:
    spec, final = run.spec, run.status.final
    accuracy = final.eval_reward_accuracy if final else None
    method = f"DPO, {spec.recipe.loss}" if spec.method == "dpo" else spec.method.upper()
    tuning = "" if spec.recipe.tuning == "lora" else ", all weights"
    start = f", from {spec.start.name}" if spec.start else ""
    why = f'<p class="vta-why">{escape(run.reason)}</p>' if run.reason else ""
    return [
        escape(run.id),
        f"{run.state}{why}",
        escape(f"{method}{tuning}{start}"),
        str(spec.examples),
        f"{run.status.step} of {spec.steps}",
        "–" if accuracy is None else f"{accuracy:.2f}",
        say_duration(final.seconds) if final else "–",
        f"{final.peak_memory_bytes / 1e9:.1f} GB" if final and final.peak_memory_bytes else "–",
    ]


def can_cancel(run: Run | None) -> bool:
    return run is not None and run.is_active


def can_resume(run: Run | None) -> bool:
    """Whether it stopped short of its end and left a whole checkpoint to go on from."""
    stopped = (RunState.FAILED, RunState.CANCELLED, RunState.INTERRUPTED)
    return run is not None and run.state in stopped and run.folder.last_checkpoint() is not None


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>" if text else ""
