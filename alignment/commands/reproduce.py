"""`python app.py reproduce MODEL`: train again from what a model pins, and say whether it is the
same.

Owns `home`/reproductions/<run>-<time>/, a folder of its own: what is live and this home's runs are
never touched.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from alignment.commands.progress import watch_run
from alignment.hub.model_files import sha256_of
from alignment.hub.tuned import tuned_weight_files
from alignment.publishing.merged import ensure_merged
from alignment.publishing.origin import (
    Origin,
    OriginError,
    fetch_origin_dataset,
    origin_of_repo,
    origin_of_run,
)
from alignment.publishing.weights_gap import Gap, measure_gap
from alignment.registry import RegisteredModel, Registry, RegistryError
from alignment.runs.plan import code_revision, package_versions
from alignment.runs.recipes import TrainingSpec
from alignment.runs.run_store import RunFolder
from alignment.runs.runs import Run, Runs
from alignment.settings import AlignmentSettings
from annotation.export.export import Export
from annotation.faults import Fault
from annotation.home import Home
from annotation.schema import utc_now


class NotReproducedError(Fault):
    """The weights came out otherwise; the message is the one line that a person reads."""


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What training again gave. `gap` is None where the weights are the same, byte for byte."""

    name: str
    weights: Path
    weights_sha256: str
    gap: Gap | None
    changed: tuple[str, ...]

    @property
    def line(self) -> str:
        """The result in one line; what was changed since then explains a difference."""
        if self.gap is None:
            return (
                f"{self.name} is reproduced: the weights are the same, byte for byte "
                f"(sha256 {self.weights_sha256[:12]})."
            )
        since = "the same code and packages"
        if self.changed:
            since = f"other code or packages than then ({'; '.join(self.changed)})"
        return f"{self.name} came out otherwise on {since}: {self.gap.line}."


def reproduce(home: Home, settings: AlignmentSettings, model: str) -> Reproduction:
    """Train `model`, a run's id or repo[@revision], again from its dataset and base as pinned.

    Dataset and base come from the Hub, or from this home where they never were there. Shows
    progress; an interrupt ends the training. Raises Fault: what can't be fetched, or does not have
    the hash that names it, or a training that failed.
    """
    workplace = home.root / "reproductions" / _folder_name(model)
    repo, _, revision = model.partition("@")
    if "/" in repo:
        origin = origin_of_repo(repo, revision or None, settings, workplace)
    else:
        origin = origin_of_run(RunFolder(home.root / "runs" / repo), settings, workplace)
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    start = _start(home, origin)
    export = fetch_origin_dataset(origin, workplace / "dataset", token)
    _say(origin)
    run = _train(workplace, origin, export, start)
    weights = run.folder.weights
    if origin.is_merged:
        weights = ensure_merged(run.folder, origin.base.path)
    found = sha256_of(*tuned_weight_files(weights))
    gap = None
    if found != origin.weights_sha256:
        gap = measure_gap(origin.base.path, weights, origin.weights)
    return Reproduction(origin.name, weights, found, gap, _changes(origin.spec))


def check_reproduced(found: Reproduction) -> None:
    """Raise NotReproducedError, with the line, unless the weights are the same."""
    if found.gap is not None:
        raise NotReproducedError(found.line)


def _start(home: Home, origin: Origin) -> RegisteredModel | None:
    """The model that the run went on from, as this home has it; None where that was the base."""
    pinned = origin.spec.start
    if pinned is None:
        return None
    try:
        found = Registry(home.root, origin.base).get(pinned.name, pull=False)
    except RegistryError:
        found = None
    if found is None or found.ref != pinned.model:
        raise OriginError(
            f"{origin.name} went on from {pinned.name}, which this home does not have as it was: "
            "pull that model first, or reproduce this one where it was trained."
        )
    return found


def _train(workplace: Path, origin: Origin, export: Export, start: RegisteredModel | None) -> Run:
    base = origin.base
    spec = replace(
        origin.spec,
        base=base.ref,
        base_path=base.path.absolute(),
        where="here",
        code_revision=code_revision(),
        versions=package_versions(),
    )
    runs = Runs(workplace)
    run = runs.start_as(spec, export, start)
    try:
        watch_run(runs, run.id)
    except KeyboardInterrupt:
        # Nobody would look for it in a folder of its own.
        runs.cancel(run.id)
        raise
    return runs.get(run.id)


def _changes(pinned: TrainingSpec) -> tuple[str, ...]:
    """What of code and packages is no more as it was."""
    now, then = dict(package_versions()), dict(pinned.versions)
    names = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
    changed = [f"{name} {then.get(name)}, now {now.get(name)}" for name in names]
    if pinned.code_revision != (here := code_revision()):
        changed.append(f"code {str(pinned.code_revision)[:12]}, now {str(here)[:12]}")
    return tuple(changed)


def _say(origin: Origin) -> None:
    where = "the dataset in this home"
    if origin.dataset_repo and origin.dataset_commit:
        where = f"{origin.dataset_repo}@{origin.dataset_commit[:12]}"
    spec = origin.spec
    print(  # noqa: T201
        f"training {origin.name} again: {spec.method} on {spec.base.label}, "
        f"{spec.examples} examples of {where}, {spec.steps} steps",
        file=sys.stderr,
    )


def _folder_name(model: str) -> str:
    plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in model)
    return f"{plain}-{utc_now():%Y%m%d-%H%M%S-%f}"
