"""The trainers: TRL's, fed with our tokens, for every method and loss that a spec may name.

The only importer of trl. Owns which trainer and which arguments a spec means; knows no process and
no state. Heavy imports happen inside functions.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignment.checks.base_checks import check_base
from alignment.recipes import TrainingSpec
from alignment.run_store import RunFolder
from alignment.training.data import TokenizedPair
from alignment.training.hardware import (
    cast_inputs_once,
    settle_threads,
    split_batch,
    trains_in_bf16,
    wants_checkpointing,
)
from alignment.training.losses import (
    IGNORED,
    completion_nll,
    length_regularized_reference,
    mean_logps,
)
from alignment.training.progress import TrainingError
from alignment.training.references import KeptReferences, Logps, kept_references
from alignment.training.rows import load_rows, to_dataset
from alignment.training.sift import SIDES, sift
from alignment.training.tracking import tracking_arguments
from alignment.training.warm_start import settle, starting_point

_PREFIX = {"chosen": "", "rejected": "rejected_"}
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


class _Cardless:
    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: the card is written when a run is published."""


def _bare(model: Any) -> Any:
    """The model itself, without PEFT's wrapper."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def _share(trainer: Any) -> bool:
    """Let the trainer's models take a pair as one row, where they can; whether the policy does."""
    from trl.trainer.utils import FusedCausalLMOutput

    from alignment.training.shared_prompt import share_prompts

    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        # What these gather from several machines is not looked for where our head would.
        return False
    if (reference := getattr(trainer, "ref_model", None)) is not None:
        share_prompts(trainer.accelerator.unwrap_model(reference), FusedCausalLMOutput)
    if trainer.args.bf16:
        cast_inputs_once(trainer.model)
    return share_prompts(_bare(trainer.model), FusedCausalLMOutput)


def _how(trainer: Any, *, shared: bool) -> str:
    """What the bits of a log-prob depend on beside model and tokens."""
    import torch

    arguments = trainer.args
    precision, rows = "bf16" if arguments.bf16 else "fp32", "one row" if shared else "TRL's rows"
    return f"{arguments.device.type}, {precision}, {rows}, {torch.get_num_threads()} threads"


def _with_references(dataset: Any, logps: Sequence[Logps]) -> Any:
    import numpy

    for side, column in zip(SIDES, zip(*logps, strict=True), strict=True):
        dataset = dataset.add_column(f"ref_{side}_logps", numpy.array(column, numpy.float32))
    return dataset


def dpo_trainer(
    length_penalty: float = 0.0, references: Callable[[str], KeptReferences] | None = None
) -> Any:
    """TRL's DPOTrainer on pairs that are tokenized already, with R-DPO's α `length_penalty`.

    The rewards that it reports leave the penalty out: they are what the policy learned. What is
    computed of the reference beforehand is kept where `references` says.
    """
    from trl import DPOTrainer

    class PairsDpoTrainer(_Cardless, DPOTrainer):  # type: ignore[misc]
        def __init__(self, *positional: Any, **named: Any) -> None:
            super().__init__(*positional, **named)
            _share(self)

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, *rest: Any) -> Any:
            # The constructor asks for it, after it has given the models their heads.
            how = _how(self, shared=_share(self))
            # Several processes would have to agree on what each of them finds.
            if references is None or self.accelerator.num_processes > 1:
                return super()._precompute_ref_logps(dataset, *rest)
            rows, kept = list(dataset), references(how)
            if (logps := kept.find(rows)) is not None:
                return _with_references(dataset, logps)
            dataset = super()._precompute_ref_logps(dataset, *rest)
            columns = (dataset[f"ref_{side}_logps"] for side in SIDES)
            kept.keep(rows, list(zip(*columns, strict=True)))
            return dataset

        def _compute_loss(self, model: Any, inputs: Mapping[str, Any], return_outputs: bool) -> Any:
            if not length_penalty:
                return super()._compute_loss(model, inputs, return_outputs)
            lengths = inputs["completion_mask"].sum(-1).chunk(2)
            references = tuple(inputs[f"ref_{side}_logps"] for side in SIDES)
            penalized = {
                f"ref_{side}_logps": length_regularized_reference(
                    reference, length, penalty=length_penalty, beta=self.beta
                )
                for side, reference, length in zip(SIDES, references, lengths, strict=True)
            }
            seen: list[Any] = []

            def watched(**kwargs: Any) -> Any:
                outputs = model(**kwargs)
                seen.append(outputs.log_probs.detach().sum(-1))
                return outputs

            loss = super()._compute_loss(watched, {**inputs, **penalized}, return_outputs)
            policy = seen[0].chunk(2)
            rewards = [self.beta * (p - r) for p, r in zip(policy, references, strict=True)]
            recorded = self._metrics["train" if self.model.training else "eval"]
            for name, value in _reward_metrics(self.accelerator, *rewards).items():
                recorded[name][-1] = value
            return loss

    return PairsDpoTrainer


def orpo_trainer() -> Any:
    """TRL's ORPOTrainer on tokenized pairs, its NLL over the chosen completion only.

    Stock TRL takes the NLL over prompt and completion, which taught the starter to write prompts.
    """
    from trl.experimental.orpo import ORPOTrainer
    from trl.trainer.utils import add_fused_lm_head

    class CompletionOrpoTrainer(_Cardless, ORPOTrainer):  # type: ignore[misc]
        tokenize_row = staticmethod(_orpo_row)

        def __init__(self, *positional: Any, **named: Any) -> None:
            super().__init__(*positional, **named)
            add_fused_lm_head(_bare(self.model))
            self._shares_prompts = _share(self)

        def concatenated_forward(self, model: Any, batch: Mapping[str, Any]) -> tuple[Any, ...]:
            found = self._shared_forward if self._shares_prompts else super().concatenated_forward
            chosen_logps, *rest = found(model, batch)
            nll = completion_nll(chosen_logps, batch["chosen_labels"])
            return (chosen_logps, *rest[:3], nll, *rest[4:])

        def _shared_forward(self, model: Any, batch: Mapping[str, Any]) -> tuple[Any, ...]:
            """As TRL's, but for the logits, of which only the means over an answer are known."""
            both = self.concatenated_inputs(batch, padding_value=self.padding_value)
            labels = both["concatenated_labels"]
            scored = model(
                input_ids=both["concatenated_input_ids"],
                attention_mask=both["concatenated_attention_mask"],
                labels=labels,
                fused_lm_head=True,
            )
            means = zip(
                scored.mean_logits.chunk(2), (labels[:, 1:] != IGNORED).chunk(2), strict=True
            )
            logits = [mean[read] for mean, read in means]
            return (*mean_logps(scored.log_probs, labels).chunk(2), *logits, None)

    return CompletionOrpoTrainer


def sft_trainer(reward_scale: float = 1.0) -> Any:
    """TRL's SFTTrainer on the chosen answers: NLL on the completion only, no reference.

    Held-out pairs get rewards as ORPO's do, `reward_scale` times the log-prob per token, so that
    the methods' accuracies compare. Training steps never look at a rejected answer.
    """
    import torch
    from trl import SFTTrainer

    class ChosenSftTrainer(_Cardless, SFTTrainer):  # type: ignore[misc]
        def compute_loss(
            self, model: Any, inputs: Mapping[str, Any], *rest: Any, **more: Any
        ) -> Any:
            return super().compute_loss(model, _side(inputs, "chosen"), *rest, **more)

        def prediction_step(self, model: Any, inputs: Any, *_: Any, **__: Any) -> tuple[Any, ...]:
            inputs = self._prepare_inputs(inputs)
            with torch.no_grad(), self.compute_loss_context_manager():
                logps = [
                    mean_logps(
                        model(**_side(inputs, side), fused_lm_head=True, use_cache=False).log_probs,
                        inputs[f"{_PREFIX[side]}labels"],
                    )
                    for side in SIDES
                ]
            rewards = [reward_scale * side for side in logps]
            metrics = _reward_metrics(self.accelerator, *rewards)
            for name, value in (metrics | _logp_metrics(self.accelerator, *logps)).items():
                self._metrics["eval"][name].append(value)
            return completion_nll(logps[0], inputs["labels"]), None, None

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            if "loss" in logs:
                logs["logps/chosen"] = -logs["loss"]
            super().log(logs, start_time)

    return ChosenSftTrainer


def sides_collator(pad_id: int) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]:
    """A collator of tokenized pairs for SFT: the chosen side under TRL's names, both padded right.

    The rejected side's tensors bear the prefix "rejected_", for held-out pairs to be scored by.
    """
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    one_side = DataCollatorForLanguageModeling(pad_token_id=pad_id)

    def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            f"{_PREFIX[side]}{name}": tensor
            for side in SIDES
            for name, tensor in one_side([_labelled(row, side) for row in rows]).items()
        }

    return collate


def _side(batch: Mapping[str, Any], side: str) -> dict[str, Any]:
    names = ("input_ids", "attention_mask", "labels")
    return {name: batch[f"{_PREFIX[side]}{name}"] for name in names}


def _labelled(row: Mapping[str, Any], side: str) -> dict[str, list[int]]:
    prompt_ids, ids = row["prompt_ids"], row[f"{side}_ids"]
    return {
        "input_ids": prompt_ids + ids,
        "attention_mask": [1] * (len(prompt_ids) + len(ids)),
        "labels": [IGNORED] * len(prompt_ids) + ids,
    }


def _orpo_row(row: Mapping[str, Any]) -> dict[str, list[int]]:
    """The columns of TRL's ORPO collator, from a tokenized pair; adds no token of its own."""
    return {f"{side}_{name}": ids for side in SIDES for name, ids in _labelled(row, side).items()}


def _reward_metrics(accelerator: Any, chosen: Any, rejected: Any) -> dict[str, float]:
    """TRL's metrics of rewards (batch,), over the processes' batches together."""
    values = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/accuracies": (chosen > rejected).float(),
        "rewards/margins": chosen - rejected,
    }
    return _gathered_means(accelerator, values)


def _logp_metrics(accelerator: Any, chosen: Any, rejected: Any) -> dict[str, float]:
    return _gathered_means(accelerator, {"logps/chosen": chosen, "logps/rejected": rejected})


def _gathered_means(accelerator: Any, values: Mapping[str, Any]) -> dict[str, float]:
    gathered = {name: accelerator.gather_for_metrics(v) for name, v in values.items()}
    return {name: value.mean().item() for name, value in gathered.items()}
