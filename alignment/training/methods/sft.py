"""SFT: TRL's trainer on the chosen answers, with held-out pairs scored on both sides.

Owns how a batch keeps the rejected answers apart. Heavy imports happen inside functions.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from alignment.training.forward.losses import completion_nll, mean_logps
from alignment.training.methods.common import Cardless, logp_metrics, reward_metrics
from alignment.training.rows.rows import labelled
from alignment.training.rows.sift import SIDES

_PREFIX = {"chosen": "", "rejected": "rejected_"}


def sft_trainer(reward_scale: float = 1.0) -> Any:
    """TRL's SFTTrainer on the chosen answers: NLL on the completion only, no reference.

    Held-out pairs get rewards as ORPO's do, `reward_scale` times the log-prob per token, so that
    the methods' accuracies compare. Training steps never look at a rejected answer.
    """
    import torch
    from trl import SFTTrainer

    class ChosenSftTrainer(Cardless, SFTTrainer):  # type: ignore[misc]
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
            metrics = reward_metrics(self.accelerator, *rewards)
            for name, value in (metrics | logp_metrics(self.accelerator, *logps)).items():
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
            for name, tensor in one_side([labelled(row, side) for row in rows]).items()
        }

    return collate


def _side(batch: Mapping[str, Any], side: str) -> dict[str, Any]:
    names = ("input_ids", "attention_mask", "labels")
    return {name: batch[f"{_PREFIX[side]}{name}"] for name in names}
