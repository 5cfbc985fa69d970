"""From the home's Trackio folder to a Space: what training children wrote, sent by the app.

The token goes to a short child process of Trackio's own command, in its environment, and never to
a training child. Imports neither Trackio nor any training code.
"""

import importlib.util
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from alignment.places.child import child_environment
from alignment.runs.runs import Runs
from annotation.faults import Fault

TRACKIO_FOLDER = "trackio"
SENT = "sent.txt"
"""Ids of the runs that the Space has, a line each."""
POLL_S = 20.0
RETRY_S = 600.0
TIMEOUT_S = 900
"""The first time, the Hub builds the Space, which takes some minutes."""
_log = logging.getLogger(__name__)


class TrackingError(Fault):
    """Trackio can't be had as the settings ask; the message is the one line to read."""


def check_trackio() -> None:
    """Raise TrackingError where TRACKIO_PROJECT is set and the package is not installed."""
    if importlib.util.find_spec("trackio") is None:
        raise TrackingError(
            "TRACKIO_PROJECT is set and trackio is not installed: run "
            "`pip install -r requirements.txt` again, or unset TRACKIO_PROJECT."
        )


class SpaceMirror:
    """A thread that sends the project to its Space each time that a run has ended.

    What is sent is remembered in the home, so a restart sends what is missing. A refusal is
    logged and tried again after RETRY_S; training never waits for it.
    """

    def __init__(self, runs: Runs, folder: Path, send: Callable[[], None]) -> None:
        """`folder` is the home's Trackio folder; `send` raises TrackingError when it can't."""
        self._runs = runs
        self._folder = folder
        self._send = send
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="trackio-mirror", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end; a child that is sending has its own time limit and is not waited for."""
        self._stopping.set()

    def send_new(self) -> bool:
        """Send once if a run has ended that the Space does not have. Raises TrackingError."""
        file = self._folder / SENT
        sent = set(file.read_text(encoding="utf-8").split()) if file.exists() else set()
        ended = {run.id for run in self._runs.list() if not run.is_active}
        if not self._folder.is_dir() or ended <= sent:
            return False
        self._send()
        file.write_text("".join(f"{name}\n" for name in sorted(sent | ended)), encoding="utf-8")
        return True

    def _keep(self) -> None:
        wait_s = POLL_S
        while not self._stopping.wait(wait_s):
            try:
                self.send_new()
                wait_s = POLL_S
            except (TrackingError, OSError) as error:
                _log.warning("%s; trying again in %.0f s", error, RETRY_S)
                wait_s = RETRY_S


def send_to_space(folder: Path, project: str, space_id: str, token: str) -> None:
    """Send all of `project` to the Space, made private where it is new. Raises TrackingError."""
    command = [sys.executable, "-m", "trackio.cli", "sync", "--force", "--private"]
    command += ["--project", project, "--space-id", space_id]
    environment = child_environment() | {
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": token,
        "TRACKIO_DIR": str(folder),
    }
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TrackingError(f"The Space {space_id} took no Trackio data in {TIMEOUT_S} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        said = lines[-1].strip()[:200].replace(token, "***")
        raise TrackingError(f"The Space {space_id} took no Trackio data ({said})")
