"""What the training child tells its folder, and how it is told to stop.

Owns the meaning of SIGTERM to a run, which of several processes writes the folder, and that a run
ends when its loss or gradient is not finite. Knows no trainer.
"""

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType

from alignment.runs.run_store import ACTIVE, Metric, RunFolder, RunState


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


def is_main_process() -> bool:
    """Whether this is the one of a run's processes that writes its folder and its log.

    `accelerate launch` and torchrun number them in RANK; a process alone has none.
    """
    return int(os.environ.get("RANK") or 0) == 0


def enter(folder: RunFolder, state: RunState) -> None:
    """Move the run to `state`, from the main process; the others only follow."""
    if is_main_process():
        with folder.locked():
            folder.move(state)


def one_line(error: BaseException) -> str:
    """The reason that state.json gives: a TrainingError's text, else type and message."""
    text = " ".join(str(error).split())[:300]
    if isinstance(error, TrainingError):
        return text
    return f"{type(error).__name__}: {text or 'no message'} (traceback in log.txt)"


def say_stopped(folder: RunFolder) -> None:
    """Cancelled if that was asked for in the folder, else interrupted, unless it has ended."""
    if not is_main_process():
        return
    with folder.locked():
        status = folder.status()
        if status.state not in ACTIVE:
            return
        if status.cancel_requested:
            folder.move(RunState.CANCELLED, reason="Cancelled by an admin.")
        else:
            folder.move(
                RunState.INTERRUPTED, reason="The training process was told to end: resume it."
            )


def say_failed(folder: RunFolder, reason: str) -> None:
    """Failed for `reason`, unless the run has ended: another of its processes may have said why."""
    with folder.locked():
        if folder.status().state in ACTIVE:
            folder.move(RunState.FAILED, reason=reason)


def to_metric(step: int, logs: Mapping[str, float]) -> Metric:
    """TRL's `logs` of a step as a Metric; TrainingError if loss or gradient aren't finite.

    A gradient norm that was not logged counts as nan: nobody saw that it is finite.
    """
    loss, grad_norm = float(logs["loss"]), float(logs.get("grad_norm", math.nan))
    for name, value in (("loss", loss), ("gradient norm", grad_norm)):
        if not math.isfinite(value):
            raise TrainingError(f"The {name} became {value} at step {step}: {_hint(step)}")
    return Metric(
        step=step,
        loss=loss,
        reward_margin=logs.get("rewards/margins"),
        reward_accuracy=logs.get("rewards/accuracies"),
        chosen_logps=logs.get("logps/chosen"),
        rejected_logps=logs.get("logps/rejected"),
        grad_norm=grad_norm,
        learning_rate=logs.get("learning_rate"),
    )


def write_metric(folder: RunFolder, metric: Metric) -> None:
    """Append `metric` and say that its step is done."""
    folder.append_metric(metric)
    say_step(folder, metric.step)


def say_step(folder: RunFolder, step: int) -> None:
    with folder.locked():
        folder.write_status(dataclasses.replace(folder.status(), step=step))


def _hint(step: int) -> str:
    # Nothing has moved before the first update, so the learning rate can't be the cause.
    if step == 1:
        return (
            "no weight had moved yet, so look for special tokens inside the prompts, a pad token "
            "that words can spell, or a damaged base model."
        )
    return "lower the learning rate, or look for special tokens inside the prompts."
