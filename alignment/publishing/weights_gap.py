"""How far two models are apart that should be the same, measured by a child process."""

import json
from dataclasses import dataclass
from pathlib import Path

from alignment.places.child import StepError, run_step
from annotation.faults import Fault


class GapError(Fault):
    """Two models that can't be compared; the message is the one line that a person reads."""


@dataclass(frozen=True, slots=True)
class Gap:
    """The largest difference of a weight, which is in `weight_name`, and of a next-token logit.

    `same_next_token` is the share of `positions` at which both hold the same token most likely.
    """

    weight: float
    weight_name: str
    logit: float
    same_next_token: float
    positions: int

    @property
    def line(self) -> str:
        """As part of a sentence."""
        return (
            f"weights differ by up to {self.weight:.2g} (in {self.weight_name}), next-token logits "
            f"by up to {self.logit:.2g}, and {self.same_next_token:.1%} of {self.positions} next "
            "tokens are the same"
        )


def measure_gap(base_path: Path, one: Path, other: Path) -> Gap:
    """The gap between the weights in two folders on one base. Raises GapError."""
    try:
        said = run_step("alignment.training.weights.weights_gap", base_path, one, other)
    except StepError as error:
        raise GapError(f"{one} and {other} can't be compared: {error}") from None
    return Gap(**json.loads(said.splitlines()[-1]))
