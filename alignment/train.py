"""The training child: `python -m alignment.train RUN_DIR` trains what the run's spec.json says.

Owns the walk from a queued run to its end. Reports through the run's folder alone and reaches no
network. Heavy imports happen after the signal handler stands and the folder says what goes on.
Of several processes that train one run, the main one alone reports.
"""

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignment.runs.recipes import TrainingSpec
from alignment.runs.run_store import AnswerFigures, FinalMetrics, RunFolder, RunState
from alignment.training.rows.sift import left_out
from alignment.training.trainers import build_trainer
from alignment.training.watch.answers import measure_answers
from alignment.training.watch.checkpoints import (
    checkpoint_to_resume,
    clear,
    make_room,
    restore_best,
    step_of,
    tidy,
)
from alignment.training.watch.ends import failure_line, kernel_kills
from alignment.training.watch.progress import (
    Stopped,
    StopSignal,
    enter,
    is_main_process,
    one_line,
    say_failed,
    say_stopped,
)
from alignment.training.watch.samples import Sampler, sample_prompts
from alignment.training.watch.watch import NothingLeft, Watch, watch_callback
from alignment.training.weights.weights import save_weights
from annotation.export.export import load_examples


def main(arguments: Sequence[str]) -> int:
    """Run to the end and say so in state.json; the exit status is 0 unless the run failed."""
    folder = RunFolder(Path(arguments[0]))
    stop = StopSignal()
    before = signal.signal(signal.SIGTERM, stop.handle)
    try:
        with _one_voice():
            _train(folder, stop)
    except Stopped:
        stop.deferred = True
        say_stopped(folder)
    except Exception as error:  # noqa: BLE001 -- the process boundary: reported in the folder
        stop.deferred = True
        _report(folder, error)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
    return 0


def _train(folder: RunFolder, stop: StopSignal) -> None:
    started = time.monotonic()
    spec = folder.spec()
    print(f"{spec.method} on {spec.base.label}, {spec.examples} examples, {spec.steps} steps")  # noqa: T201
    checkpoint = checkpoint_to_resume(folder)
    done = step_of(checkpoint)
    if is_main_process():
        _go_back_to(folder, checkpoint)
    trainer, held_out = build_trainer(folder, spec)
    sampler = Sampler(trainer, spec.base_path, sample_prompts(load_examples(folder.dataset)))
    watch = Watch(folder, spec, trainer, held_out, sampler, stop)
    watch.resume(checkpoint)
    trainer.add_callback(watch_callback(watch))
    print(f"training from step {done}")  # noqa: T201
    enter(folder, RunState.TRAINING)
    stop.deferred = True
    with contextlib.suppress(NothingLeft):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    stop.deferred = False
    stop.check()
    if is_main_process():
        earlier_s = next((m.seconds or 0.0 for m in folder.metrics() if m.step == done), 0.0)
        _finish(folder, spec, watch, trainer, held_out, stop, started - earlier_s)
    _leave_together(trainer)


def _go_back_to(folder: RunFolder, checkpoint: Path | None) -> None:
    """Forget all that happened after `checkpoint`, which will happen again."""
    done = step_of(checkpoint)
    tidy(folder, checkpoint)
    folder.keep_metrics(done)
    folder.keep_samples(done)
    with folder.locked():
        status = replace(folder.status(), step=done, kernel_kills=kernel_kills())
        folder.write_status(status)


def _finish(
    folder: RunFolder,
    spec: TrainingSpec,
    watch: Watch,
    trainer: Any,
    held_out: int,
    stop: StopSignal,
    started: float,
) -> None:
    """Keep the weights, drop what was only needed on the way, and say how the run ended."""
    memory, metrics = watch.memory, folder.metrics()
    judgement = memory.judgement
    if folder.status().state is RunState.TRAINING:
        enter(folder, RunState.EVALUATING)
    if judgement.stop:
        restore_best(trainer.model, folder)
    answered = _answered(folder, spec, trainer)
    stop.deferred = True
    peak_bytes = watch.peak_bytes
    save_weights(trainer.model, spec, folder)
    # Before the checkpoints go: the most that the run has held.
    disk_bytes, sifted_out = folder.disk_bytes(), left_out(folder)
    clear(folder)
    kept = (
        next(m for m in metrics if m.step == judgement.best_step) if judgement.stop else metrics[-1]
    )
    final = FinalMetrics(
        loss=kept.loss,
        reward_accuracy=kept.reward_accuracy,
        reward_margin=kept.reward_margin,
        seconds=round(time.monotonic() - started, 1),
        eval_pairs=held_out,
        eval_loss=kept.eval_loss,
        eval_reward_accuracy=kept.eval_reward_accuracy,
        eval_reward_margin=kept.eval_reward_margin,
        steps=metrics[-1].step,
        stopped_early=judgement.stop,
        kept_step=kept.step,
        peak_memory_bytes=peak_bytes,
        disk_bytes=disk_bytes,
        tokens_per_s=memory.tokens_per_s,
        left_out=None if sifted_out is None else len(sifted_out),
        answered=answered,
    )
    with folder.locked():
        folder.move(RunState.DONE, final=final)


def _answered(folder: RunFolder, spec: TrainingSpec, trainer: Any) -> AnswerFigures | None:
    """The model's answers beside the base's; None, with a line in the log, where that fails."""
    try:
        return measure_answers(trainer, spec, load_examples(folder.dataset))
    # Memory for a second model, most likely: what was trained is worth more than its figures.
    except (RuntimeError, MemoryError, ValueError) as error:
        print(f"the answers could not be measured: {one_line(error)}")  # noqa: T201
        return None


def _report(folder: RunFolder, error: Exception) -> None:
    """Say in the folder why the run failed, then in the log where."""
    if is_main_process():
        make_room(folder)
    reason = failure_line(error, step_of(folder.last_checkpoint()))
    if not is_main_process():
        reason = f"Process {os.environ['RANK']} of this run: {reason}"
    say_failed(folder, reason)
    # On a full disk the log can't be written either.
    with contextlib.suppress(OSError):
        traceback.print_exc()


@contextlib.contextmanager
def _one_voice() -> Iterator[None]:
    """Only the main process prints; what the others have to say, such as errors, is on stderr."""
    if is_main_process():
        yield
        return
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _leave_together(trainer: Any) -> None:
    """End the processes' group where there are several, once the main one has finished."""
    if trainer.accelerator.num_processes > 1:
        trainer.accelerator.wait_for_everyone()
        trainer.accelerator.end_training()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
