"""What a child process of the app gets and does not: no secret, and its turn after voters.

Knows nothing of what the process does. Standard library alone: Argilla's own environment runs it.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

SECRETS = frozenset(
    {
        "ADMIN_TOKEN",
        "ARGILLA_API_KEY",
        "COOKIE_SECRET",
        "GENERATION_API_KEY",
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "OAUTH_CLIENT_SECRET",
        "SPACE_HF_TOKEN",
        "TRACKIO_SERVER_URL",
        "TRACKIO_WRITE_TOKEN",
    }
)
"""Variables that no child has any business with. Trackio's address carries its token."""


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` as a child may have it."""
    return {name: value for name, value in environment.items() if name not in SECRETS}


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
