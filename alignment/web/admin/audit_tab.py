"""The audit section of the admin page: the latest actions of every admin, newest first.

Only draws and passes on; the handler first asks the door. The log is a file in the home.
"""

from typing import Any

import gradio as gr

from alignment.audit import AuditLog
from alignment.web.admin.admin_doors import AdminDoor
from alignment.web.admin.admin_guard import QUIET, Guarded, changed, digests, looks
from alignment.web.admin.audit_view import draw_audit

INTRO = (
    "Who did what here and by the command line, and how it ended; times are UTC. The whole log is "
    "the file `audit.jsonl` in the home. Voters are named by a hash."
)


class AuditHandlers(Guarded):
    """Shows the log."""

    def __init__(self, log: AuditLog, door: AdminDoor) -> None:
        super().__init__(door)
        self._log = log

    @looks
    def watch(self, seen: dict[str, str], request: gr.Request) -> tuple[Any, ...]:
        """The latest lines; skips what is shown already."""
        parts = {"log": draw_audit(self._log.latest())}
        return *changed(parts, seen), digests(parts)


def build_audit_section(handlers: AuditHandlers, page: gr.Blocks, timer: gr.Timer) -> None:
    """The list: layout first, then events."""
    gr.Markdown("## Audit log")
    gr.Markdown(INTRO)
    log = gr.HTML(elem_id="admin-audit", padding=False)
    seen = gr.State({})

    page.load(handlers.watch, [seen], [log, seen], api_name="audit", **QUIET)
    timer.tick(handlers.watch, [seen], [log, seen], api_name="poll_audit", **QUIET)
