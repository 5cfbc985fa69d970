"""A run's child process: in a session of its own, without secrets, findable by any process.

Owns how such a child is started, told apart from a later process with its pid, and ended.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from alignment.places.place import Handle
from alignment.runs.run_store import RunError
from annotation.children import without_secrets
from annotation.faults import Fault

NICENESS = 10
TERM_GRACE_S = 1.2
"""How long a cancelled child may take to save a checkpoint; a cancel ends within two seconds."""
ROOT = Path(__file__).parent.parent.parent


def start_child(command: Sequence[str], log_file: Path, environment: Mapping[str, str]) -> Handle:
    """Run `command` on its own, its output going to `log_file`; returns at once.

    Raises RunError when the machine can't start it.
    """
    try:
        with log_file.open("ab") as log:
            child = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise RunError(
            f"A training process can't be started ({error.strerror}): "
            "free memory or disk space, then start the run again."
        ) from error
    started = psutil.Process(child.pid).create_time()
    lower_priority(child.pid)
    reap(child)
    return Handle(child.pid, started)


class StepError(Fault):
    """A step in a child process that failed; the message is the last line that it said."""


def run_step(module: str, *paths: Path) -> str:
    """Run `python -m module` on `paths` to its end, offline and without secrets; what it prints.

    For what loads weights and is over soon: whoever serves the page loads none. Raises StepError.
    """
    child = subprocess.run(
        [sys.executable, "-m", module, *(str(path.absolute()) for path in paths)],
        cwd=ROOT,
        env=child_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        said = child.stderr.strip().splitlines() or [f"exit status {child.returncode}"]
        raise StepError(said[-1])
    return child.stdout


def reap(child: subprocess.Popen[bytes]) -> None:
    """Wait for `child` in the background, so that no zombie is left of it."""
    threading.Thread(target=child.wait, name=f"reap-{child.pid}", daemon=True).start()


def lower_priority(pid: int) -> None:
    """Let pages and sampling go first."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, NICENESS)


def child_environment() -> dict[str, str]:
    """This process's environment without its secrets, offline."""
    kept = without_secrets(os.environ)
    # Threads that spin while they wait took four times the CPU where the app needed the cores.
    kept.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return kept | {
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }


def is_child_alive(handle: Handle) -> bool:
    """Whether the very process that `handle` names still runs; a zombie does not."""
    if handle.pid is None or handle.process_started is None:
        return False
    try:
        process = psutil.Process(handle.pid)
        same = abs(process.create_time() - handle.process_started) < 1.0
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def end_child(handle: Handle) -> None:
    """SIGTERM, then SIGKILL after a grace, to the child's own process group."""
    for number, patience_s in ((signal.SIGTERM, TERM_GRACE_S), (signal.SIGKILL, 0.5)):
        if not is_child_alive(handle) or handle.pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(handle.pid, number)
        deadline = time.monotonic() + patience_s
        while is_child_alive(handle) and time.monotonic() < deadline:
            time.sleep(0.02)
