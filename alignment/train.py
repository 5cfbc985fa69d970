"""The training child: `python -m alignment.train RUN_DIR` trains what the run's spec.json says.

Owns the walk from a queued run to its end. Reports through the run's folder alone and reaches no
network. Heavy imports happen after the signal handler stands and the folder says what goes on.
"""

import shutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from alignment.run_store import FinalMetrics, RunFolder, RunState
from alignment.training.progress import Stopped, StopSignal, one_line, say_stopped
from alignment.training.trainers import build_trainer
from alignment.training.watch import folder_callback
from alignment.training.weights import save_adapter


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
    trainer.add_callback(folder_callback(folder, stop))
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


def _clear(directory: Path) -> None:
    for checkpoint in directory.iterdir():
        shutil.rmtree(checkpoint)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
