"""The admin page: the votes, the export, a run and its plots, publishing.

Only draws and passes on; every handler first asks the door. State is read from the journal and
the run's folder, so a reload or a restart of the app shows the same.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import gradio as gr
import pandas as pd

from alignment.pipeline import Pipeline
from alignment.recipes import TrainingOptions
from alignment.runs import Metric
from alignment.web.admin_gate import AdminDoor
from alignment.web.admin_view import (
    ArgillaStatus,
    describe_export,
    describe_run,
    describe_runs,
    describe_votes,
    preview_rows,
)
from annotation.faults import Fault

POLL_S = 2.0
PREVIEW_COLUMNS = ["prompt", "chosen", "rejected", "votes", "agreement"]
QUIET: dict[str, Any] = {"show_progress": "hidden"}
T = TypeVar("T")


class AdminHandlers:
    """What each control does: ask the door, call the pipeline, render. No state of its own."""

    def __init__(
        self,
        pipeline: Pipeline,
        door: AdminDoor,
        *,
        argilla: Callable[[], ArgillaStatus],
        pairs_ready: Callable[[], int],
    ) -> None:
        self._pipeline = pipeline
        self._door = door
        self._argilla = argilla
        self._pairs_ready = pairs_ready

    def votes(self, request: gr.Request) -> str:
        self._require_admin(request)
        counts = self._pipeline.preview().counts
        return describe_votes(counts, self._pairs_ready(), self._argilla())

    def preview(self, request: gr.Request) -> tuple[str, Any]:
        self._require_admin(request)
        prepared = self._pipeline.preview()
        rows = preview_rows(prepared)
        return describe_export(prepared), gr.update(value=rows, visible=bool(rows))

    def export(self, request: gr.Request) -> tuple[Any, str]:
        self._require_admin(request)
        export = _shown(self._pipeline.export)
        files = [str(path) for path in sorted(export.directory.iterdir())]
        saved = f"Saved {export.examples} examples in `{export.directory}`."
        return gr.update(value=files, visible=True), saved

    def start(self, method: str, steps: float | None, request: gr.Request) -> tuple[Any, str]:
        self._require_admin(request)
        options = TrainingOptions(
            "orpo" if method == "ORPO" else "dpo", steps=int(steps) if steps else None
        )
        run = _shown(lambda: self._pipeline.train(options))
        return self._choose(run.id), describe_run(run, [])

    def cancel(self, run_id: str | None, request: gr.Request) -> str:
        self._require_admin(request)
        run = _shown(lambda: self._pipeline.runs.cancel(_chosen(run_id)))
        return describe_run(run, self._pipeline.runs.metrics(run.id))

    def runs(
        self, run_id: str | None, seen: list[list[str]], request: gr.Request
    ) -> tuple[Any, Any, list[list[str]]]:
        """The choice of runs and their table; skips both while nothing has changed."""
        self._require_admin(request)
        rows = describe_runs(self._pipeline.runs.list())
        if rows == seen:
            return gr.skip(), gr.skip(), rows
        return self._choose(run_id), rows, rows

    def watch(
        self, run_id: str | None, seen: str, request: gr.Request
    ) -> tuple[Any, Any, Any, Any, str]:
        """The run's line and its three plots; skips what has not changed since `seen`."""
        self._require_admin(request)
        if not run_id:
            return "No run yet.", gr.skip(), gr.skip(), gr.skip(), ""
        run = _shown(lambda: self._pipeline.runs.get(run_id))
        metrics = self._pipeline.runs.metrics(run_id)
        now = f"{run_id} {len(metrics)}"
        if now == seen:
            return describe_run(run, metrics), gr.skip(), gr.skip(), gr.skip(), now
        return describe_run(run, metrics), *plots(metrics), now

    def publish(self, run_id: str | None, repo: str, request: gr.Request) -> str:
        self._require_admin(request)
        published = _shown(lambda: self._pipeline.publish(_chosen(run_id), repo))
        return f"Published as [{published.repo}]({published.url}) at `{published.revision[:12]}`."

    def pull(self, name: str, request: gr.Request) -> str:
        self._require_admin(request)
        model = _shown(lambda: self._pipeline.pull(name))
        return f"`{model.name}` is here: choose it in the Compare tab."

    def _choose(self, run_id: str | None) -> Any:
        ids = [run.id for run in reversed(self._pipeline.runs.list())]
        value = run_id if run_id in ids else (ids[0] if ids else None)
        return gr.update(choices=ids, value=value)

    def _require_admin(self, request: gr.Request) -> None:
        # The gate has asked already; asked again so that no new mount can leave a handler open.
        if not self._door.admits(request.headers.get("cookie")):
            raise gr.Error("Only the owner may do this: open the admin URL.", print_exception=False)


def build_admin_page(handlers: AdminHandlers) -> gr.Blocks:
    """The whole page, a section for each step of the loop: layout first, then its events."""
    with gr.Blocks(title="Votetune admin", analytics_enabled=False) as page:
        gr.Markdown("# Votetune admin")
        gr.Markdown("## Votes")
        votes = gr.Markdown(elem_id="admin-votes")
        timer = gr.Timer(POLL_S)
        page.load(handlers.votes, None, votes, api_name="votes", **QUIET)
        timer.tick(handlers.votes, None, votes, api_name="poll_votes", **QUIET)
        _build_dataset(handlers)
        run = _build_training(handlers, page, timer)
        _build_hub(handlers, run)
    page.queue(default_concurrency_limit=4)
    return page


def _build_dataset(handlers: AdminHandlers) -> None:
    gr.Markdown("## Dataset")
    with gr.Row():
        preview = gr.Button("Preview", elem_id="admin-preview")
        export = gr.Button("Export", elem_id="admin-export")
    summary = gr.Markdown(elem_id="admin-export-summary")
    rows = gr.Dataframe(
        headers=PREVIEW_COLUMNS,
        interactive=False,
        wrap=True,
        label="First examples",
        column_widths=["22%", "30%", "30%", "8%", "10%"],
        visible=False,
    )
    files = gr.Files(label="Exported files", interactive=False, visible=False)

    preview.click(handlers.preview, None, [summary, rows], api_name="preview")
    export.click(handlers.export, None, [files, summary], api_name="export")


def _build_training(handlers: AdminHandlers, page: gr.Blocks, timer: gr.Timer) -> gr.Dropdown:
    """Start, watch, cancel; returns the control that chooses a run."""
    gr.Markdown("## Train")
    with gr.Row():
        method = gr.Radio(["DPO", "ORPO"], value="DPO", label="Method", elem_id="admin-method")
        steps = gr.Number(0, label="Steps (0: by the number of examples)", precision=0, minimum=0)
    with gr.Row():
        start = gr.Button("Start a run", variant="primary", elem_id="admin-start")
        cancel = gr.Button("Cancel the run", elem_id="admin-cancel")
    run = gr.Dropdown([], label="Run", elem_id="admin-run")
    progress = gr.Markdown("No run yet.", elem_id="admin-progress")
    with gr.Row():
        loss = _line_plot("loss", "Loss")
        margin = _line_plot("reward_margin", "Reward margin, chosen − rejected")
        accuracy = _line_plot("reward_accuracy", "Reward accuracy", y_lim=[0, 1])
    history = gr.Dataframe(
        headers=["run", "state", "examples", "steps", "why"],
        interactive=False,
        wrap=True,
        column_widths=["30%", "14%", "12%", "14%", "30%"],
        label="All runs",
    )
    seen, listed = gr.State(""), gr.State([])

    watched = [progress, loss, margin, accuracy, seen]
    listing = ([run, listed], [run, history, listed])
    page.load(handlers.runs, *listing, api_name="runs", **QUIET)
    timer.tick(handlers.runs, *listing, api_name="poll_runs", **QUIET)
    timer.tick(handlers.watch, [run, seen], watched, api_name="watch", **QUIET)
    run.change(handlers.watch, [run, seen], watched, api_name="watch_chosen", **QUIET)
    start.click(handlers.start, [method, steps], [run, progress], api_name="start")
    cancel.click(handlers.cancel, run, progress, api_name="cancel_run")
    return run


def _build_hub(handlers: AdminHandlers, run: gr.Dropdown) -> None:
    gr.Markdown("## Hub")
    with gr.Row(equal_height=True):
        repo = gr.Textbox(
            label="Publish the chosen run as", placeholder="my-aligned-model", elem_id="admin-repo"
        )
        publish = gr.Button("Publish", elem_id="admin-publish", scale=0, min_width=180)
    published = gr.Markdown(elem_id="admin-published")
    with gr.Row(equal_height=True):
        remote = gr.Textbox(
            label="Pull an aligned model",
            placeholder="owner/name or owner/name@revision",
            elem_id="admin-remote",
        )
        pull = gr.Button("Pull", elem_id="admin-pull", scale=0, min_width=180)
    pulled = gr.Markdown(elem_id="admin-pulled")

    publish.click(handlers.publish, [run, repo], published, api_name="publish")
    pull.click(handlers.pull, remote, pulled, api_name="pull")


def plots(metrics: Sequence[Metric]) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Loss, reward margin and reward accuracy by step, each without the steps that lack it."""
    frame = pd.DataFrame(
        [(m.step, m.loss, m.reward_margin, m.reward_accuracy) for m in metrics],
        columns=["step", "loss", "reward_margin", "reward_accuracy"],
    ).astype("float64")
    loss, margin, accuracy = (
        frame[["step", name]].dropna() for name in ("loss", "reward_margin", "reward_accuracy")
    )
    return loss, margin, accuracy


def _line_plot(y: str, title: str, **options: Any) -> gr.LinePlot:
    return gr.LinePlot(
        x="step",
        y=y,
        title=title,
        x_title="step",
        y_title=y.replace("_", " "),
        height=240,
        min_width=280,
        elem_id=f"admin-plot-{y.replace('_', '-')}",
        **options,
    )


def _chosen(run_id: str | None) -> str:
    if not run_id:
        raise Fault("No run is chosen: start one first.")
    return run_id


def _shown(action: Callable[[], T]) -> T:
    """Run `action`; a Fault becomes the one line that the page shows."""
    try:
        return action()
    except Fault as fault:
        raise gr.Error(str(fault), print_exception=False) from None
