"""Processes that let voters go first: a child process of the app steps back.

Knows nothing of what the process does. Standard library alone: Argilla's own environment runs it.
"""

import contextlib
import os
from pathlib import Path


def lower_priority(pid: int, niceness: int) -> None:
    """Let process `pid`, which leads a session of its own, compute only after others of `niceness`.

    Where Linux groups processes by session (sched(7), autogroup), a nice value ranks those of one
    session alone, and between sessions it is the session's own that counts: so both are set. A
    system that knows or allows neither goes on as it is.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, niceness)
    with contextlib.suppress(OSError):
        if os.getsid(pid) == pid:
            Path(f"/proc/{pid}/autogroup").write_text(f"{niceness}\n")
