"""The rounds section of the admin page: policies in a row. Only draws and passes on."""

from typing import Any

import gradio as gr

from alignment.contest.rounds import RoundDesk
from alignment.registry import Registry
from alignment.web.admin.admin_doors import AdminDoor
from alignment.web.admin.admin_guard import QUIET, Guarded, changed, digests, looks, shown
from alignment.web.contest.leaderboard_tab import names_of
from alignment.web.contest.rounds_view import draw_rounds


class RoundHandlers(Guarded):
    """Asks the door, reads the rounds, draws them."""

    def __init__(self, desk: RoundDesk, registry: Registry, door: AdminDoor) -> None:
        super().__init__(door)
        self._desk = desk
        self._registry = registry

    @looks
    def watch(self, seen: dict[str, str], request: gr.Request) -> tuple[Any, ...]:
        """The rounds; skips what is shown already."""
        parts = {"rounds": shown(self._draw)}
        return *changed(parts, seen), digests(parts)

    def _draw(self) -> str:
        return draw_rounds(self._desk.rounds(), names_of(self._registry))


def build_rounds_section(handlers: RoundHandlers, page: gr.Blocks, timer: gr.Timer) -> None:
    """One table, drawn again when it changes."""
    gr.Markdown("## Rounds")
    rounds = gr.HTML(elem_id="admin-rounds", padding=False)
    seen = gr.State({})
    page.load(handlers.watch, [seen], [rounds, seen], api_name="rounds", **QUIET)
    timer.tick(handlers.watch, [seen], [rounds, seen], api_name="poll_rounds", **QUIET)
