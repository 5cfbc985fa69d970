"""From what a person asks to what a run pins: options, base and dataset become a spec.

Owns what is refused before anything is made. Reads headers and versions; loads nothing.
"""

import importlib.metadata
import math
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

from alignment.base import ResolvedBase
from alignment.hub.model_files import read_json
from alignment.hub.tuned import CONFIG
from alignment.registry import RegisteredModel
from alignment.runs.recipes import (
    DEFAULT_REFERENCE,
    Loss,
    Method,
    Recipe,
    Reference,
    Start,
    TrainingOptions,
    TrainingSpec,
    Tuning,
    Where,
    count_parameters,
    default_recipe,
    default_steps,
)
from alignment.runs.run_store import RunError

MAX_FLIP_RATE = 0.45
LOSSES_WITH_PENALTY: tuple[Loss, ...] = ("sigmoid", "robust")
_ROOT = Path(__file__).parents[2]
_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


def plan_run(
    options: TrainingOptions,
    *,
    base: ResolvedBase,
    dataset_sha256: str,
    examples: int,
    start: RegisteredModel | None = None,
) -> TrainingSpec:
    """The spec of a run on a dataset, with presets for what `options` leaves open.

    It goes on from `start`'s weights, the base's where that is None. Raises RunError for an
    unknown method, loss or tuning, an option that is not the method's or not the loss's, a number
    that makes no sense, and a start of another kind than what is trained.
    """
    _check(options)
    recipe = _recipe(options, count_parameters(base.path), warm=start is not None)
    if start is not None:
        recipe = _recipe_from(start, recipe)
    _check_together(recipe, options.flip_rate)
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
        code_revision=code_revision(),
        versions=package_versions(),
        flip_rate=options.flip_rate,
        where=options.where,
        start=_start(start, options),
    )


def _start(model: RegisteredModel | None, options: TrainingOptions) -> Start | None:
    if model is None:
        return None
    return Start(model.name, model.ref, options.reference or DEFAULT_REFERENCE)


def _recipe_from(start: RegisteredModel, recipe: Recipe) -> Recipe:
    """`recipe` with the rank of the adapter that is trained on; RunError where there is none."""
    if start.weights_path is None or start.tuning != recipe.tuning:
        kinds = {"full": ("a whole model", "an adapter"), "lora": ("an adapter", "all weights")}
        what, wanted = kinds[start.tuning or "full"]
        raise RunError(
            f"{start.name} is {what}, and {wanted} can't go on from it: start from the base, or "
            f"train {'all weights' if start.tuning == 'full' else 'an adapter'}."
        )
    if recipe.tuning == "full":
        return recipe
    config = read_json(start.weights_path / CONFIG)
    return replace(recipe, lora_r=int(str(config["r"])), lora_alpha=int(str(config["lora_alpha"])))


def _check(options: TrainingOptions) -> None:
    choices = (
        ("Method", options.method, get_args(Method)),
        ("Loss", options.loss, (None, *get_args(Loss))),
        ("Tuning", options.tuning, get_args(Tuning)),
        ("Where", options.where, get_args(Where)),
        ("Reference", options.reference, (None, *get_args(Reference))),
    )
    for name, value, known in choices:
        if value not in known:
            raise RunError(f"{name} {value!r} is unknown: use {_any_of(known)}.")
    if options.method != "dpo":
        for name, wanted in _of_dpo_alone(options):
            raise RunError(f"{name} {wanted} is one of DPO's: use it with the method dpo.")
    above_zero = (
        ("Steps", options.steps),
        ("Learning rate", options.learning_rate),
        ("Beta", options.beta),
    )
    for name, number in above_zero:
        if number is not None and not 0 < number < math.inf:
            raise RunError(f"{name} can't be {number}: use more than 0.")
    if options.sft_weight is not None and not 0 <= options.sft_weight < math.inf:
        raise RunError(f"SFT weight can't be {options.sft_weight}: use 0 or more.")
    if options.ld_alpha is not None and not 0 <= options.ld_alpha <= 1:
        raise RunError(f"LD alpha can't be {options.ld_alpha}: use 0 to 1.")
    if options.length_penalty is not None and not math.isfinite(options.length_penalty):
        raise RunError(f"Length penalty can't be {options.length_penalty}: try 0.01 a token.")
    if options.flip_rate is not None and not 0 <= options.flip_rate <= MAX_FLIP_RATE:
        raise RunError(
            f"Flip rate can't be {options.flip_rate}: use 0 to {MAX_FLIP_RATE}; votes that err "
            "half the time teach nothing."
        )


def _of_dpo_alone(options: TrainingOptions) -> Iterator[tuple[str, str | float]]:
    wanted = (
        ("Loss", options.loss),
        ("SFT weight", options.sft_weight),
        ("Length penalty", options.length_penalty),
        ("LD alpha", options.ld_alpha),
        ("Flip rate", options.flip_rate),
    )
    return ((name, value) for name, value in wanted if value is not None)


def _check_together(recipe: Recipe, flip_rate: float | None) -> None:
    if recipe.loss == "robust" and flip_rate is None:
        raise RunError(
            "The robust loss needs a flip rate: give one, or collect votes that overlap."
        )
    if recipe.loss != "robust" and flip_rate is not None:
        raise RunError(f"The loss {recipe.loss} has no use for a flip rate: choose robust.")
    if recipe.length_penalty and recipe.loss not in LOSSES_WITH_PENALTY:
        raise RunError(
            f"A length penalty means nothing to the loss {recipe.loss}: use it with "
            f"{_any_of(LOSSES_WITH_PENALTY)}."
        )
    if recipe.length_penalty and recipe.ld_alpha is not None:
        raise RunError("Length penalty and LD alpha guard against the same: choose one of them.")


def _any_of(known: tuple[str | None, ...]) -> str:
    names = [name for name in known if name is not None]
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _recipe(options: TrainingOptions, parameters: int, *, warm: bool) -> Recipe:
    preset = default_recipe(
        options.method,
        parameters,
        loss=options.loss or "sigmoid",
        tuning=options.tuning,
        guarded=bool(options.length_penalty) or options.ld_alpha is not None,
        warm=warm,
    )
    wanted = {
        name: value
        for name in ("learning_rate", "beta", "sft_weight", "length_penalty", "ld_alpha")
        if (value := getattr(options, name)) is not None
    }
    return replace(preset, **wanted)


def package_versions() -> tuple[tuple[str, str], ...]:
    """The packages that training depends on, by name and version."""
    return tuple((name, importlib.metadata.version(name)) for name in _PACKAGES)


def code_revision() -> str | None:
    """The commit of this code, or None where it is not a git checkout."""
    command = ["git", "-C", str(_ROOT), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
