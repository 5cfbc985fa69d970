"""ORPO: TRL's trainer on tokenized pairs, its NLL on the chosen completion alone.

Owns the columns that TRL's collator is fed. Heavy imports happen inside functions.
"""

from collections.abc import Mapping
from typing import Any

from alignment.training.forward.losses import IGNORED, completion_nll, mean_logps
from alignment.training.methods.common import Cardless, bare, share_pairs
from alignment.training.rows.rows import labelled
from alignment.training.rows.sift import SIDES


def orpo_trainer() -> Any:
    """TRL's ORPOTrainer on tokenized pairs, its NLL over the chosen completion only.

    Stock TRL takes the NLL over prompt and completion, which taught the starter to write prompts.
    """
    from trl.experimental.orpo import ORPOTrainer
    from trl.trainer.utils import add_fused_lm_head

    class CompletionOrpoTrainer(Cardless, ORPOTrainer):  # type: ignore[misc]
        tokenize_row = staticmethod(orpo_row)

        def __init__(self, *positional: Any, **named: Any) -> None:
            super().__init__(*positional, **named)
            add_fused_lm_head(bare(self.model))
            self._shares_prompts = share_pairs(self)

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


def orpo_row(row: Mapping[str, Any]) -> dict[str, list[int]]:
    """The columns of TRL's ORPO collator, from a tokenized pair; adds no token of its own."""
    return {f"{side}_{name}": ids for side in SIDES for name, ids in labelled(row, side).items()}
