"""The training section of the admin page: check the data, one button, live pictures of a run.

Only draws and passes on; every handler first asks the door. All that it shows is read from the
journal and the runs' folders, so a reload or a restart of the app shows the same.
"""

from collections.abc import Callable, Sequence
from html import escape
from typing import Any, get_args

import gradio as gr

from alignment.checks.diagnosis import Diagnosis
from alignment.pipeline import Pipeline
from alignment.runs.alarms import Alarm, alarms
from alignment.runs.plan import plan_run
from alignment.runs.recipes import DEFAULT_START, Loss, Method
from alignment.runs.runs import Run
from alignment.settings import AlignmentSettings
from alignment.web.admin.admin_doors import AdminDoor
from alignment.web.admin.admin_guard import QUIET, Guarded, acts, changed, digests, looks, shown
from alignment.web.contest.rounds_view import draw_checks, draw_remarks
from alignment.web.training.checkup import Checkup
from alignment.web.training.doctor_view import CHECKING, draw_diagnosis, draw_tokens
from alignment.web.training.training_form import (
    ADVISED,
    METHODS,
    NUMBERS,
    STARTS,
    Form,
    draw_plan,
    draw_refusal,
    offered_places,
    say_estimate,
    say_flip_rate,
    why_not,
)
from alignment.web.training.training_view import (
    NO_RUN,
    can_cancel,
    can_resume,
    draw_alarms,
    draw_pictures,
    draw_progress,
    draw_runs,
    draw_samples,
)
from annotation.faults import Fault

INTRO = (
    "Training shifts the model towards the answers that voters chose and away from those they "
    "rejected. Check the data, press Train, watch; the new model then waits in the Compare tab."
)
OPTIONS = (
    "All of these may stay as they are. A length penalty is DPO's guard: above 0, such as 0.01, it "
    "keeps answers from growing, below 0 from shrinking."
)
Seen = dict[str, str]


class TrainingHandlers(Guarded):
    """What each control of the section does: ask the door, call the pipeline, render."""

    def __init__(
        self, pipeline: Pipeline, door: AdminDoor, checkup: Checkup, settings: AlignmentSettings
    ) -> None:
        super().__init__(door)
        self._pipeline = pipeline
        self._checkup = checkup
        self.places = offered_places(settings)

    @looks
    def prepare(self, seen: str, request: gr.Request, *form: Any) -> tuple[Any, ...]:
        """The findings, their tokens, what Train would do and whether it may; skips the same."""
        active = self._active()
        busy = f"{active.id} {active.state}" if active else ""
        now = f"{self._pipeline.preview().counts} {busy} {form}"
        if now == seen:
            return *[gr.skip()] * 5, now
        asked = Form(*form)
        diagnosis = self._checkup.latest(asked.method)
        no = why_not(diagnosis, active)
        return (
            draw_diagnosis(diagnosis),
            draw_tokens(diagnosis.tokens, diagnosis.max_length),
            draw_refusal(no) if no else self._say_plan(asked, diagnosis),
            gr.update(interactive=no is None),
            gr.update(placeholder=say_flip_rate(self._pipeline.measured_flip_rate())),
            now,
        )

    @looks
    def look_deeper(self, method: Method, request: gr.Request) -> tuple[str, str]:
        found = shown(lambda: self._checkup.look_deeper(method))
        return draw_diagnosis(found), draw_tokens(found.tokens, found.max_length)

    @acts("train")
    def start(self, request: gr.Request, *form: Any) -> tuple[Any, str]:
        asked = Form(*form)
        advised = self._checkup.latest(asked.method).advised
        run = shown(lambda: self._pipeline.train(asked.to_options(advised)))
        self._doing.touched(run.id)
        offered = self._offer(self._pipeline.runs.list(), None)
        return offered | {"value": run.id}, draw_progress(run, [])

    @acts("cancel a run")
    def cancel(self, run_id: str | None, request: gr.Request) -> str:
        run = self._run(run_id, self._pipeline.runs.cancel)
        return draw_progress(run, self._pipeline.runs.metrics(run.id))

    @acts("resume a run")
    def resume(self, run_id: str | None, request: gr.Request) -> str:
        run = self._run(run_id, self._pipeline.runs.resume)
        return draw_progress(run, self._pipeline.runs.metrics(run.id))

    @looks
    def watch(self, run_id: str | None, seen: Seen, request: gr.Request) -> tuple[Any, ...]:
        """Everything about the chosen run, the newest if none is; skips what is shown already."""
        runs = self._pipeline.runs.list()
        run = next((r for r in runs if r.id == run_id), runs[-1] if runs else None)
        parts = draw_run(run) | {"runs": draw_runs(runs, run.id if run else None)}
        ids = " ".join(r.id for r in runs)
        return (
            gr.skip() if seen.get("ids") == ids else self._offer(runs, run_id),
            *changed(parts, seen),
            gr.update(interactive=can_cancel(run)),
            gr.update(interactive=can_resume(run)),
            digests(parts) | {"ids": ids},
        )

    def _run(self, run_id: str | None, action: Callable[[str], Run]) -> Run:
        chosen = shown(lambda: _chosen(run_id))
        self._doing.touched(chosen)
        return shown(lambda: action(chosen))

    def _say_plan(self, asked: Form, diagnosis: Diagnosis) -> str:
        try:
            options = asked.to_options(diagnosis.advised)
            spec = plan_run(
                options,
                base=self._pipeline.base,
                dataset_sha256=diagnosis.dataset_sha256,
                examples=diagnosis.examples,
                start=self._pipeline.starts_from(options),
            )
            if spec.where == "jobs":
                takes = escape(self._pipeline.quote(options).line)
            else:
                takes = say_estimate(self._pipeline.estimate(options))
        except Fault as fault:
            return draw_refusal(str(fault))
        reasons = diagnosis.reasons if options == diagnosis.advised else ()
        return draw_plan(spec, takes, reasons)

    def _active(self) -> Run | None:
        return next((run for run in self._pipeline.runs.list() if run.is_active), None)

    def _offer(self, runs: Sequence[Run], chosen: str | None) -> dict[str, Any]:
        """The runs to choose from, newest first; the page's own choice stays where it is one."""
        ids = [run.id for run in reversed(runs)]
        value = {} if chosen in ids else {"value": ids[0] if ids else None}
        return dict(gr.update(choices=ids, **value))


def build_training_section(
    handlers: TrainingHandlers, page: gr.Blocks, timer: gr.Timer
) -> gr.Dropdown:
    """Check, train, watch, compare methods; returns the control that chooses a run."""
    gr.Markdown("## Train")
    gr.Markdown(INTRO)
    findings = gr.HTML(CHECKING, elem_id="admin-findings", padding=False)
    deeper = gr.Button("Check the tokens too", elem_id="admin-look-deeper", scale=0, min_width=220)
    tokens = gr.HTML(elem_id="admin-tokens", padding=False)
    plan = gr.HTML(elem_id="admin-plan", padding=False)
    start = gr.Button(
        "Train", variant="primary", elem_id="admin-start", interactive=False, scale=0, min_width=220
    )
    form = _build_options(handlers)
    checked = gr.State("")

    run, watching = _build_watch(handlers)
    preparing = ([checked, *form], [findings, tokens, plan, start, form[-1], checked])
    page.load(handlers.prepare, *preparing, api_name="prepare", **QUIET)
    timer.tick(handlers.prepare, *preparing, api_name="poll_prepare", **QUIET)
    for control in form:
        control.change(handlers.prepare, *preparing, api_name="plan", **QUIET)
    deeper.click(handlers.look_deeper, form[0], [findings, tokens], api_name="look_deeper")
    start.click(handlers.start, form, [run, watching[1][1]], api_name="start")
    # As one event, answered in turn: what was asked before a choice is not drawn after it.
    gr.on(
        [page.load, timer.tick, run.input],
        handlers.watch,
        *watching,
        api_name="watch",
        trigger_mode="always_last",
        **QUIET,
    )
    return run


def _build_options(handlers: TrainingHandlers) -> list[gr.components.Component]:
    """The settings of a run, in the order of `Form`; each may be left as it is."""
    with gr.Accordion("Options", open=False, elem_id="admin-options"):
        gr.Markdown(OPTIONS)
        with gr.Row():
            method = gr.Radio(METHODS, value="dpo", label="Method", elem_id="admin-method")
            loss = gr.Dropdown([ADVISED, *get_args(Loss)], value=ADVISED, label="Loss (DPO only)")
        with gr.Row():
            tuning = gr.Radio(
                [("LoRA adapter", "lora"), ("All weights", "full")], value="lora", label="Train"
            )
            where = gr.Radio(handlers.places, value="here", label="Where")
            start = gr.Radio(STARTS, value=DEFAULT_START, label="From", elem_id="admin-from")
        with gr.Row():
            # gr.Number shows, and sends, 0 where nothing was filled in.
            numbers = [
                gr.Textbox(
                    label=label,
                    placeholder=unset,
                    max_lines=1,
                    max_length=20,
                    min_width=140,
                    elem_id=f"admin-{label.split()[0].lower()}",
                )
                for label, unset in NUMBERS
            ]
    return [method, loss, tuning, where, start, *numbers]


def _build_watch(handlers: TrainingHandlers) -> tuple[gr.Dropdown, tuple[list[Any], list[Any]]]:
    """What shows a run, and the inputs and outputs of `watch`."""
    gr.Markdown("### The run")
    with gr.Row(equal_height=True):
        run = gr.Dropdown([], label="Run", elem_id="admin-run", min_width=300)
        cancel, resume = (
            gr.Button(
                name, elem_id=f"admin-{name.lower()}", interactive=False, scale=0, min_width=130
            )
            for name in ("Cancel", "Resume")
        )
    progress = gr.HTML(elem_id="admin-progress", padding=False)
    alarmed = gr.HTML(elem_id="admin-alarms", padding=False)
    pictures = gr.HTML(elem_id="admin-pictures", padding=False)
    samples = gr.HTML(elem_id="admin-samples", padding=False)
    gr.Markdown("### All runs")
    table = gr.HTML(elem_id="admin-runs", padding=False)
    seen = gr.State({})

    cancel.click(handlers.cancel, run, progress, api_name="cancel_run")
    resume.click(handlers.resume, run, progress, api_name="resume_run")
    shows = [run, progress, alarmed, pictures, samples, table, cancel, resume, seen]
    return run, ([run, seen], shows)


def draw_run(run: Run | None) -> dict[str, str]:
    """Each part of the page that tells of one run, from its folder."""
    if run is None:
        return {"progress": NO_RUN, "alarms": "", "pictures": "", "samples": ""}
    metrics, samples = run.folder.metrics(), run.folder.samples()
    return {
        "progress": draw_progress(run, metrics),
        "alarms": _draw_checks(alarms(metrics, samples, run.spec), run),
        "pictures": draw_pictures(metrics, run.spec),
        "samples": draw_samples(samples),
    }


def _draw_checks(found: Sequence[Alarm], run: Run) -> str:
    """What looks wrong in a run, in its answers too, and the figures behind that."""
    final = run.status.final
    remarked = draw_remarks(final)
    alarmed = draw_alarms(found, run, remarked=bool(remarked))
    return alarmed + remarked + draw_checks([(run.id, final)] if final else [])


def _chosen(run_id: str | None) -> str:
    if not run_id:
        raise Fault("No run is chosen: start one first.")
    return run_id
