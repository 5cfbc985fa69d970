"""Bake-offs of one home: start, cancel, resume; at most one is active.

SFT on the chosen answers is the baseline that both others must beat. Imports no training code:
alignment.bakeoff.child trains, samples and judges.
"""

import contextlib
import re
import secrets
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from alignment.bakeoff.store import Bakeoff, BakeoffFolder, BakeoffState
from alignment.base import ResolvedBase
from alignment.places.child import child_environment, end_child, is_child_alive, start_child
from alignment.runs.recipes import Method
from alignment.runs.run_store import RunError, hold_lock
from alignment.runs.runs import Runs
from annotation.export.export import Export, copy_export
from annotation.faults import Fault
from annotation.schema import Prompt, utc_now

METHODS: tuple[Method, ...] = ("sft", "dpo", "orpo")
"""In the order of their runs: the baseline first, so that the others have what to be held to."""
_ID = re.compile(r"bakeoff-\d{8}-\d{4}-[0-9a-f]{4}")


class BakeoffError(Fault):
    """A bake-off that can't be started or found; the message is the one line to read."""


class Bakeoffs:
    """All bake-offs of a home. Any number of these may look at one home at the same time."""

    def __init__(self, home: Path) -> None:
        self._home = home.absolute()
        self._path = self._home / "bakeoffs"

    def start(
        self,
        *,
        base: ResolvedBase,
        export: Export,
        prompts: Sequence[Prompt],
        seed: int = 0,
        steps: int | None = None,
        min_examples: int = 20,
    ) -> Bakeoff:
        """Start a bake-off on `export`, compared on `prompts`, and return it, running.

        Raises BakeoffError, with nothing created, for too few examples or prompts, or when a run
        or another bake-off is active.
        """
        if export.examples < min_examples:
            raise BakeoffError(
                f"A bake-off needs at least {min_examples} preference examples and found "
                f"{export.examples}: collect more votes or lower MIN_EXAMPLES."
            )
        if not prompts:
            raise BakeoffError("A bake-off needs eval prompts and found none: add more prompts.")
        if steps is not None and steps < 1:
            raise BakeoffError(f"Steps can't be {steps}: use 1 or more.")
        self._path.mkdir(parents=True, exist_ok=True)
        with hold_lock(self._path):
            self._refuse_second()
            self._refuse_beside_a_run()
            now = utc_now()
            bakeoff = Bakeoff(
                id=f"bakeoff-{now:%Y%m%d-%H%M}-{secrets.token_hex(2)}",
                created_at=now,
                base=base.ref,
                base_path=base.path.absolute(),
                is_starter=base.is_starter,
                dataset_sha256=export.sha256,
                examples=export.examples,
                min_examples=min_examples,
                seed=seed,
                steps=steps,
                prompts=len(prompts),
            )
            folder = self._create(bakeoff, export, prompts)
            return self._spawn(folder)

    def list(self) -> Sequence[Bakeoff]:
        """Every bake-off, oldest first; one whose child is gone is interrupted."""
        self.reconcile()
        return self._all()

    def latest(self) -> Bakeoff | None:
        found = self.list()
        return found[-1] if found else None

    def get(self, bakeoff_id: str) -> Bakeoff:
        """Raises BakeoffError when there is none of that id."""
        folder = self._folder(bakeoff_id)
        self.reconcile()
        return folder.read()

    def cancel(self, bakeoff_id: str) -> Bakeoff:
        """Stop it and the run that it is at; BakeoffError when it is not active."""
        folder = self._folder(bakeoff_id)
        self.reconcile()
        with folder.locked():
            bakeoff = folder.read()
            if not bakeoff.is_active:
                raise BakeoffError(f"{bakeoff_id} is {bakeoff.state}: there is nothing to cancel.")
            folder.change(state=BakeoffState.CANCELLED, reason="Cancelled by an admin.")
        end_child(bakeoff.handle)
        runs = Runs(self._home)
        for _, run_id in folder.read().runs:
            with contextlib.suppress(RunError):
                runs.cancel(run_id)
        return folder.read()

    def resume(self, bakeoff_id: str) -> Bakeoff:
        """Go on where an interrupted or cancelled bake-off stopped; what is done stays done."""
        folder = self._folder(bakeoff_id)
        self.reconcile()
        with folder.locked():
            bakeoff = folder.read()
            if bakeoff.is_active or bakeoff.state is BakeoffState.DONE:
                raise BakeoffError(f"{bakeoff_id} is {bakeoff.state}: there is nothing to resume.")
            # Not beside a run: its own may have gone on without it.
            self._refuse_second()
            return self._spawn(folder)

    def reconcile(self) -> None:
        """Mark every bake-off interrupted that runs on paper and whose child is gone."""
        if not any(b.is_active for b in self._all()):
            return
        with hold_lock(self._path):
            self._settle()

    def _settle(self) -> None:
        for bakeoff in self._all():
            if bakeoff.is_active and not is_child_alive(bakeoff.handle):
                BakeoffFolder(self._path / bakeoff.id).change(
                    state=BakeoffState.INTERRUPTED,
                    reason="Its process is gone: resume it, or see its log.txt for why.",
                )

    def _refuse_second(self) -> None:
        self._settle()
        for bakeoff in self._all():
            if bakeoff.is_active:
                raise BakeoffError(f"{bakeoff.id} is going on: wait for its end or cancel it.")

    def _refuse_beside_a_run(self) -> None:
        for run in Runs(self._home).list():
            if run.is_active:
                raise BakeoffError(
                    f"Run {run.id} is {run.state}, and one run goes at a time: "
                    "wait for its end or cancel it."
                )

    def _create(self, bakeoff: Bakeoff, export: Export, prompts: Sequence[Prompt]) -> BakeoffFolder:
        draft = BakeoffFolder(self._path / f".{bakeoff.id}")
        try:
            copy_export(export, draft.dataset)
            draft.write_prompts(prompts)
            draft.write(bakeoff)
            return BakeoffFolder(draft.path.rename(self._path / bakeoff.id))
        except OSError as error:
            shutil.rmtree(draft.path, ignore_errors=True)
            raise BakeoffError(
                f"A bake-off can't be made in {self._path} ({error.strerror}): "
                "free some space or check the folder's permissions."
            ) from error

    def _spawn(self, folder: BakeoffFolder) -> Bakeoff:
        # The child changes the file only under this lock, so it finds its own pid there.
        command = [sys.executable, "-m", "alignment.bakeoff.child", str(folder.path)]
        child = start_child(command, folder.log, child_environment())
        return folder.change(
            state=BakeoffState.RUNNING,
            reason=None,
            pid=child.pid,
            process_started=child.process_started,
        )

    def _folder(self, bakeoff_id: str) -> BakeoffFolder:
        folder = BakeoffFolder(self._path / bakeoff_id)
        if not _ID.fullmatch(bakeoff_id) or not folder.file.is_file():
            raise BakeoffError(f"There is no bake-off {bakeoff_id!r}.")
        return folder

    def _all(self) -> Sequence[Bakeoff]:
        if not self._path.is_dir():
            return []
        found = [
            BakeoffFolder(path).read()
            for path in self._path.iterdir()
            if _ID.fullmatch(path.name) and (path / "bakeoff.json").is_file()
        ]
        return sorted(found, key=lambda b: (b.created_at, b.id))
