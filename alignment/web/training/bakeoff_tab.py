"""The bake-off section of the admin page: DPO, ORPO and SFT on one split, one table.

Only draws and passes on; every handler first asks the door. State is the bake-off's folder.
"""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from alignment.bakeoff.bakeoffs import METHODS
from alignment.bakeoff.store import Bakeoff, BakeoffState
from alignment.pipeline import Pipeline
from alignment.web.admin.admin_doors import AdminDoor
from alignment.web.admin.admin_guard import QUIET, Guarded, acts, changed, digests, looks, shown
from alignment.web.training.bakeoff_view import draw_bakeoff
from annotation.faults import Fault
from annotation.schema import Prompt

INTRO = (
    "Not sure which method to take? Train all three on the same examples and see. SFT only "
    "imitates the chosen answers: it is the baseline that DPO and ORPO must beat. It takes about "
    "three times as long as one run, and no other run goes meanwhile."
)
STOPPED = (BakeoffState.CANCELLED, BakeoffState.INTERRUPTED, BakeoffState.FAILED)


class BakeoffHandlers(Guarded):
    """Start, cancel, resume and watch the latest bake-off of the home."""

    def __init__(
        self, pipeline: Pipeline, door: AdminDoor, prompts: Sequence[Prompt] | None = None
    ) -> None:
        """Answers are compared on the eval prompts among `prompts`; None: those of the base."""
        super().__init__(door)
        self._pipeline = pipeline
        self._prompts = prompts

    @acts("start a bake-off")
    def start(self, request: gr.Request) -> str:
        started = shown(lambda: self._pipeline.start_bakeoff(self._prompts))
        self._doing.touched(started.id)
        return self._draw(started)

    @acts("cancel a bake-off")
    def cancel(self, request: gr.Request) -> str:
        return self._draw(shown(lambda: self._pipeline.bakeoffs.cancel(self._chosen())))

    @acts("resume a bake-off")
    def resume(self, request: gr.Request) -> str:
        return self._draw(shown(lambda: self._pipeline.bakeoffs.resume(self._chosen())))

    @looks
    def watch(self, seen: dict[str, str], request: gr.Request) -> tuple[Any, ...]:
        """The latest bake-off and which buttons make sense; skips what is shown already."""
        latest = self._pipeline.bakeoffs.latest()
        is_busy = any(run.is_active for run in self._pipeline.runs.list())
        active = latest is not None and latest.is_active
        stopped = latest is not None and latest.state in STOPPED
        parts = {"bakeoff": self._draw(latest)}
        return (
            *changed(parts, seen),
            gr.update(interactive=not active and not is_busy),
            gr.update(interactive=active),
            gr.update(interactive=stopped and not is_busy),
            digests(parts),
        )

    def _chosen(self) -> str:
        """The latest bake-off, which the action under way is about."""
        latest = self._pipeline.bakeoffs.latest()
        if latest is None:
            raise Fault("No bake-off yet: start one first.")
        self._doing.touched(latest.id)
        return latest.id

    def _draw(self, bakeoff: Bakeoff | None) -> str:
        if bakeoff is None:
            return ""
        ids = {run_id for _, run_id in bakeoff.runs}
        return draw_bakeoff(bakeoff, [r for r in self._pipeline.runs.list() if r.id in ids])


def build_bakeoff_section(handlers: BakeoffHandlers, page: gr.Blocks, timer: gr.Timer) -> None:
    """A button, its progress, and the table once it is there."""
    gr.Markdown("## Bake-off")
    gr.Markdown(INTRO)
    with gr.Row():
        start = gr.Button(
            f"Train all {len(METHODS)} and compare",
            elem_id="admin-bakeoff-start",
            interactive=False,
            scale=0,
            min_width=280,
        )
        cancel, resume = (
            gr.Button(
                name,
                elem_id=f"admin-bakeoff-{name.lower()}",
                interactive=False,
                scale=0,
                min_width=130,
            )
            for name in ("Cancel", "Resume")
        )
    told = gr.HTML(elem_id="admin-bakeoff", padding=False)
    seen = gr.State({})

    watching = ([seen], [told, start, cancel, resume, seen])
    page.load(handlers.watch, *watching, api_name="bakeoff", **QUIET)
    timer.tick(handlers.watch, *watching, api_name="poll_bakeoff", **QUIET)
    start.click(handlers.start, None, told, api_name="start_bakeoff")
    cancel.click(handlers.cancel, None, told, api_name="cancel_bakeoff")
    resume.click(handlers.resume, None, told, api_name="resume_bakeoff")
