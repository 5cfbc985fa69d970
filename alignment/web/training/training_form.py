"""From the training form to what a run is asked for, and what the form says before. Pure."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from alignment.checks.diagnosis import Diagnosis
from alignment.runs.estimate import Estimate
from alignment.runs.pace import say_duration
from alignment.runs.recipes import DEFAULT_START, Method, TrainingOptions, TrainingSpec, Where
from alignment.runs.runs import Run, RunError
from alignment.settings import AlignmentSettings

METHODS: tuple[tuple[str, Method], ...] = (("DPO", "dpo"), ("ORPO", "orpo"), ("SFT", "sft"))
WHERE: tuple[tuple[str, Where], ...] = (
    ("Here", "here"),
    ("Several processes (accelerate)", "accelerate"),
    ("Hugging Face Jobs", "jobs"),
)
STARTS = (("The base", "base"), ("The policy", "policy"))
ADVISED = "as advised"
"""The choice that leaves a setting to the preset and to the doctor."""


NUMBERS = (
    ("Steps", "by the examples"),
    ("Seed", "0"),
    ("Learning rate", "by the preset"),
    ("Beta", "by the preset"),
    ("Length penalty", "none"),
    ("Flip rate", "as measured"),
)
"""The fields that take a number, and what stands in them while they are empty."""


@dataclass(frozen=True, slots=True)
class Form:
    """What the Options say, in their order; an empty field leaves it to preset and doctor."""

    method: Method = "dpo"
    loss: str = ADVISED
    tuning: str = "lora"
    where: Where = "here"
    start: str = DEFAULT_START
    steps: str | None = None
    seed: str | None = None
    learning_rate: str | None = None
    beta: str | None = None
    length_penalty: str | None = None
    flip_rate: str | None = None

    def to_options(self, advised: TrainingOptions | None) -> TrainingOptions:
        """What to ask for: the doctor's advice for this method, and over it what was filled in.

        Advice that is DPO's own stays behind when another method or loss is chosen. Raises
        RunError for a field that is no number.
        """
        options = TrainingOptions(self.method)
        own_loss = self.loss not in (ADVISED, "")
        if advised is not None and advised.method == self.method and not own_loss:
            options = advised
        given: dict[str, Any] = {
            "tuning": self.tuning,
            "where": self.where,
            "start": self.start,
            "steps": _whole("Steps", self.steps),
            "seed": _whole("Seed", self.seed),
            "learning_rate": _number("Learning rate", self.learning_rate),
            "beta": _number("Beta", self.beta),
            "length_penalty": _number("Length penalty", self.length_penalty),
            "flip_rate": _number("Flip rate", self.flip_rate),
            "loss": self.loss if own_loss and self.method == "dpo" else None,
        }
        return replace(options, **{k: v for k, v in given.items() if v is not None})


def _number(name: str, text: str | None) -> float | None:
    if not text or not text.strip():
        return None
    with contextlib.suppress(ValueError):
        value = float(text)
        if math.isfinite(value):
            return value
    raise RunError(f"{name} {text.strip()!r} is no number: write one such as 0.001, or nothing.")


def _whole(name: str, text: str | None) -> int | None:
    value = _number(name, text)
    if value is None or value.is_integer():
        return None if value is None else int(value)
    raise RunError(f"{name} can't be {value:g}: write a whole number, or nothing.")


def offered_places(settings: AlignmentSettings) -> list[tuple[str, Where]]:
    """Where this app may train: here, and wherever its settings name what that needs."""
    there = {
        "here": True,
        "accelerate": settings.accelerate_config is not None,
        "jobs": settings.hf_token is not None,
    }
    return [(name, where) for name, where in WHERE if there[where]]


def say_flip_rate(measured: float | None) -> str:
    """What stands in the empty field of the flip rate: what votes on the same pairs tell."""
    return "unmeasured: few overlaps" if measured is None else f"{measured:.2g} measured"


def why_not(diagnosis: Diagnosis, active: Run | None) -> str | None:
    """Why training can't start now, in one line; None when it can."""
    if active is not None:
        return f"Run {active.id} is {active.state}, and one run goes at a time."
    return diagnosis.blocking[0].line if diagnosis.blocking else None


def draw_refusal(why: str) -> str:
    return f'<div class="vta-plan"><p>Train waits. {escape(why)}</p></div>'


def draw_plan(spec: TrainingSpec, takes: str, reasons: Sequence[str]) -> str:
    """What pressing Train would do, what it takes, and why with these settings."""
    recipe = spec.recipe
    loss = f" with the {recipe.loss} loss" if spec.method == "dpo" else ""
    if spec.flip_rate:
        loss += f" at a flip rate of {spec.flip_rate:.2g}"
    if recipe.length_penalty:
        loss += f", a length penalty of {recipe.length_penalty:g} a token"
    tuning = "a LoRA adapter" if recipe.tuning == "lora" else "all weights"
    beta = "" if spec.method == "sft" else f", beta {recipe.beta:g}"
    where = "" if spec.where == "here" else f" It runs {_WHERE_SAID[spec.where]}."
    where = f" {escape(say_start(spec))}{where}" if spec.start else where
    why = "".join(f"<li>{escape(reason)}</li>" for reason in reasons)
    listed = f'<ul class="vta-reasons">{why}</ul>' if why else ""
    return (
        f'<div class="vta-plan"><p><b>{spec.method.upper()}</b>{escape(loss)} on '
        f"<b>{spec.examples}</b> examples: {spec.steps} steps, {tuning}, learning rate "
        f"{recipe.learning_rate:g}{beta}.{where}</p><p>{takes}</p>{listed}</div>"
    )


def say_start(spec: TrainingSpec) -> str:
    """Where the weights begin, and what the reference is, in a sentence."""
    if spec.start is None:
        return "It starts from the base, which is its reference too."
    kept = {"base": ", kept close to the base", "start": ", kept close to it"}
    reference = kept[spec.start.reference] if spec.method == "dpo" else ""
    return f"It goes on from {spec.start.name}{reference}."


_WHERE_SAID: dict[Where, str] = {
    "here": "here",
    "accelerate": "in several processes, by accelerate",
    "jobs": "as a job on the Hub",
}


def say_estimate(estimate: Estimate) -> str:
    """Time, memory and disk that a run is thought to take, beside what is free."""
    time = (
        f"About <b>{say_duration(estimate.seconds)}</b>"
        if estimate.seconds is not None
        else "A time that nothing tells yet"
    )
    measured = ", as an earlier run did" if estimate.from_earlier_run else ""
    place = "GPU memory" if estimate.on_gpu else "memory"
    return (
        f"{time}{measured}; {_gigabytes(estimate.memory_bytes)} of {place} "
        f"({_gigabytes(estimate.free_memory_bytes)} free), "
        f"{_gigabytes(estimate.disk_bytes)} of disk ({_gigabytes(estimate.free_disk_bytes)} free)."
    )


def _gigabytes(size: float) -> str:
    return f"{size / 1e6:.0f} MB" if size < 1e8 else f"{size / 1e9:.1f} GB"
