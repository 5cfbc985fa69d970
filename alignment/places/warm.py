"""A training child that has its imports behind it and waits: `python -m alignment.places.warm`.

Owns both ends of the wait. The child holds libraries and no model. It dies with the app while it
waits, and is a run's child like any other once it has been given a folder. Imports none of the
libraries before it is run.
"""

import contextlib
import importlib
import logging
import os
import select
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import psutil

from alignment.places.child import ROOT, child_environment, lower_priority, reap
from alignment.places.place import Handle
from alignment.runs.run_store import RunFolder
from annotation.quick_imports import uncollected

POLL_S = 0.5
ANSWER_S = 2.0
"""How long a waiting child may take to say that it has a run; past that it counts as dead."""
RETRY_S, MAX_RETRY_S = 30.0, 1800.0
LIBRARIES = (
    "torch",
    "transformers",
    "transformers.models.llama.modeling_llama",
    "peft",
    "datasets",
    "trl.trainer.dpo_trainer",
    "trl.trainer.sft_trainer",
    "trl.experimental.orpo.orpo_trainer",
)
"""What a run imports, named down to what these packages would load only when asked."""
_TAKEN = b"taken"
_log = logging.getLogger(__name__)


class WarmWorker:
    """Keeps one child warm from `start` on, and again after each run that took it.

    `may_start` is asked before a child is started: an app has better things to do at first.
    `on_taken` is told that a run has one, and must return at once and raise nothing.
    """

    def __init__(
        self, may_start: Callable[[], bool], on_taken: Callable[[], None] = lambda: None
    ) -> None:
        self._may_start = may_start
        self.on_taken = on_taken
        self._holding = threading.Lock()
        self._stopping = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._taken = False
        self._thread: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        """Of the child that waits, or None."""
        with self._holding:
            waits = self._child is not None and not self._taken and self._child.poll() is None
            return self._child.pid if waits and self._child else None

    def start(self) -> None:
        """Begin to keep a child; returns at once."""
        self._thread = threading.Thread(target=self._keep, name="warm-trainer", daemon=True)
        self._thread.start()

    def take(self, folder: RunFolder) -> Handle | None:
        """Give the run to the child that waits; None when there is none, or it does not answer."""
        with self._holding:
            child = self._child
            if child is None or self._taken or child.poll() is not None:
                return None
            started = psutil.Process(child.pid).create_time()
            if not _hand_over(child, folder):
                _log.warning("the warm training process %d does not answer", child.pid)
                child.kill()
                child.wait()
                return None
            self._taken = True
            _close_pipes(child)
            reap(child)
            self.on_taken()
            return Handle(child.pid, started)

    def stop(self) -> None:
        """End the child if it waits; one that trains goes on. Harmless when called again."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        with self._holding:
            child, self._child = self._child, None
            if child is None:
                return
            if not self._taken:
                child.kill()
                child.wait()
            _close_pipes(child)

    def _keep(self) -> None:
        wait_s = RETRY_S
        while not self._stopping.wait(POLL_S):
            with self._holding:
                child = self._child
                if child is None:
                    if self._may_start():
                        self._child, self._taken = _spawn(), False
                    continue
                if child.poll() is None:
                    continue
                ran, self._child = self._taken, None
                _close_pipes(child)
            if ran:
                wait_s = RETRY_S
                continue
            _log.warning(
                "the warm training process %d is gone; another in %.0f s", child.pid, wait_s
            )
            self._stopping.wait(wait_s)
            wait_s = min(2 * wait_s, MAX_RETRY_S)


def _spawn() -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [sys.executable, "-m", "alignment.places.warm"],
        cwd=ROOT,
        env=child_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    lower_priority(child.pid)
    return child


def _hand_over(child: subprocess.Popen[bytes], folder: RunFolder) -> bool:
    """Tell the child its run; whether it said that it has it."""
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(os.fsencode(folder.path) + b"\0")
        child.stdin.flush()
        answers, _, _ = select.select([child.stdout], [], [], ANSWER_S)
        return bool(answers) and os.read(child.stdout.fileno(), len(_TAKEN)) == _TAKEN
    except OSError:
        return False


def _close_pipes(child: subprocess.Popen[bytes]) -> None:
    for pipe in (child.stdin, child.stdout):
        # What a dead child left unread is of no use to anybody.
        with contextlib.suppress(OSError):
            if pipe is not None:
                pipe.close()


def main() -> int:
    """Import, wait for a run's folder on standard input, train it; exit as `alignment.train`."""
    from alignment.train import main as train

    given: list[Path] = []
    waiting = threading.Thread(target=lambda: given.append(_wait_for_run()), daemon=True)
    waiting.start()
    try:
        with uncollected():
            for name in LIBRARIES:
                importlib.import_module(name)
    except Exception:  # noqa: BLE001 -- the run meets it again, and reports it in its folder
        traceback.print_exc()
    waiting.join()
    return train([str(given[0])])


def _wait_for_run() -> Path:
    """The folder that the app gives; its log takes all output from then on.

    Ends this process when the app is gone. Runs beside the imports, so that neither waits.
    """
    told = bytearray()
    while not told.endswith(b"\0"):
        part = os.read(0, 4096)
        if not part:
            os._exit(0)
        told += part
    folder = RunFolder(Path(os.fsdecode(bytes(told[:-1]))))
    log = os.open(folder.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.write(1, _TAKEN)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    for source in (nothing, log):
        os.close(source)
    return folder.path


if __name__ == "__main__":
    sys.exit(main())
