"""Training in a child process on this machine.

A crash or a restart of the app does not touch the child; its folder says all that it says.
"""

import sys

from alignment.places.child import child_environment, end_child, is_child_alive, start_child
from alignment.places.place import Handle
from alignment.places.warm import WarmWorker
from alignment.runs.recipes import TrainingSpec
from alignment.runs.run_store import RunFolder, Status


class Here:
    """One child process a run: `warm`'s where it has one waiting, else a new one."""

    def __init__(self, warm: WarmWorker | None = None) -> None:
        self._warm = warm

    def check(self, spec: TrainingSpec) -> None:
        """Every spec can be trained here."""

    def spawn(self, folder: RunFolder) -> Handle:
        if self._warm is not None and (handle := self._warm.take(folder)):
            return handle
        command = [sys.executable, "-m", "alignment.train", str(folder.path)]
        return start_child(command, folder.log, child_environment())

    def is_alive(self, folder: RunFolder, status: Status) -> bool:
        return is_child_alive(Handle.of(status))

    def end(self, folder: RunFolder, status: Status) -> None:
        end_child(Handle.of(status))
