"""What goes on beside the steps of a run: metrics out, the wish to stop in.

Owns the callback that a trainer calls. Knows no loss.
"""

from pathlib import Path
from typing import Any

from alignment.run_store import COMPLETE, RunFolder
from alignment.training.progress import StopSignal, record_step


def folder_callback(folder: RunFolder, stop: StopSignal) -> Any:
    from transformers import TrainerCallback

    class FolderCallback(TrainerCallback):  # type: ignore[misc]
        """Writes metrics and progress after each step; ends the run on a signal or a NaN."""

        def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                record_step(folder, state.global_step, logs)

        def on_step_end(self, _args: Any, _state: Any, control: Any, **_: Any) -> None:
            if stop.requested:
                control.should_save = control.should_training_stop = True

        def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()

    return FolderCallback()
