"""The trainers: TRL's, fed with our tokens, for every method and loss that a spec may name.

The only importer of trl. Owns which trainer and which arguments a spec means; knows no process and
no state. Heavy imports happen inside functions.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.chat import end_of_turn_ids
from alignment.recipes import TrainingSpec
from alignment.run_store import RunFolder
from alignment.training.data import TokenizedPair, split_held_out, tokenize_examples
from alignment.training.progress import TrainingError
from annotation.export import load_examples

if TYPE_CHECKING:
    import torch

_BF16_FROM_PARAMETERS = 20_000_000
_IGNORED = -100


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
