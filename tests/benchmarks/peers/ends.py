"""A comparison that is told to end takes what it started along.

Owns SIGTERM of a comparison's process: it becomes an exit, so that every `finally` on the way ends
its own server or child. Knows none of them.
"""

import signal
import subprocess
import sys
from collections.abc import Sequence

END_TIMEOUT_S = 60


def leave_on_sigterm() -> None:
    """From now on SIGTERM is `sys.exit(143)`; a second one changes nothing."""
    signal.signal(signal.SIGTERM, _leave)


def run_and_end(command: Sequence[str], **options: object) -> int:
    """The exit status of `command`, which is told to end where this process is."""
    child = subprocess.Popen(command, **options)  # type: ignore[call-overload]
    try:
        return int(child.wait())
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait(END_TIMEOUT_S)


def _leave(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + number)
