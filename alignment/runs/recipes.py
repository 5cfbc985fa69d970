"""What a training run is made of: its spec, presets by size of the model, steps by examples.

Owns every default of training. Reads a model's size from its safetensors headers; loads nothing.
"""

import json
import math
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from annotation.schema import ModelRef

Method = Literal["dpo", "orpo", "sft"]
"""`sft` is plain fine-tuning on the chosen answers: the baseline, or a first stage."""

Loss = Literal[
    "sigmoid",
    "ipo",
    "robust",
    "hinge",
    "exo_pair",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sigmoid_norm",
]
"""TRL's losses of DPO, by its names (DPOConfig.loss_type).

Two are for special cases: apo_down lowers the chosen answers too, and discopop's slope points the
wrong way where training begins (its minimum near 0 lies at a negative margin).
"""

Tuning = Literal["lora", "full"]

Where = Literal["here", "accelerate", "jobs"]
"""A child process here, several processes by `accelerate launch`, or a job on the Hub."""

Reference = Literal["base", "start"]
"""What DPO keeps a model close to: the base, or the tuned model that the run starts from."""

DEFAULT_START = "base"
DEFAULT_REFERENCE: Reference = "base"
"""Kept close to itself, a policy lost .02 to .03 of correctness and .04 to .05 of form."""
WARM_LEARNING_RATE = 0.15
"""What a run that goes on from a tuned model takes of a preset's learning rate."""

STEPS_PER_EXAMPLE = 0.9
"""Some seven passes in batches of 8. Of 200 votes on the starter about 104 become examples."""
MIN_STEPS, ENOUGH_STEPS, MAX_STEPS = 10, 75, 2000
SIFT_PASSES = 2
"""Passes over the examples before a sift tells whose votes stand against the rest."""
FULL_LEARNING_RATE = 0.25
"""What full tuning takes of LoRA's learning rate where nothing was measured."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Hyperparameters of one method on one size of model.

    `beta` is DPO's β or ORPO's λ; SFT has no use for it but to scale the rewards that it reports.
    `loss`, `sft_weight`, the length guards and `sift` are DPO's alone. `sft_weight` adds that much
    of the chosen answers' NLL. `length_penalty` is R-DPO's α, a token: above 0 it keeps answers
    from growing, below 0 from shrinking. `ld_alpha` is LD-DPO's α, 0 to 1: how much the tokens
    count that one answer has beyond the other's length; None or 1 is plain DPO. With `sift` the
    robust loss corrects no gradient: a first pass leaves out the examples that it ranks against
    their vote, at most the flip rate's share, and the rest is trained on as if none were flipped.
    `micro_batch` pairs go through the model at once, until `batch_size` of them are one step.
    """

    learning_rate: float
    beta: float
    loss: Loss = "sigmoid"
    tuning: Tuning = "lora"
    sft_weight: float = 0.0
    length_penalty: float = 0.0
    ld_alpha: float | None = None
    lora_r: int = 16
    lora_alpha: int = 32
    batch_size: int = 8
    micro_batch: int = 8
    max_length: int = 1024
    gradient_checkpointing: bool = False
    sift: bool = False


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """What a person asks of a run. None leaves it to the preset and to the data.

    `flip_rate` is the share of examples whose sides are thought to be swapped, 0 to below ½; the
    robust loss needs it, and no other takes it. `start` names the model whose weights the run goes
    on from: base, policy, a run's id or a pulled owner/name. For the rest see Recipe.
    """

    method: Method
    loss: Loss | None = None
    tuning: Tuning = "lora"
    steps: int | None = None
    seed: int = 0
    learning_rate: float | None = None
    beta: float | None = None
    sft_weight: float | None = None
    length_penalty: float | None = None
    ld_alpha: float | None = None
    flip_rate: float | None = None
    where: Where = "here"
    start: str = DEFAULT_START
    reference: Reference | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """The tuned model whose weights a run goes on from: `name` in this home, `model` by hash.

    `reference` is DPO's; the other methods have none.
    """

    name: str
    model: ModelRef
    reference: Reference


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """Everything that a run pins: what is trained, on what, how, and by which code.

    `votes_sha256` is that of the votes behind the dataset. `dataset_repo` and `dataset_commit` say
    where on the Hub the dataset lay when the run began, None where it had not been published.
    """

    method: Method
    recipe: Recipe
    steps: int
    checkpoint_steps: int
    seed: int
    base: ModelRef
    base_path: Path
    dataset_sha256: str
    examples: int
    code_revision: str | None
    versions: tuple[tuple[str, str], ...]
    flip_rate: float | None = None
    where: Where = "here"
    votes_sha256: str | None = None
    dataset_repo: str | None = None
    dataset_commit: str | None = None
    start: Start | None = None


# Picked on the starter (0.9M parameters) by prompts that no report uses: 200 decided votes, two to
# five draws of them each (tests/benchmarks/alignment_results.md).
_TINY: dict[Method, Recipe] = {
    "dpo": Recipe(learning_rate=2e-3, beta=1.0, sft_weight=10.0),
    "orpo": Recipe(learning_rate=8.5e-4, beta=0.25),
    "sft": Recipe(learning_rate=1e-3, beta=1.0),
}
_TINY_FULL: dict[Method, Recipe] = {
    "dpo": Recipe(learning_rate=5e-4, beta=1.0, sft_weight=6.0),
    "orpo": Recipe(learning_rate=4e-4, beta=1.0),
    "sft": Recipe(learning_rate=5e-4, beta=1.0),
}
_TINY_IPO = Recipe(learning_rate=1.3e-3, beta=1.0, sft_weight=6.0)
# A guard takes length out of the votes, and SFT would bring it back.
_TINY_GUARDED = Recipe(learning_rate=1.5e-3, beta=1.0, sft_weight=1.0)
# From the literature, run for soundness only: nobody has measured a win rate with these here.
_SMALL: dict[Method, Recipe] = {
    "dpo": Recipe(learning_rate=2e-4, beta=0.1, sft_weight=0.2, micro_batch=2),
    "orpo": Recipe(learning_rate=2e-4, beta=0.25, micro_batch=2),
    "sft": Recipe(learning_rate=2e-4, beta=1.0, micro_batch=2),
}
_LARGE: dict[Method, Recipe] = {
    "dpo": Recipe(
        learning_rate=2e-5, beta=0.1, sft_weight=0.2, micro_batch=1, gradient_checkpointing=True
    ),
    "orpo": Recipe(learning_rate=2e-5, beta=0.1, micro_batch=1, gradient_checkpointing=True),
    "sft": Recipe(learning_rate=2e-5, beta=1.0, micro_batch=1, gradient_checkpointing=True),
}


def default_recipe(
    method: Method,
    parameters: int,
    *,
    loss: Loss = "sigmoid",
    tuning: Tuning = "lora",
    guarded: bool = False,
    warm: bool = False,
) -> Recipe:
    """The preset for `method` on a model of that many parameters; `guarded` by a length guard,
    `warm` for weights that have learned from votes before.
    """
    if parameters < 20_000_000:
        recipe = _tiny(method, loss, tuning, guarded=guarded)
    else:
        recipe = (_SMALL if parameters < 1_000_000_000 else _LARGE)[method]
        if tuning == "full":
            rate = FULL_LEARNING_RATE * recipe.learning_rate
            recipe = replace(recipe, learning_rate=rate)
    if warm:
        recipe = replace(recipe, learning_rate=WARM_LEARNING_RATE * recipe.learning_rate)
    return replace(recipe, loss=loss, tuning=tuning)


def _tiny(method: Method, loss: Loss, tuning: Tuning, *, guarded: bool) -> Recipe:
    if loss == "robust":
        # Its correction has no lower bound and broke the starter's form; a sift takes its place.
        return replace(_tiny(method, "sigmoid", tuning, guarded=guarded), sift=True)
    if tuning == "full":
        return _TINY_FULL[method]
    if method != "dpo" or (loss == "sigmoid" and not guarded):
        return _TINY[method]
    return _TINY_IPO if loss == "ipo" else _TINY_GUARDED if guarded else _TINY[method]


def default_steps(examples: int, batch_size: int = 8) -> int:
    """Optimizer steps for that many examples: 36 for 40, 75 from 84 on, then one pass at least.

    Where enough is enough, a batch twice as big takes 1/√2 of the steps: 53 for 200 in 16s.
    On the starter, with a rate of 1e-3, 36 steps on 40 decided votes won .67 and 22 won .58, both
    without harm; on 400, 110 steps won .01 more than 75.
    """
    some_passes = round(STEPS_PER_EXAMPLE * examples * 8 / batch_size)
    one_pass = math.ceil(examples / batch_size)
    enough = round(ENOUGH_STEPS * math.sqrt(8 / batch_size))
    return min(MAX_STEPS, max(MIN_STEPS, min(enough, some_passes), one_pass))


def sift_steps(spec: TrainingSpec) -> int:
    """Optimizer steps of the first pass of a run that sifts its examples; 0 where none is taken."""
    if not spec.recipe.sift or not spec.flip_rate:
        return 0
    steps = math.ceil(SIFT_PASSES * spec.examples / spec.recipe.batch_size)
    return min(MAX_STEPS, max(MIN_STEPS, steps))


def count_parameters(folder: Path) -> int:
    """Parameters of all *.safetensors in `folder`, read from their headers alone."""
    return sum(math.prod(shape) for shape in tensor_shapes(folder).values())


def tensor_shapes(folder: Path) -> dict[str, list[int]]:
    """The shape of every tensor of all *.safetensors in `folder`, by name."""
    return {
        name: entry["shape"]
        for file in sorted(folder.glob("*.safetensors"))
        for name, entry in _header(file).items()
        if name != "__metadata__"
    }


def _header(file: Path) -> dict[str, dict[str, list[int]]]:
    # The format: eight little-endian bytes of header length, then the header as JSON.
    with file.open("rb") as handle:
        (length,) = struct.unpack("<Q", handle.read(8))
        header: dict[str, dict[str, list[int]]] = json.loads(handle.read(length))
    return header
