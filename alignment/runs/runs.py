"""Training runs of one home: start, cancel, resume, wait, and tell what became of an orphan.

At most one run is active, across all processes that share the home. What trains it is the
business of a place (alignment.places) and outlives the app. Imports no training code.
"""

import re
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from alignment.base import ResolvedBase
from alignment.places.here import Here
from alignment.places.place import Place
from alignment.registry import RegisteredModel
from alignment.runs.plan import plan_run
from alignment.runs.recipes import Method, TrainingOptions, TrainingSpec, Where
from alignment.runs.run_store import (
    ACTIVE,
    Metric,
    RunError,
    RunFolder,
    RunState,
    Status,
    hold_lock,
)
from alignment.training.watch.ends import vanished_line
from annotation.export.export import Export, copy_export
from annotation.hub.dataset import find_published
from annotation.schema import utc_now

__all__ = ["Method", "Metric", "Run", "RunError", "RunState", "Runs"]

CANCELLED = "Cancelled by an admin."
_ID = re.compile(r"(dpo|orpo|sft)-\d{8}-\d{4}-[0-9a-f]{4}")


@dataclass(frozen=True, slots=True)
class Run:
    """A run as its folder has it. `status.step` of `spec.steps` optimizer steps are done."""

    id: str
    folder: RunFolder
    spec: TrainingSpec
    status: Status

    @property
    def state(self) -> RunState:
        return self.status.state

    @property
    def is_active(self) -> bool:
        return self.status.state in ACTIVE

    @property
    def reason(self) -> str | None:
        return self.status.reason


class Runs:
    """All runs under `home`/runs. Any number of these may look at one home at the same time."""

    def __init__(self, home: Path, places: Mapping[Where, Place] | None = None) -> None:
        """Runs go to `places`; without any, to child processes here."""
        self._path = home.absolute() / "runs"
        self._places: Mapping[Where, Place] = places or {"here": Here()}

    def start(
        self,
        options: TrainingOptions,
        *,
        base: ResolvedBase,
        export: Export,
        start: RegisteredModel | None = None,
        min_examples: int = 20,
    ) -> Run:
        """Start a run on `export`, from the weights of `start` or of the base, and return it,
        queued or further.

        Raises RunError, with nothing created, when `options` can't be had, the export has fewer
        than `min_examples` examples, or another run is active; with a failed run, when its place
        can't start it.
        """
        if export.examples < min_examples:
            raise RunError(
                f"Run needs at least {min_examples} preference examples and found "
                f"{export.examples}: collect more votes or lower MIN_EXAMPLES."
            )
        spec = plan_run(
            options,
            base=base,
            dataset_sha256=export.sha256,
            examples=export.examples,
            start=start,
        )
        pinned = find_published(self._path.parent, export)
        spec = replace(
            spec,
            votes_sha256=export.votes_sha256,
            dataset_repo=pinned.repo if pinned else None,
            dataset_commit=pinned.commit if pinned else None,
        )
        return self.start_as(spec, export, start)

    def start_as(
        self, spec: TrainingSpec, export: Export, start: RegisteredModel | None = None
    ) -> Run:
        """Start a run on `export` that is `spec` and nothing else, as `start` does.

        Raises RunError where `spec` goes on from another model than `start`.
        """
        if (spec.start.model if spec.start else None) != (start.ref if start else None):
            wanted = spec.start.name if spec.start else "the base"
            raise RunError(f"This run starts from {wanted}, which is not here: get it first.")
        self._place(spec).check(spec)
        self._path.mkdir(parents=True, exist_ok=True)
        with hold_lock(self._path):
            self._refuse_second()
            folder = self._create(spec, export, start)
            self._spawn(folder)
        return _read(folder)

    def list(self) -> Sequence[Run]:
        """Every run of the home, oldest first, orphans settled."""
        self.reconcile()
        return self._all()

    def get(self, run_id: str) -> Run:
        """The run of that id; RunError when there is none."""
        self._folder(run_id)
        self.reconcile()
        return _read(self._folder(run_id))

    def metrics(self, run_id: str) -> Sequence[Metric]:
        """What the run has logged so far, one metric a step."""
        return self._folder(run_id).metrics()

    def wait(self, run_id: str, timeout_s: float | None = None) -> Run:
        """The run once it is no longer active, or as it stands after `timeout_s`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while (run := self.get(run_id)).is_active:
            if deadline is not None and time.monotonic() >= deadline:
                break
            time.sleep(0.1)
        return run

    def cancel(self, run_id: str) -> Run:
        """Stop an active run within two seconds; RunError when it is not active.

        The child may save a checkpoint first, from which `resume` goes on.
        """
        folder = self._folder(run_id)
        self.reconcile()
        with folder.locked():
            status = folder.status()
            if status.state not in ACTIVE:
                raise RunError(f"Run {run_id} is {status.state}: there is nothing to cancel.")
            folder.write_status(replace(status, cancel_requested=True, updated_at=utc_now()))
        self._place(folder.spec()).end(folder, status)
        with folder.locked():
            if folder.status().state in ACTIVE:
                folder.move(RunState.CANCELLED, reason=CANCELLED)
        return _read(folder)

    def resume(self, run_id: str) -> Run:
        """Go on from the last checkpoint of a run that failed, was cancelled or interrupted."""
        folder = self._folder(run_id)
        self.reconcile()
        with folder.locked():
            state = folder.status().state
            if state is RunState.DONE or state in ACTIVE:
                raise RunError(f"Run {run_id} is {state}: there is nothing to resume.")
            if folder.last_checkpoint() is None:
                raise RunError(f"Run {run_id} has no checkpoint to go on from: start a new run.")
            self._refuse_second()
            folder.write_status(replace(folder.move(RunState.QUEUED), recoveries=0))
            self._spawn(folder)
        return _read(folder)

    def recover(self) -> Run | None:
        """At the app's start: go on with the newest run if it was interrupted, but only once.

        From its last checkpoint, or from the beginning where it has none. Lost a second time, it
        stays interrupted until a person resumes it. None when there is nothing to go on with.
        """
        self.reconcile()
        if not self._path.is_dir():
            return None
        with hold_lock(self._path):
            newest = next(reversed(self._all()), None)
            if newest is None or newest.state is not RunState.INTERRUPTED:
                return None
            if newest.status.recoveries > 0:
                return None
            status = newest.folder.move(RunState.QUEUED)
            newest.folder.write_status(replace(status, recoveries=status.recoveries + 1))
            self._spawn(newest.folder)
        return _read(newest.folder)

    def reconcile(self) -> None:
        """Mark every run interrupted that is active on paper and whose process is gone."""
        if not any(run.is_active for run in self._all()):
            return
        with hold_lock(self._path):
            self._settle()

    def _settle(self) -> None:
        for run in self._all():
            place = self._places.get(run.spec.where)
            # Of a place that nobody named to us nothing is known, so paper is believed.
            if not run.is_active or place is None or place.is_alive(run.folder, run.status):
                continue
            if run.status.cancel_requested:
                run.folder.move(RunState.CANCELLED, reason=CANCELLED)
            else:
                run.folder.move(RunState.INTERRUPTED, reason=vanished_line(run.status))

    def _refuse_second(self) -> None:
        self._settle()
        for run in self._all():
            if run.is_active:
                raise RunError(
                    f"Run {run.id} is {run.state}, and one run goes at a time: "
                    "wait for its end or cancel it."
                )

    def _create(
        self, spec: TrainingSpec, export: Export, start: RegisteredModel | None
    ) -> RunFolder:
        now = utc_now()
        run_id = f"{spec.method}-{now:%Y%m%d-%H%M}-{secrets.token_hex(2)}"
        draft = RunFolder(self._path / f".{run_id}")
        try:
            copy_export(export, draft.dataset)
            draft.checkpoints.mkdir()
            if start is not None and start.weights_path is not None:
                shutil.copytree(start.weights_path, draft.start)
            draft.write_spec(spec)
            draft.write_status(Status(RunState.QUEUED, created_at=now, updated_at=now))
            return RunFolder(draft.path.rename(self._path / run_id))
        except OSError as error:
            shutil.rmtree(draft.path, ignore_errors=True)
            raise RunError(
                f"Run {run_id} can't be made in {self._path} ({error.strerror}): "
                "free some space or check the folder's permissions."
            ) from error

    def _spawn(self, folder: RunFolder) -> None:
        # What trains moves the state only under this lock, so it finds its own handle there.
        try:
            handle = self._place(folder.spec()).spawn(folder)
        except RunError as error:
            folder.move(RunState.FAILED, reason=str(error))
            raise
        status = replace(
            folder.move(RunState.PREPARING),
            pid=handle.pid,
            process_started=handle.process_started,
            job=handle.job,
            cancel_requested=False,
        )
        folder.write_status(status)

    def _place(self, spec: TrainingSpec) -> Place:
        place = self._places.get(spec.where)
        if place is None:
            raise RunError(f"Nothing here can train {spec.where!r}: use {', '.join(self._places)}.")
        return place

    def _folder(self, run_id: str) -> RunFolder:
        folder = RunFolder(self._path / run_id)
        if not _ID.fullmatch(run_id) or not folder.state_file.is_file():
            raise RunError(f"There is no run {run_id!r}: `runs` lists them.")
        return folder

    def _all(self) -> Sequence[Run]:
        if not self._path.is_dir():
            return []
        runs = [
            _read(RunFolder(path))
            for path in self._path.iterdir()
            if _ID.fullmatch(path.name) and (path / "state.json").is_file()
        ]
        return sorted(runs, key=lambda run: (run.status.created_at, run.id))


def _read(folder: RunFolder) -> Run:
    return Run(folder.path.name, folder, folder.spec(), folder.status())
