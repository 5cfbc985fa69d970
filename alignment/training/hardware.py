"""What this machine means for a run: precision, shares of a batch, what is computed twice.

Owns those choices. Knows no trainer and no loss.
"""

from collections.abc import Sequence
from typing import Any

from alignment.runs.estimate import free_memory_bytes
from alignment.runs.memory import (
    BF16_FROM_PARAMETERS,
    Hardware,
    PairSize,
    load_shape,
    needs_checkpointing,
)
from alignment.runs.recipes import Recipe, TrainingSpec
from alignment.training.rows.data import TokenizedPair
from alignment.training.watch.progress import TrainingError

ONE_THREAD_BELOW_PARAMETERS = 2_000_000


def trains_in_bf16(parameters: int) -> bool:
    """On a GPU that has it always; on a processor where it is fast and the model not tiny."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    if parameters < BF16_FROM_PARAMETERS:
        return False
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def cast_inputs_once(model: Any) -> None:
    """Under autocast each adapted layer of `model` casts what it is given once.

    PEFT casts it up to the adapter's fp32, and autocast down again, for the base and the adapter
    apart; the products are the same.
    """
    import torch

    def cast(_layer: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        inputs, *more = given
        kind = inputs.device.type
        if torch.is_autocast_enabled(kind):
            inputs = inputs.to(torch.get_autocast_dtype(kind))
        return inputs, *more

    for layer in model.modules():
        # Called again for the same model, it finds its work done.
        if getattr(layer, "cast_input_dtype_enabled", False):
            layer.cast_input_dtype_enabled = False
            layer.register_forward_pre_hook(cast)


def settle_threads(parameters: int) -> None:
    """One thread for a model whose products are over before a second one is awake.

    The starter's run took 13.4 s and 16.2 CPU-s on two threads, 11.5 of both on one.
    """
    import torch

    if parameters < ONE_THREAD_BELOW_PARAMETERS:
        torch.set_num_threads(1)


def wants_checkpointing(
    spec: TrainingSpec, rows: Sequence[TokenizedPair], *, free_bytes: int | None = None
) -> bool:
    """Whether activations are computed twice: the recipe says so, or a batch of the longest rows
    would not fit into `free_bytes` (what is free now, when None) by runs.memory's formula.
    """
    if spec.recipe.gradient_checkpointing:
        return True
    shape = load_shape(spec.base_path)
    return needs_checkpointing(
        spec,
        shape,
        [PairSize(len(r.prompt_ids), len(r.chosen_ids), len(r.rejected_ids)) for r in rows],
        Hardware(on_gpu=_on_gpu(), bf16=trains_in_bf16(shape.parameters)),
        free_bytes=_free_bytes() if free_bytes is None else free_bytes,
    )


def split_batch(recipe: Recipe, processes: int) -> tuple[int, int]:
    """(pairs at once in each of `processes`, rounds of them) that are one step's batch.

    Their product over all processes is the recipe's `batch_size`, as in one process alone.
    Raises TrainingError when that can't be shared evenly.
    """
    if recipe.batch_size % processes:
        raise TrainingError(
            f"{processes} processes can't share a batch of {recipe.batch_size} pairs evenly: "
            "use a number of processes that divides it."
        )
    share = recipe.batch_size // processes
    at_once = max(n for n in range(1, min(recipe.micro_batch, share) + 1) if share % n == 0)
    return at_once, share // at_once


def _on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _free_bytes() -> int:
    import torch

    if _on_gpu():
        return int(torch.cuda.mem_get_info()[0])
    return free_memory_bytes()
