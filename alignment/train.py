"""The training child: `python -m alignment.train RUN_DIR` trains what the run's spec.json says.

The only importer of trl. DPO and ORPO with LoRA on all linear layers; the reference is the base.
Reports through the run's folder alone and reaches no network. Heavy imports happen inside
functions, after the signal handler stands and the folder says what goes on.
"""

import dataclasses
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.chat import end_of_turn_ids
from alignment.recipes import TrainingSpec
from alignment.run_store import COMPLETE, FinalMetrics, RunFolder, RunState
from alignment.train_progress import (
    Stopped,
    StopSignal,
    TrainingError,
    one_line,
    record_step,
    say_stopped,
)
from alignment.training_data import TokenizedPair, split_held_out, tokenize_examples
from annotation.export import load_examples
from annotation.schema import ModelRef

if TYPE_CHECKING:
    import torch

_BF16_FROM_PARAMETERS = 20_000_000
_IGNORED = -100


def main(arguments: Sequence[str]) -> int:
    """Run to the end and say so in state.json; the exit status is 0 unless the run failed."""
    folder = RunFolder(Path(arguments[0]))
    stop = StopSignal()
    signal.signal(signal.SIGTERM, stop.handle)
    try:
        _train(folder, stop)
    except Stopped:
        stop.deferred = True
        say_stopped(folder)
    except Exception as error:  # noqa: BLE001 -- the process boundary: reported in the folder
        stop.deferred = True
        traceback.print_exc()
        with folder.locked():
            folder.move(RunState.FAILED, reason=one_line(error))
        return 1
    return 0


def _train(folder: RunFolder, stop: StopSignal) -> None:
    started = time.monotonic()
    spec = folder.spec()
    print(f"{spec.method} on {spec.base.label}, {spec.examples} examples, {spec.steps} steps")  # noqa: T201
    trainer, held_out = build_trainer(folder, spec)
    trainer.add_callback(_callback(folder, stop))
    checkpoint = folder.last_checkpoint()
    done = int(checkpoint.name.split("-")[1]) if checkpoint else 0
    print(f"training from step {done}")  # noqa: T201
    folder.keep_metrics(done)
    _enter(folder, RunState.TRAINING)
    stop.deferred = True
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    stop.deferred = False
    stop.check()
    _enter(folder, RunState.EVALUATING)
    evaluated = trainer.evaluate() if held_out else {}
    stop.deferred = True
    save_adapter(trainer.model, spec.base, folder.adapter)
    _clear(folder.checkpoints)
    last = folder.metrics()[-1]
    final = FinalMetrics(
        loss=last.loss,
        reward_accuracy=last.reward_accuracy or 0.0,
        reward_margin=last.reward_margin or 0.0,
        seconds=round(time.monotonic() - started, 1),
        eval_pairs=held_out,
        eval_loss=evaluated.get("eval_loss"),
        eval_reward_accuracy=evaluated.get("eval_rewards/accuracies"),
        eval_reward_margin=evaluated.get("eval_rewards/margins"),
    )
    with folder.locked():
        folder.move(RunState.DONE, final=final)


def _enter(folder: RunFolder, state: RunState) -> None:
    with folder.locked():
        folder.move(state)


def build_trainer(folder: RunFolder, spec: TrainingSpec) -> tuple[Any, int]:
    """A TRL trainer for `spec`, ready to train, and the number of pairs held out."""
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _settle_libraries()
    path, recipe = spec.base_path, spec.recipe
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        path,
        dtype="float32",
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    window = getattr(model.config, "max_position_embeddings", recipe.max_length)
    recipe = dataclasses.replace(recipe, max_length=min(recipe.max_length, window))
    spec = dataclasses.replace(spec, recipe=recipe)
    train, held_out = split_held_out(load_examples(folder.dataset))
    ends = end_of_turn_ids(tokenizer, path)
    train_rows = tokenize_examples(tokenizer, train, end_ids=ends, max_length=recipe.max_length)
    eval_rows = tokenize_examples(tokenizer, held_out, end_ids=ends, max_length=recipe.max_length)
    left_out = len(train) - len(train_rows)
    print(f"{len(train_rows)} pairs to train on, {len(eval_rows)} held out, {left_out} too long")  # noqa: T201
    if not train_rows:
        raise TrainingError(
            f"No example fits into {recipe.max_length} tokens: use shorter prompts or a base "
            "model with a longer window."
        )
    lora = LoraConfig(
        r=recipe.lora_r,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    trainer_class, config = _method(spec, folder.checkpoints, model.num_parameters())
    trainer = trainer_class(
        model=model,
        args=config,
        train_dataset=_dataset(train_rows),
        eval_dataset=_dataset(eval_rows) if eval_rows else None,
        processing_class=tokenizer,
        peft_config=lora,
    )
    return trainer, len(eval_rows)


def _settle_libraries() -> None:
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()


def _dataset(rows: Sequence[TokenizedPair]) -> Any:
    from datasets import Dataset

    # ORPO's constructor looks for text columns before it tokenizes; ours are there already.
    empty = {"prompt": "", "chosen": "", "rejected": ""}
    return Dataset.from_list([dataclasses.asdict(row) | empty for row in rows])


def _method(spec: TrainingSpec, output: Path, parameters: int) -> tuple[Any, Any]:
    """The trainer's class and its config for `spec.method`."""
    arguments = _arguments(spec, output, parameters)
    if spec.method == "dpo":
        from trl import DPOConfig

        weight = spec.recipe.sft_weight
        losses: dict[str, Any] = (
            {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, weight]}
            if weight
            else {"loss_type": ["sigmoid"]}
        )
        passes = spec.steps * spec.recipe.batch_size / spec.examples
        # A reference pass over all pairs beforehand pays from the second epoch on.
        config = DPOConfig(**arguments, **losses, precompute_ref_log_probs=passes > 1.5)
        return dpo_trainer(), config
    from trl.experimental.orpo import ORPOConfig

    return orpo_trainer(), ORPOConfig(**arguments, remove_unused_columns=False)


def _arguments(spec: TrainingSpec, output: Path, parameters: int) -> dict[str, Any]:
    import torch

    recipe = spec.recipe
    cuda = torch.cuda.is_available()
    return {
        "output_dir": str(output),
        "max_steps": spec.steps,
        "learning_rate": recipe.learning_rate,
        "beta": recipe.beta,
        "per_device_train_batch_size": recipe.micro_batch,
        "per_device_eval_batch_size": recipe.micro_batch,
        "gradient_accumulation_steps": max(1, recipe.batch_size // recipe.micro_batch),
        "max_length": recipe.max_length,
        "gradient_checkpointing": recipe.gradient_checkpointing,
        "bf16": parameters >= _BF16_FROM_PARAMETERS and _has_fast_bf16(),
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
        "report_to": "none",
        "push_to_hub": False,
        "disable_tqdm": True,
    }


def _has_fast_bf16() -> bool:
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def dpo_trainer() -> Any:
    """TRL's DPOTrainer on pairs that are tokenized already."""
    from trl import DPOTrainer

    class PairsDpoTrainer(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def create_model_card(self, *_: Any, **__: Any) -> None:
            """None: the card is written when a run is published."""

    return PairsDpoTrainer


def orpo_trainer() -> Any:
    """TRL's ORPOTrainer on tokenized pairs, its NLL over the chosen completion only.

    Stock TRL takes the NLL over prompt and completion, which taught the starter to write prompts.
    """
    from trl.experimental.orpo import ORPOTrainer

    class CompletionOrpoTrainer(ORPOTrainer):  # type: ignore[misc]
        tokenize_row = staticmethod(_orpo_row)

        def concatenated_forward(self, model: Any, batch: Mapping[str, Any]) -> tuple[Any, ...]:
            chosen_logps, *rest = super().concatenated_forward(model, batch)
            nll = completion_nll(chosen_logps, batch["chosen_labels"])
            return (chosen_logps, *rest[:3], nll, *rest[4:])

        def create_model_card(self, *_: Any, **__: Any) -> None:
            """None: the card is written when a run is published."""

    return CompletionOrpoTrainer


def completion_nll(mean_logps: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
    """Mean negative log-likelihood per completion token over a batch; L_SFT of ORPO, eq. 6.

    `mean_logps` (batch,) are log-probs averaged over each row's labelled tokens; `labels`
    (batch, length) are -100 off the completion. Position 0 is never predicted.
    """
    tokens = (labels[:, 1:] != _IGNORED).sum(-1).to(mean_logps.device)
    return -(mean_logps * tokens).sum() / tokens.sum()


def _orpo_row(row: Mapping[str, Any]) -> dict[str, list[int]]:
    """The columns of TRL's ORPO collator, from a tokenized pair; adds no token of its own."""
    columns: dict[str, list[int]] = {}
    prompt_ids = row["prompt_ids"]
    for side in ("chosen", "rejected"):
        ids = row[f"{side}_ids"]
        columns[f"{side}_input_ids"] = prompt_ids + ids
        columns[f"{side}_attention_mask"] = [1] * (len(prompt_ids) + len(ids))
        columns[f"{side}_labels"] = [_IGNORED] * len(prompt_ids) + ids
    return columns


def _callback(folder: RunFolder, stop: StopSignal) -> Any:
    from transformers import TrainerCallback

    class FolderCallback(TrainerCallback):  # type: ignore[misc]
        """Writes metrics and progress after each step; ends the run on a signal or a NaN."""

        def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                record_step(folder, state.global_step, logs)

        def on_step_end(self, _args: Any, _state: Any, control: Any, **_: Any) -> None:
            if stop.requested:
                control.should_save = control.should_training_stop = True

        def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()

    return FolderCallback()


def save_adapter(model: Any, base: ModelRef, directory: Path) -> None:
    """Write adapter_config.json, naming `base` at its revision, and adapter_model.safetensors.

    Both files appear at once; nothing else of what TRL and PEFT save goes with them.
    """
    draft = directory.with_name(".adapter")
    shutil.rmtree(draft, ignore_errors=True)
    config = model.peft_config["default"]
    config.base_model_name_or_path = base.base
    config.revision = base.base_revision
    # Without this PEFT asks the Hub whether the base's vocabulary was changed.
    model.save_pretrained(draft, save_embedding_layers=False)
    for extra in draft.iterdir():
        if extra.name not in ("adapter_config.json", "adapter_model.safetensors"):
            extra.unlink()
    shutil.rmtree(directory, ignore_errors=True)
    draft.rename(directory)


def _clear(directory: Path) -> None:
    for checkpoint in directory.iterdir():
        shutil.rmtree(checkpoint)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
