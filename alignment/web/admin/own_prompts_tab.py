"""Voters' own prompts on the admin page: those that wait go round when the owner lets them.

Only draws and passes on; every handler first asks the door. What waits is in the journal.
"""

from typing import Any

import gradio as gr

from alignment.web.admin.admin_doors import AdminDoor
from alignment.web.admin.admin_guard import QUIET, Guarded, acts, changed, digests, looks, shown
from alignment.web.admin.quality_view import draw_waiting
from alignment.web.markup import safe_text
from annotation.faults import Fault
from annotation.journal.journal import Journal
from annotation.schema import Pair

INTRO = (
    "With `OWN_PROMPTS=moderated`, a prompt that a voter asks is seen by nobody else until you "
    "approve it; its votes count from then on. A rejected one stays out for good."
)
SHOWN_PAIRS = 20
LABEL_CHARACTERS = 60
WRITE_S = 30


class OwnPromptHandlers(Guarded):
    """Approve, reject and watch what waits."""

    def __init__(self, journal: Journal, door: AdminDoor) -> None:
        super().__init__(door)
        self._journal = journal

    @looks
    def watch(
        self, seen: dict[str, str], chosen: str | None, request: gr.Request
    ) -> tuple[Any, ...]:
        """What waits, which one may choose, and whether there is any; skips what is shown.

        What is chosen stays chosen while it waits: the next click is about that one.
        """
        waiting = self._journal.waiting_pairs()
        choices = [(_label(pair), pair.id) for pair in waiting[:SHOWN_PAIRS]]
        parts = {"waiting": draw_waiting(waiting[:SHOWN_PAIRS], len(waiting))}
        now = digests(parts)
        if seen == now:
            return *[gr.skip()] * 4, now
        ids = [pair_id for _, pair_id in choices]
        value = {} if chosen in ids else {"value": ids[0] if ids else None}
        return (
            *changed(parts, seen),
            gr.update(choices=choices, interactive=bool(choices), **value),
            gr.update(interactive=bool(choices)),
            gr.update(interactive=bool(choices)),
            now,
        )

    @acts("approve an own prompt")
    def approve(self, pair_id: str | None, request: gr.Request) -> str:
        chosen = _chosen(pair_id)
        self._doing.touched(chosen)
        pair = shown(lambda: self._journal.approve_pair(chosen).result(WRITE_S))
        return _said("Approved, and others will see it now", pair)

    @acts("reject an own prompt")
    def reject(self, pair_id: str | None, request: gr.Request) -> str:
        chosen = _chosen(pair_id)
        self._doing.touched(chosen)
        pair = shown(lambda: self._journal.reject_pair(chosen).result(WRITE_S))
        return _said("Rejected, and nobody else will see it", pair)


def _said(what: str, pair: Pair) -> str:
    return f'<p class="vta-fine">{what}: {safe_text(_label(pair))}</p>'


def _chosen(pair_id: str | None) -> str:
    def chosen() -> str:
        if not pair_id:
            raise Fault("No prompt is chosen: choose one first.")
        return pair_id

    return shown(chosen)


def _label(pair: Pair) -> str:
    flat = " ".join(pair.prompt.messages[-1].content.split())
    return flat if len(flat) <= LABEL_CHARACTERS else f"{flat[: LABEL_CHARACTERS - 1]}…"


def build_own_prompts_section(
    handlers: OwnPromptHandlers, page: gr.Blocks, timer: gr.Timer
) -> None:
    """What waits, and two buttons: layout first, then events."""
    gr.Markdown("### Voters' own prompts")
    gr.Markdown(INTRO)
    waiting = gr.HTML(elem_id="admin-waiting", padding=False)
    with gr.Row(equal_height=True):
        chosen = gr.Dropdown(
            label="Prompt", choices=[], elem_id="admin-own-prompt", interactive=False, min_width=260
        )
        approve, reject = (
            gr.Button(
                name, elem_id=f"admin-{name.lower()}", interactive=False, scale=0, min_width=130
            )
            for name in ("Approve", "Reject")
        )
    told = gr.HTML(elem_id="admin-own-told", padding=False)
    seen = gr.State({})

    looking = ([seen, chosen], [waiting, chosen, approve, reject, seen])
    page.load(handlers.watch, *looking, api_name="own_prompts", **QUIET)
    timer.tick(handlers.watch, *looking, api_name="poll_own_prompts", **QUIET)
    for button, action, name in (
        (approve, handlers.approve, "approve"),
        (reject, handlers.reject, "reject"),
    ):
        done = button.click(action, chosen, told, api_name=name)
        done.then(handlers.watch, *looking, api_name=f"{name}_shown", **QUIET)
