"""The leaderboard that voters see, and the admin's view of the comparison in progress.

Only draws and passes on. Voters see closed comparisons only, so that no running result sways a
vote; every admin handler first asks the door.
"""

from typing import Any

import gradio as gr

from alignment.contest.contest import Contest
from alignment.contest.promotions import Promotion
from alignment.contest.rounds import RoundDesk
from alignment.registry import Registry
from alignment.web.admin.admin_doors import AdminDoor
from alignment.web.admin.admin_guard import QUIET, Guarded, acts, changed, digests, looks, shown
from alignment.web.contest.leaderboard_view import draw_gate, draw_leaderboard, draw_promotions
from alignment.web.contest.rounds_view import draw_checks
from annotation.faults import Fault
from annotation.schema import ModelRef

INTRO = (
    "A new model becomes the policy, from which pairs are sampled, once blind votes prefer it. "
    "Voters don't see this comparison while it is open."
)
NO_VOTES = '<p class="vta-note">No blind vote compared models yet.</p>'


def names_of(registry: Registry) -> dict[ModelRef, str]:
    """What people call the models that are here."""
    return {model.ref: model.name for model in registry.models()}


class LeaderboardHandlers(Guarded):
    """The comparison in progress: watch it, promote or dismiss by hand, roll back."""

    def __init__(
        self, contest: Contest, registry: Registry, rounds: RoundDesk, door: AdminDoor
    ) -> None:
        super().__init__(door)
        self._contest = contest
        self._registry = registry
        self._rounds = rounds
        self._votes: tuple[object, str] | None = None

    @looks
    def watch(self, seen: dict[str, str], request: gr.Request) -> tuple[Any, ...]:
        """Gate, leaderboard and promotions; skips what is shown already."""
        parts = shown(self._draw)
        waits = "waits" if self._contest.field().candidate else ""
        promoted = bool(self._registry.promotions.history())
        now = digests(parts | {"waits": waits, "promoted": str(promoted)})
        if now == seen:
            return *[gr.skip()] * 6, now
        return (
            *changed(parts, seen),
            gr.update(interactive=bool(waits)),
            gr.update(interactive=bool(waits)),
            gr.update(interactive=promoted),
            now,
        )

    @acts("promote by hand")
    def promote(self, request: gr.Request) -> str:
        return self._told(shown(self._contest.override))

    @acts("dismiss a candidate")
    def dismiss(self, request: gr.Request) -> str:
        gone = shown(self._contest.dismiss)
        self._doing.touched(gone.name)
        return f"**{gone.name}** is compared no more. It stays in the Compare tab."

    @acts("roll back the policy")
    def roll_back(self, request: gr.Request) -> str:
        return self._told(shown(self._contest.roll_back))

    def _draw(self) -> dict[str, str]:
        names = names_of(self._registry)
        return {
            "gate": draw_gate(self._contest.gate(), names, self._contest.trouble),
            "board": self._board(names),
            "history": draw_promotions(self._registry.promotions.history(), names),
        }

    def _board(self, names: dict[ModelRef, str]) -> str:
        # Intervals take a second: drawn again only where there are new votes or models.
        comparisons = self._contest.comparisons()
        left_out = self._contest.left_out()
        key = (tuple(comparisons), tuple(names.items()), left_out)
        if self._votes is None or self._votes[0] != key:
            board = self._contest.leaderboard(closed_only=False)
            drawn = draw_leaderboard(board, names, empty=NO_VOTES, left_out=left_out)
            self._votes = (key, drawn + self._checks())
        return self._votes[1]

    def _checks(self) -> str:
        """What needs no voter, beside the votes: of a model that wins by length alone, say."""
        trainings = self._rounds.trainings().values()
        return draw_checks([(t.run, t.final) for t in trainings if t.final])

    def _told(self, made: Promotion) -> str:
        name = names_of(self._registry).get(made.model, made.model.label)
        self._doing.touched(name)
        return f"**{name}** is the policy now; the next pairs are sampled from it."


def build_leaderboard_section(
    handlers: LeaderboardHandlers, page: gr.Blocks, timer: gr.Timer
) -> None:
    """The gate with its buttons, the whole leaderboard, how the policy came about."""
    gr.Markdown("## Promotion")
    gr.Markdown(INTRO)
    gate = gr.HTML(elem_id="admin-gate", padding=False)
    with gr.Row():
        promote, dismiss, back = (
            gr.Button(name, elem_id=f"admin-{key}", interactive=False, min_width=150)
            for name, key in (
                ("Promote it anyway", "promote"),
                ("Dismiss it", "dismiss"),
                ("Roll back the policy", "roll-back"),
            )
        )
    told = gr.Markdown(elem_id="admin-promotion-told")
    board = gr.HTML(elem_id="admin-leaderboard", padding=False)
    history = gr.HTML(elem_id="admin-promotions", padding=False)
    seen = gr.State({})

    watching = ([seen], [gate, board, history, promote, dismiss, back, seen])
    page.load(handlers.watch, *watching, api_name="contest", **QUIET)
    timer.tick(handlers.watch, *watching, api_name="poll_contest", **QUIET)
    promote.click(handlers.promote, None, told, api_name="promote")
    dismiss.click(handlers.dismiss, None, told, api_name="dismiss")
    back.click(handlers.roll_back, None, told, api_name="roll_back")


def build_leaderboard_tab(contest: Contest, registry: Registry, tab: gr.Tab) -> None:
    """What voters see: closed comparisons, drawn each time the tab is opened."""
    gr.Markdown("## Leaderboard")
    board = gr.HTML(elem_id="leaderboard", padding=False)

    def refresh() -> str:
        try:
            found = contest.leaderboard(closed_only=True)
            return draw_leaderboard(found, names_of(registry), left_out=contest.left_out())
        except Fault as fault:
            raise gr.Error(str(fault), print_exception=False) from None

    # Gradio drops a click while the last one's answer is on its way, and would show that one.
    tab.select(
        refresh,
        None,
        board,
        api_name="leaderboard",
        show_progress="hidden",
        trigger_mode="always_last",
    )
