"""What more than one method changes of TRL's trainers: no card, a pair as one row, rewards' names.

Knows no method and no spec. Heavy imports happen inside functions.
"""

from collections.abc import Mapping
from typing import Any

from alignment.training.hardware import cast_inputs_once


class Cardless:
    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: the card is written when a run is published."""


def bare(model: Any) -> Any:
    """The model itself, without PEFT's wrapper."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def share_pairs(trainer: Any) -> bool:
    """Let the trainer's models take a pair as one row, where they can; whether the policy does."""
    from trl.trainer.utils import FusedCausalLMOutput

    from alignment.training.forward.shared_prompt import share_prompts

    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        # What these gather from several machines is not looked for where our head would.
        return False
    if (reference := getattr(trainer, "ref_model", None)) is not None:
        share_prompts(trainer.accelerator.unwrap_model(reference), FusedCausalLMOutput)
    if trainer.args.bf16:
        cast_inputs_once(trainer.model)
    return share_prompts(bare(trainer.model), FusedCausalLMOutput)


def reward_metrics(accelerator: Any, chosen: Any, rejected: Any) -> dict[str, float]:
    """TRL's metrics of rewards (batch,), over the processes' batches together."""
    values = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/accuracies": (chosen > rejected).float(),
        "rewards/margins": chosen - rejected,
    }
    return _gathered_means(accelerator, values)


def logp_metrics(accelerator: Any, chosen: Any, rejected: Any) -> dict[str, float]:
    return _gathered_means(accelerator, {"logps/chosen": chosen, "logps/rejected": rejected})


def _gathered_means(accelerator: Any, values: Mapping[str, Any]) -> dict[str, float]:
    gathered = {name: accelerator.gather_for_metrics(v) for name, v in values.items()}
    return {name: value.mean().item() for name, value in gathered.items()}
