"""What a spec means: which of TRL's trainers, with which arguments, on which model and rows.

Owns that choice; what ours change of TRL's trainers is in alignment.training.methods. Knows no
process and no state. Heavy imports happen inside functions.
"""

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignment.checks.base_checks import check_base
from alignment.runs.recipes import TrainingSpec
from alignment.runs.run_store import RunFolder
from alignment.training.hardware import (
    settle_threads,
    split_batch,
    trains_in_bf16,
    wants_checkpointing,
)
from alignment.training.methods.dpo import dpo_trainer
from alignment.training.methods.orpo import orpo_trainer
from alignment.training.methods.sft import sft_trainer, sides_collator
from alignment.training.rows.data import TokenizedPair
from alignment.training.rows.references import kept_references
from alignment.training.rows.rows import load_rows, to_dataset
from alignment.training.rows.sift import sift
from alignment.training.watch.progress import TrainingError
from alignment.training.watch.tracking import tracking_arguments
from alignment.training.weights.warm_start import settle, starting_point

EXO_SMOOTHING = 1e-3
"""The ε that EXO's paper recommends (arXiv 2402.00856); TRL refuses 0."""
_FLEETING = {"report_to": "none", "save_strategy": "no"}


def build_trainer(folder: RunFolder, spec: TrainingSpec) -> tuple[Any, int]:
    """A TRL trainer for `spec`, ready to train, and the number of pairs held out.

    Raises TrainingError for a base that check_base says can't be trained, and without any pair
    that fits.
    """
    from transformers import AutoTokenizer

    _settle_libraries()
    path = spec.base_path
    for problem in check_base(path):
        if problem.blocking:
            raise TrainingError(problem.line)
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    train_rows, eval_rows = load_rows(folder, spec, tokenizer)
    checkpointing = wants_checkpointing(spec, [*train_rows, *eval_rows])
    recipe = dataclasses.replace(spec.recipe, gradient_checkpointing=checkpointing)
    spec = dataclasses.replace(spec, recipe=recipe)
    kept_rows = sift(
        folder, spec, train_rows, lambda first: _trainer(folder, first, tokenizer, train_rows)
    )
    return _trainer(folder, spec, tokenizer, kept_rows, eval_rows, lasting=True), len(eval_rows)


def _trainer(
    folder: RunFolder,
    spec: TrainingSpec,
    tokenizer: Any,
    train_rows: Sequence[TokenizedPair],
    eval_rows: Sequence[TokenizedPair] = (),
    *,
    lasting: bool = False,
) -> Any:
    """A trainer of the base on `train_rows`; without `lasting` it saves and tracks nothing."""
    start = starting_point(folder, spec)
    parameters = start["model"].num_parameters()
    settle_threads(parameters)
    trainer_class, config = _method(spec, folder.checkpoints, parameters, lasting=lasting)
    shared = folder.checkpoints / ("rows-train" if lasting else "rows-sift")
    more: dict[str, Any] = {}
    if spec.method == "sft":
        more["data_collator"] = sides_collator(tokenizer.pad_token_id)
    trainer = trainer_class(
        args=config,
        train_dataset=to_dataset(train_rows, shared),
        eval_dataset=to_dataset(eval_rows, folder.checkpoints / "rows-eval") if eval_rows else None,
        processing_class=tokenizer,
        **start,
        **more,
    )
    settle(trainer, folder, spec)
    return trainer


def _settle_libraries() -> None:
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()


def _method(spec: TrainingSpec, output: Path, parameters: int, *, lasting: bool) -> tuple[Any, Any]:
    """The trainer's class and its config for `spec.method`."""
    recipe = spec.recipe
    arguments = _arguments(spec, output, parameters)
    arguments |= tracking_arguments(output.parent) if lasting else _FLEETING
    if spec.method == "dpo":
        from trl import DPOConfig

        config = DPOConfig(**arguments, **_dpo_arguments(spec))
        folder = RunFolder(output.parent)
        references = functools.partial(kept_references, folder, spec)
        return dpo_trainer(recipe.length_penalty, references), config
    if spec.method == "orpo":
        from trl.experimental.orpo import ORPOConfig

        config = ORPOConfig(**arguments, beta=recipe.beta, remove_unused_columns=False)
        return orpo_trainer(), config
    from trl import SFTConfig

    prepared = {"skip_prepare_dataset": True}
    config = SFTConfig(**arguments, remove_unused_columns=False, dataset_kwargs=prepared)
    return sft_trainer(recipe.beta), config


def _dpo_arguments(spec: TrainingSpec) -> dict[str, Any]:
    recipe = spec.recipe
    # Where a sift has left out what is thought to be flipped, nothing is left to correct.
    flips = 0.0 if recipe.sift else spec.flip_rate or 0.0
    smoothing = {"robust": flips, "exo_pair": EXO_SMOOTHING}
    passes = spec.steps * recipe.batch_size / spec.examples
    return {
        "beta": recipe.beta,
        "loss_type": [recipe.loss, "sft"] if recipe.sft_weight else [recipe.loss],
        "loss_weights": [1.0, recipe.sft_weight] if recipe.sft_weight else None,
        "label_smoothing": smoothing.get(recipe.loss, 0.0),
        "ld_alpha": recipe.ld_alpha,
        # A reference pass over all pairs beforehand pays from the second epoch on. A full fine-tune
        # has no base left to ask later, and R-DPO's penalty is laid on what was computed.
        "precompute_ref_log_probs": (
            passes > 1.5
            or recipe.tuning == "full"
            or recipe.length_penalty != 0
            or spec.start is not None
        ),
    }


def _arguments(spec: TrainingSpec, output: Path, parameters: int) -> dict[str, Any]:
    import torch

    recipe = spec.recipe
    cuda = torch.cuda.is_available()
    # accelerate and torchrun say in WORLD_SIZE how many processes share a batch.
    at_once, rounds = split_batch(recipe, int(os.environ.get("WORLD_SIZE") or 1))
    return {
        "output_dir": str(output),
        "max_steps": spec.steps,
        "learning_rate": recipe.learning_rate,
        "per_device_train_batch_size": at_once,
        "per_device_eval_batch_size": at_once,
        "gradient_accumulation_steps": rounds,
        "max_length": recipe.max_length,
        "gradient_checkpointing": recipe.gradient_checkpointing,
        "bf16": trains_in_bf16(parameters),
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        "seed": spec.seed,
        "logging_steps": 1,
        # The filter would log a NaN loss as 0.0.
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": spec.checkpoint_steps,
        "save_total_limit": 2,
        "eval_strategy": "no",
        "push_to_hub": False,
        "disable_tqdm": True,
    }
