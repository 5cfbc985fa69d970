"""The admin page: votes and their quality, dataset, training, bake-off, publishing, audit log.

Only draws and passes on; every handler first asks the door. State is read from the journal and
the runs' folders, so a reload or a restart of the app shows the same.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from alignment.pipeline import Pipeline
from alignment.web.admin.admin_doors import AdminDoor
from alignment.web.admin.admin_guard import POLL_S, QUIET, Guarded, acts, looks, shown
from alignment.web.admin.admin_view import (
    ArgillaStatus,
    describe_export,
    describe_votes,
    preview_rows,
)
from alignment.web.admin.audit_tab import AuditHandlers, build_audit_section
from alignment.web.admin.own_prompts_tab import OwnPromptHandlers, build_own_prompts_section
from alignment.web.admin.quality_tab import QualityHandlers, build_quality_section
from alignment.web.contest.leaderboard_tab import LeaderboardHandlers, build_leaderboard_section
from alignment.web.contest.rounds_tab import RoundHandlers, build_rounds_section
from alignment.web.training.bakeoff_tab import BakeoffHandlers, build_bakeoff_section
from alignment.web.training.training_tab import TrainingHandlers, build_training_section
from annotation.backup.sync import BackupStatus
from annotation.web.frugal import let_queue_rest

ADMIN_CSS: Path = Path(__file__).parent / "admin.css"
"""Goes to `mount_gradio_app(css_paths=[ADMIN_CSS])`."""
PREVIEW_COLUMNS = ["prompt", "chosen", "rejected", "votes", "agreement"]


class AdminHandlers(Guarded):
    """Votes, dataset and Hub: ask the door, call the pipeline, render. No state of its own."""

    def __init__(
        self,
        pipeline: Pipeline,
        door: AdminDoor,
        *,
        argilla: Callable[[], ArgillaStatus],
        pairs_ready: Callable[[], int],
        backup: Callable[[], BackupStatus | None] = lambda: None,
        trouble: Callable[[], str | None] = lambda: None,
        sampling: Callable[[], str | None] = lambda: None,
        missing: Callable[[], str | None] = lambda: None,
    ) -> None:
        super().__init__(door)
        self._pipeline = pipeline
        self._argilla = argilla
        self._pairs_ready = pairs_ready
        self._backup = backup
        self._trouble = trouble
        self._sampling = sampling
        self._missing = missing

    @looks
    def votes(self, request: gr.Request) -> str:
        counts = self._pipeline.preview().counts
        return describe_votes(
            counts,
            self._pairs_ready(),
            self._argilla(),
            self._backup(),
            trouble=self._trouble(),
            sampling=self._sampling(),
            missing=self._missing(),
        )

    @looks
    def preview(self, request: gr.Request) -> tuple[str, Any]:
        prepared = self._pipeline.preview()
        rows = preview_rows(prepared)
        return describe_export(prepared), gr.update(value=rows, visible=bool(rows))

    @acts("export")
    def export(self, request: gr.Request) -> tuple[Any, str]:
        export = shown(self._pipeline.export)
        self._doing.touched(export.sha256)
        files = [str(path) for path in sorted(export.directory.iterdir())]
        saved = f"Saved {export.examples} examples in `{export.directory}`."
        return gr.update(value=files, visible=True), saved

    @acts("publish the dataset")
    def publish_dataset(self, repo: str | None, request: gr.Request) -> str:
        if not repo:
            raise gr.Error("No name is given: write one for the dataset.", print_exception=False)
        self._doing.touched(repo)
        done = shown(lambda: self._pipeline.publish_dataset(repo))
        return f"Published as [{done.repo}]({done.url}) at `{done.commit[:12]}`."

    @acts("publish")
    def publish(
        self, run_id: str | None, repo: str, merged: bool | None, request: gr.Request
    ) -> str:
        if not run_id:
            raise gr.Error("No run is chosen: train one first.", print_exception=False)
        self._doing.touched(run_id, repo)
        published = shown(lambda: self._pipeline.publish(run_id, repo, merged=bool(merged)))
        return f"Published as [{published.repo}]({published.url}) at `{published.revision[:12]}`."

    @looks
    def size_up(self, name: str | None, request: gr.Request) -> str:
        return shown(lambda: self._pipeline.pulls.size_up(name or "")).line

    @acts("pull a model")
    def pull(self, name: str, request: gr.Request) -> str:
        self._doing.touched(name)
        return shown(lambda: self._pipeline.pulls.start(name)).line

    @acts("cancel a pull")
    def cancel_pull(self, request: gr.Request) -> str:
        return shown(self._pipeline.pulls.cancel).line

    @looks
    def pulled(self, seen: str, request: gr.Request) -> Any:
        """How the latest pull stands; what the page shows stays where that is the same."""
        status = self._pipeline.pulls.status()
        return gr.skip() if status is None or status.line == seen else (status.line, status.line)


def build_admin_page(
    handlers: AdminHandlers,
    quality: QualityHandlers,
    own_prompts: OwnPromptHandlers,
    training: TrainingHandlers,
    bakeoff: BakeoffHandlers,
    leaderboard: LeaderboardHandlers,
    audit: AuditHandlers,
    rounds: RoundHandlers,
) -> gr.Blocks:
    """The whole page, a section for each step of the loop: layout first, then its events."""
    with gr.Blocks(title="Votetune admin", analytics_enabled=False) as page:
        gr.Markdown("# Votetune admin")
        gr.Markdown("## Votes")
        votes = gr.Markdown(elem_id="admin-votes")
        timer = gr.Timer(POLL_S)
        page.load(handlers.votes, None, votes, api_name="votes", **QUIET)
        timer.tick(handlers.votes, None, votes, api_name="poll_votes", **QUIET)
        build_quality_section(quality, page, timer)
        build_own_prompts_section(own_prompts, page, timer)
        _build_dataset(handlers)
        run = build_training_section(training, page, timer)
        build_bakeoff_section(bakeoff, page, timer)
        build_leaderboard_section(leaderboard, page, timer)
        build_rounds_section(rounds, page, timer)
        _build_hub(handlers, run, page, timer)
        build_audit_section(audit, page, timer)
    page.queue(default_concurrency_limit=4)
    let_queue_rest(page)
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


def _build_hub(handlers: AdminHandlers, run: gr.Dropdown, page: gr.Blocks, timer: gr.Timer) -> None:
    gr.Markdown("## Hub")
    with gr.Row(equal_height=True):
        dataset_repo = gr.Textbox(
            label="Publish the dataset as",
            placeholder="my-preferences",
            elem_id="admin-dataset-repo",
        )
        publish_dataset = gr.Button(
            "Publish dataset", elem_id="admin-publish-dataset", scale=0, min_width=180
        )
    dataset_published = gr.Markdown(elem_id="admin-dataset-published")
    with gr.Row(equal_height=True):
        repo = gr.Textbox(
            label="Publish the chosen run as", placeholder="my-aligned-model", elem_id="admin-repo"
        )
        publish = gr.Button("Publish", elem_id="admin-publish", scale=0, min_width=180)
    merged = gr.Checkbox(
        label="As one whole model, the adapter merged into its base", elem_id="admin-merged"
    )
    published = gr.Markdown(elem_id="admin-published")
    with gr.Row(equal_height=True):
        remote = gr.Textbox(
            label="Pull an aligned model",
            placeholder="owner/name or owner/name@revision",
            elem_id="admin-remote",
        )
        size_up = gr.Button("Size", elem_id="admin-size-up", scale=0, min_width=110)
        pull = gr.Button("Pull", elem_id="admin-pull", scale=0, min_width=110)
        cancel = gr.Button("Cancel", elem_id="admin-cancel-pull", scale=0, min_width=110)
    pulled = gr.Markdown(elem_id="admin-pulled")
    seen = gr.State("")

    publish_dataset.click(
        handlers.publish_dataset, dataset_repo, dataset_published, api_name="publish_dataset"
    )
    publish.click(handlers.publish, [run, repo, merged], published, api_name="publish")
    size_up.click(handlers.size_up, remote, pulled, api_name="size_up_pull")
    pull.click(handlers.pull, remote, pulled, api_name="pull")
    cancel.click(handlers.cancel_pull, None, pulled, api_name="cancel_pull")
    page.load(handlers.pulled, seen, [pulled, seen], api_name="pulled", **QUIET)
    timer.tick(handlers.pulled, seen, [pulled, seen], api_name="poll_pulled", **QUIET)
