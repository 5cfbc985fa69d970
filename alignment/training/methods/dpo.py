"""DPO: TRL's trainer on tokenized pairs, with R-DPO's penalty and references that are kept.

Owns where the reference's log-probs come from, and that the rewards reported leave the penalty out.
Heavy imports happen inside functions.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from alignment.training.forward.losses import length_regularized_reference
from alignment.training.methods.common import Cardless, reward_metrics, share_pairs
from alignment.training.rows.references import KeptReferences, Logps
from alignment.training.rows.sift import SIDES


def dpo_trainer(
    length_penalty: float = 0.0, references: Callable[[str], KeptReferences] | None = None
) -> Any:
    """TRL's DPOTrainer on pairs that are tokenized already, with R-DPO's α `length_penalty`.

    The rewards that it reports leave the penalty out: they are what the policy learned. What is
    computed of the reference beforehand is kept where `references` says.
    """
    from trl import DPOTrainer

    class PairsDpoTrainer(Cardless, DPOTrainer):  # type: ignore[misc]
        def __init__(self, *positional: Any, **named: Any) -> None:
            super().__init__(*positional, **named)
            share_pairs(self)

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, *rest: Any) -> Any:
            # The constructor asks for it, after it has given the models their heads.
            how = _how(self, shared=share_pairs(self))
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
            for name, value in reward_metrics(self.accelerator, *rewards).items():
                recorded[name][-1] = value
            return loss

    return PairsDpoTrainer


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
