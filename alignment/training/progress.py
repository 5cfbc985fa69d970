"""What the training child tells its folder, and how it is told to stop.

Owns the meaning of SIGTERM to a run, the one line of a failure, and that a run ends when its
loss or gradient is not finite. Knows no trainer.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType

from alignment.run_store import Metric, RunFolder, RunState


class TrainingError(RuntimeError):
    """Training can't go on; the message is the one line that a person reads."""


class Stopped(BaseException):
    """SIGTERM. Not an Exception, so that no library on the way swallows it."""


@dataclass
class StopSignal:
    """Turns SIGTERM into `Stopped`, at once or, while training, at the end of a step."""

    deferred: bool = False
    requested: bool = False

    def handle(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
        if not self.deferred:
            raise Stopped

    def check(self) -> None:
        if self.requested:
            raise Stopped


def say_stopped(folder: RunFolder) -> None:
    """Cancelled if that was asked for in the folder, else interrupted."""
    with folder.locked():
        if folder.status().cancel_requested:
            folder.move(RunState.CANCELLED, reason="Cancelled by an admin.")
        else:
            folder.move(
                RunState.INTERRUPTED, reason="The training process was told to end: resume it."
            )


def one_line(error: Exception) -> str:
    """The reason that state.json gives: a TrainingError's text, else type and message."""
    text = " ".join(str(error).split())[:300]
    if isinstance(error, TrainingError):
        return text
    return f"{type(error).__name__}: {text or 'no message'} (traceback in log.txt)"


def record_step(folder: RunFolder, step: int, logs: Mapping[str, float]) -> None:
    """Append TRL's `logs` of a step as a Metric; TrainingError if they aren't finite."""
    loss, grad_norm = float(logs["loss"]), float(logs["grad_norm"])
    for name, value in (("loss", loss), ("gradient norm", grad_norm)):
        if not math.isfinite(value):
            raise TrainingError(
                f"The {name} became {value} at step {step}: lower the learning rate, or look "
                "for special tokens inside the prompts."
            )
    folder.append_metric(
        Metric(
            step=step,
            loss=loss,
            reward_margin=logs.get("rewards/margins"),
            reward_accuracy=logs.get("rewards/accuracies"),
            chosen_logps=logs.get("logps/chosen"),
            rejected_logps=logs.get("logps/rejected"),
            grad_norm=grad_norm,
            learning_rate=logs.get("learning_rate"),
        )
    )
    with folder.locked():
        folder.write_status(dataclasses.replace(folder.status(), step=step))
