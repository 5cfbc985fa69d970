"""From what a person asks to what a run pins: options, base and dataset become a spec.

Owns what is refused before anything is made. Reads headers and versions; loads nothing.
"""

import importlib.metadata
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import get_args

from alignment.base import ResolvedBase
from alignment.recipes import (
    Loss,
    Method,
    Recipe,
    TrainingOptions,
    TrainingSpec,
    Tuning,
    Where,
    count_parameters,
    default_recipe,
    default_steps,
)
from alignment.run_store import RunError

MAX_FLIP_RATE = 0.45
_ROOT = Path(__file__).parent.parent
_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


def plan_run(
    options: TrainingOptions, *, base: ResolvedBase, dataset_sha256: str, examples: int
) -> TrainingSpec:
    """The spec of a run on a dataset, with presets for what `options` leaves open.

    Raises RunError for an unknown method, loss or tuning, a loss that is not the method's, and
    a number that makes no sense.
    """
    _check(options)
    recipe = _recipe(options, count_parameters(base.path))
    steps = options.steps or default_steps(examples, recipe.batch_size)
    return TrainingSpec(
        method=options.method,
        recipe=recipe,
        steps=steps,
        checkpoint_steps=max(1, min(25, steps // 4)),
        seed=options.seed,
        base=base.ref,
        base_path=base.path.absolute(),
        dataset_sha256=dataset_sha256,
        examples=examples,
        code_revision=_code_revision(),
        versions=tuple((name, importlib.metadata.version(name)) for name in _PACKAGES),
        flip_rate=options.flip_rate,
        where=options.where,
    )


def _check(options: TrainingOptions) -> None:
    choices = (
        ("Method", options.method, get_args(Method)),
        ("Loss", options.loss, (None, *get_args(Loss))),
        ("Tuning", options.tuning, get_args(Tuning)),
        ("Where", options.where, get_args(Where)),
    )
    for name, value, known in choices:
        if value not in known:
            raise RunError(f"{name} {value!r} is unknown: use {_any_of(known)}.")
    if options.loss is not None and options.method != "dpo":
        raise RunError(f"Loss {options.loss} is one of DPO's: use it with the method dpo.")
    for name, number in (("Steps", options.steps), ("Learning rate", options.learning_rate)):
        if number is not None and number <= 0:
            raise RunError(f"{name} can't be {number}: use more than 0.")
    if options.beta is not None and options.beta <= 0:
        raise RunError(f"Beta can't be {options.beta}: use more than 0.")
    if options.flip_rate is not None and not 0 <= options.flip_rate <= MAX_FLIP_RATE:
        raise RunError(
            f"Flip rate can't be {options.flip_rate}: use 0 to {MAX_FLIP_RATE}; votes that err "
            "half the time teach nothing."
        )
    if options.loss == "robust" and options.flip_rate is None:
        raise RunError(
            "The robust loss needs a flip rate: give one, or collect votes that overlap."
        )


def _any_of(known: tuple[str | None, ...]) -> str:
    names = [name for name in known if name is not None]
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _recipe(options: TrainingOptions, parameters: int) -> Recipe:
    recipe = replace(default_recipe(options.method, parameters), tuning=options.tuning)
    wanted = {
        name: value
        for name in ("loss", "learning_rate", "beta")
        if (value := getattr(options, name)) is not None
    }
    return replace(recipe, **wanted)


def _code_revision() -> str | None:
    """The commit of this code, or None where it is not a git checkout."""
    command = ["git", "-C", str(_ROOT), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
