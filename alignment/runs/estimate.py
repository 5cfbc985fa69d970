"""What a run will take before it starts: seconds, memory and disk, and whether there is room.

Owns seconds and disk, the lengths of examples, and the refusal; memory's arithmetic is in
alignment.runs.memory. Reads a tokenizer; loads no weights and no torch. Seconds are good to about a
factor of two; a finished run on the same base is believed more than any formula.
"""

import math
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy
import psutil
from tokenizers import Tokenizer

from alignment.runs.memory import (
    HEADROOM,
    Hardware,
    PairSize,
    Shape,
    has_bf16,
    load_shape,
    memory_bytes,
    needs_checkpointing,
    trained_parameters,
)
from alignment.runs.recipes import Recipe, TrainingSpec, sift_steps
from alignment.runs.run_store import FinalMetrics, RunError
from annotation.schema import PreferenceExample

STARTUP_S = 12.0
"""Imports and loading in a cold child, on two shared cores."""
STEP_OVERHEAD_S = 0.09
"""What a step costs however small the model is: about 2,000 calls from Python."""
EFFICIENCY = 0.7
"""Share of this machine's fp32 GEMM peak that a step reaches, bf16 helping where there is any."""
KEPT_CHECKPOINTS = 2
CGROUP = Path("/sys/fs/cgroup")
_TURN_TOKENS = 12
_FLOAT, _ADAM = 4, 2


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run needs and what there is. `seconds` is None where nothing tells: on a GPU that
    has not trained this base yet. `from_earlier_run` says that a finished run was the measure.
    """

    seconds: float | None
    memory_bytes: int
    disk_bytes: int
    free_memory_bytes: int
    free_disk_bytes: int
    on_gpu: bool
    from_earlier_run: bool


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of the examples: the mean and the longest of prompt plus one answer, and of each."""

    mean: float
    longest: int
    pairs: tuple[PairSize, ...]


def estimate_run(
    spec: TrainingSpec,
    *,
    examples: Sequence[PreferenceExample],
    home: Path,
    earlier: Sequence[tuple[TrainingSpec, FinalMetrics]] = (),
) -> Estimate:
    """What `spec` takes on this machine, its files going under `home`.

    `earlier` are finished runs; the last one with the same base, method and tuning gives the time.
    """
    shape = load_shape(spec.base_path)
    window = min(spec.recipe.max_length, shape.window)
    lengths = count_tokens(spec.base_path, examples, window)
    free_gpu = _free_gpu_bytes()
    like = [found for found in earlier if _alike(found[0], spec)]
    if like:
        seconds: float | None = _seconds_like(*like[-1], spec)
    else:
        steps = spec.steps + sift_steps(spec)
        seconds = None if free_gpu else step_seconds(spec, shape, lengths) * steps + STARTUP_S
    free = free_gpu or free_memory_bytes()
    hardware = Hardware(on_gpu=free_gpu is not None, bf16=free_gpu is not None or has_bf16())
    # As the trainer chooses it: twice the computing rather than no run.
    checkpointing = spec.recipe.gradient_checkpointing or needs_checkpointing(
        spec, shape, lengths.pairs, hardware, free_bytes=free
    )
    return Estimate(
        seconds=seconds,
        memory_bytes=memory_bytes(
            spec, shape, lengths.pairs, hardware, checkpointing=checkpointing
        ),
        disk_bytes=disk_bytes(spec.recipe, shape),
        free_memory_bytes=free,
        free_disk_bytes=shutil.disk_usage(_existing(home)).free,
        on_gpu=hardware.on_gpu,
        from_earlier_run=bool(like),
    )


def check_room(estimate: Estimate) -> None:
    """Raise RunError where memory or disk can't be enough, with a margin of HEADROOM."""
    where = "the GPU" if estimate.on_gpu else "this machine"
    needed, free = estimate.memory_bytes * HEADROOM, estimate.free_memory_bytes
    if needed > free:
        raise RunError(
            f"The run needs about {_gigabytes(needed)} of memory and {where} has "
            f"{_gigabytes(free)} free: choose LoRA, a smaller base model, or a bigger machine."
        )
    needed, free = estimate.disk_bytes * HEADROOM, estimate.free_disk_bytes
    if needed > free:
        raise RunError(
            f"The run needs about {_gigabytes(needed)} of disk and the home has "
            f"{_gigabytes(free)} free: free some space, or set VOTETUNE_HOME to a bigger disk."
        )


def describe_estimate(estimate: Estimate) -> str:
    """One line for a person who is about to start a run."""
    if estimate.seconds is None:
        takes = "How long it takes, the first run on this GPU will tell"
    else:
        basis = "as an earlier run did" if estimate.from_earlier_run else "by a formula, ± half"
        takes = f"About {_duration(estimate.seconds)} ({basis})"
    return (
        f"{takes}; {_gigabytes(estimate.memory_bytes)} of memory, "
        f"{_gigabytes(estimate.free_memory_bytes)} free; {_gigabytes(estimate.disk_bytes)} of "
        f"disk, {_gigabytes(estimate.free_disk_bytes)} free."
    )


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def count_tokens(folder: Path, examples: Sequence[PreferenceExample], window: int) -> Lengths:
    """Lengths in `folder`'s own tokens, a dozen added for the turns of the template."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def tokens(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    pairs = []
    for example in examples:
        prompt = " ".join(message.content for message in example.prompt.messages)
        before = tokens(prompt)
        size = min(window, before + _TURN_TOKENS)
        answers = (
            max(0, min(window - size, tokens(f"{prompt} {answer}") - before))
            for answer in (example.chosen, example.rejected)
        )
        pairs.append(PairSize(size, *answers))
    lengths = [pair.prompt + n for pair in pairs for n in (pair.chosen, pair.rejected)]
    return Lengths(
        mean=sum(lengths) / max(1, len(lengths)),
        longest=max(lengths, default=window),
        pairs=tuple(pairs) or (PairSize(window, 0, 0),),
    )


def disk_bytes(recipe: Recipe, shape: Shape) -> int:
    """Two checkpoints with optimizer states and one being written, the best and final weights."""
    trained = trained_parameters(recipe, shape) * _FLOAT
    return (KEPT_CHECKPOINTS + 1) * trained * (1 + _ADAM) + 2 * trained + 5_000_000


def step_seconds(spec: TrainingSpec, shape: Shape, lengths: Lengths) -> float:
    """One optimizer step on this machine's cores, by floating-point operations.

    Forward 2 a parameter and token, backward as much for activations and again for trained
    weights; DPO's reference is one more forward, spread over the steps.
    """
    recipe = spec.recipe
    per_token = 6.0 if recipe.tuning == "full" else 4.0
    if recipe.gradient_checkpointing:
        per_token += 2
    if spec.method == "dpo":
        per_token += 2 * min(1.0, spec.examples / max(1, spec.steps * recipe.batch_size))
    sequences = recipe.batch_size * (1 if spec.method == "sft" else 2)
    weights = shape.linear + shape.vocabulary * shape.hidden
    operations = per_token * weights * sequences * lengths.mean
    return STEP_OVERHEAD_S + operations / (_gemm_peak() * EFFICIENCY)


def free_memory_bytes() -> int:
    """What a new process may take: of the machine, and of the container that this one is in."""
    free = int(psutil.virtual_memory().available)
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            room = int((CGROUP / limit).read_text()) - int((CGROUP / used).read_text())
        except (OSError, ValueError):
            continue
        free = min(free, room)
    return max(0, free)


def _alike(one: TrainingSpec, other: TrainingSpec) -> bool:
    return (one.base, one.method, one.recipe.tuning) == (
        other.base,
        other.method,
        other.recipe.tuning,
    )


def _seconds_like(spec: TrainingSpec, final: FinalMetrics, wanted: TrainingSpec) -> float:
    startup = min(STARTUP_S, final.seconds / 2)
    steps = (final.steps or spec.steps) + sift_steps(spec)
    return startup + (final.seconds - startup) / steps * (wanted.steps + sift_steps(wanted))


@cache
def _gemm_peak() -> float:
    """fp32 operations a second of this process's BLAS, by the best of five products."""
    side = 768
    matrix = numpy.ones((side, side), dtype=numpy.float32)
    best = math.inf
    for _ in range(5):
        began = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


@cache
def _nvidia_smi() -> str | None:
    return shutil.which("nvidia-smi")


def _free_gpu_bytes() -> int | None:
    """Free memory of the first GPU, None without one."""
    program = _nvidia_smi()
    if program is None:
        return None
    command = [program, "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return int(done.stdout.split()[0]) * 1024**2
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return folder if folder.exists() else _existing(folder.parent)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
