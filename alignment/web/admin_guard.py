"""What every handler of the admin page does first and last: ask the door, show a Fault."""

from collections.abc import Callable
from hashlib import sha256
from typing import Any, TypeVar

import gradio as gr

from alignment.web.admin_gate import AdminDoor
from annotation.faults import Fault

POLL_S = 2.0
QUIET: dict[str, Any] = {"show_progress": "hidden"}
"""For what runs by itself: nothing on the page may flicker every two seconds."""
T = TypeVar("T")


class Guarded:
    """Handlers behind the door. Each calls `_require_admin` before anything else."""

    def __init__(self, door: AdminDoor) -> None:
        self._door = door

    def _require_admin(self, request: gr.Request) -> None:
        # The gate has asked already; asked again so that no new mount can leave a handler open.
        if not self._door.admits(request.headers.get("cookie")):
            raise gr.Error("Only the owner may do this: open the admin URL.", print_exception=False)


def shown(action: Callable[[], T]) -> T:
    """Run `action`; a Fault becomes the one line that the page shows."""
    try:
        return action()
    except Fault as fault:
        raise gr.Error(str(fault), print_exception=False) from None


def changed(parts: dict[str, str], seen: dict[str, str]) -> list[Any]:
    """Each part's new text, or a skip where the page shows it already, so that folds stay open.

    `seen` are the `digests` of what it shows.
    """
    new = digests(parts)
    return [gr.skip() if seen.get(name) == new[name] else parts[name] for name in parts]


def digests(parts: dict[str, str]) -> dict[str, str]:
    """What a page remembers of its parts: pictures of a long run are too much to keep for each."""
    return {name: sha256(text.encode()).hexdigest() for name, text in parts.items()}
