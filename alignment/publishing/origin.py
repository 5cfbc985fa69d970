"""Where a model came from, checked hash by hash: its weights, its run's spec, its dataset.

Owns how that is found for a run of a home and for a repository of the Hub. A link whose hash is
another than the next one names is refused. Trains and loads nothing.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from alignment.base import BaseModelError, ResolvedBase, resolve_base
from alignment.hub.card import BaseKind
from alignment.hub.model_files import ModelFilesError, read_json, sha256_of
from alignment.hub.pull import PullError, pull_tuned
from alignment.hub.tuned import LINEAGE, tuned_weight_files
from alignment.publishing.lineage import is_folder, sha256_of_row
from alignment.runs.recipes import Recipe, TrainingSpec
from alignment.runs.run_store import RunFolder, RunState, start_of
from alignment.settings import AlignmentSettings
from annotation.export.export import Export, ExportError, load_examples, load_export
from annotation.faults import Fault
from annotation.hub.client import HubError, call_again, probe
from annotation.hub.dataset import DatasetError, fetch_dataset, find_published
from annotation.schema import ModelRef

MAX_LINEAGE_BYTES = 1024**2


class OriginError(Fault):
    """An origin that can't be told or does not hold; the message is the one line to read."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a model was made from. `name` is a run's id or repo@commit.

    `weights` is the folder of what came out, with `weights_sha256`; they are the base's with the
    adapter added where `is_merged`. `dataset` lies in this home; None where only the Hub has it,
    at `dataset_commit` of `dataset_repo`. `base` is here, at the revision that the spec names.
    """

    name: str
    spec: TrainingSpec
    base: ResolvedBase
    weights: Path
    weights_sha256: str
    is_merged: bool
    dataset: Path | None
    dataset_repo: str | None
    dataset_commit: str | None


def origin_of_run(folder: RunFolder, settings: AlignmentSettings, workplace: Path) -> Origin:
    """The origin of a done run of this home; its base is fetched where it is no more here.

    `workplace` may keep what had to be fetched. Raises OriginError, BaseModelError.
    """
    name = folder.path.name
    try:
        spec, state = folder.spec(), folder.status().state
        export = load_export(folder.dataset)
    except (OSError, ValueError, KeyError, TypeError, ExportError):
        raise OriginError(f"There is no whole run {name} here: `runs` lists them.") from None
    if state is not RunState.DONE:
        raise OriginError(f"Run {name} is {state}: only a run that is done can be reproduced.")
    pinned = find_published(folder.path.parent.parent, export)
    return Origin(
        name=name,
        spec=spec,
        base=_base(spec, settings, workplace),
        weights=folder.weights,
        weights_sha256=_digest(folder.weights, name),
        is_merged=False,
        dataset=folder.dataset,
        dataset_repo=spec.dataset_repo or (pinned.repo if pinned else None),
        dataset_commit=spec.dataset_commit or (pinned.commit if pinned else None),
    )


def origin_of_repo(
    repo: str, revision: str | None, settings: AlignmentSettings, workplace: Path
) -> Origin:
    """The origin of published weights, which are fetched into `workplace` with their base.

    Raises OriginError, BaseModelError.
    """
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    label = f"{repo}@{revision}" if revision else repo
    try:
        commit, row = _fetch_lineage(repo, revision, workplace, token)
        spec = spec_of(row)
        if sha256_of_row(row["spec"]) != row["spec_sha256"]:
            raise OriginError(f"{label} names another spec than it holds: its {LINEAGE} is false.")
        if row["base_kind"] == BaseKind.FOLDER:
            raise OriginError(_not_here(spec.base.base))
        base = _base(spec, settings, workplace)
        pulled = pull_tuned(workplace / "models", base, repo, commit, token=token)
    except HubError as error:
        raise OriginError(f"{label} can't be fetched: {error}.") from None
    except PullError as error:
        raise OriginError(str(error)) from None
    except (ModelFilesError, KeyError, TypeError, ValueError) as error:
        why = str(error) if isinstance(error, ModelFilesError) else "it lacks what is wanted"
        raise OriginError(
            f"{label} says too little of its origin in {LINEAGE} ({why}): publish it again."
        ) from None
    found = _digest(pulled.path, label)
    if found != row["weights_sha256"]:
        raise OriginError(
            f"{label} holds weights {found[:12]} and its {LINEAGE} names "
            f"{str(row['weights_sha256'])[:12]}: they were changed after it was published."
        )
    return Origin(
        name=pulled.name,
        spec=spec,
        base=base,
        weights=pulled.path,
        weights_sha256=found,
        is_merged=row.get("adapter_sha256") is not None,
        dataset=None,
        dataset_repo=row["dataset_repo"],
        dataset_commit=row["dataset_commit"],
    )


def fetch_origin_dataset(origin: Origin, directory: Path, token: str | None) -> Export:
    """The dataset of `origin` in the new folder `directory`: the Hub's where it was published, else
    this home's. Its sha256 is the spec's. Raises OriginError.
    """
    wanted = origin.spec.dataset_sha256
    try:
        if origin.dataset_repo and origin.dataset_commit:
            found = fetch_dataset(
                origin.dataset_repo, origin.dataset_commit, directory, sha256=wanted, token=token
            )
        elif origin.dataset is None:
            raise OriginError(
                f"{origin.name} was trained on a dataset that was never published: "
                "reproduce it where it was trained."
            )
        else:
            load_examples(origin.dataset)
            shutil.copytree(origin.dataset, directory)
            found = load_export(directory)
    except (DatasetError, ExportError) as error:
        raise OriginError(str(error)) from None
    votes = origin.spec.votes_sha256
    if found.sha256 != wanted or (votes is not None and found.votes_sha256 != votes):
        raise OriginError(
            f"The dataset of {origin.name} has sha256 {found.sha256[:12]} (votes "
            f"{str(found.votes_sha256)[:12]}) and its spec names {wanted[:12]} (votes "
            f"{str(votes)[:12]}): it is not the one that was trained on."
        )
    return found


def spec_of(row: Mapping[str, Any]) -> TrainingSpec:
    """The spec in a votetune.json, as it is to be trained again here; KeyError or TypeError where
    it has none of today's shape.
    """
    told = row["spec"]
    return TrainingSpec(
        **told
        | {
            "recipe": Recipe(**told["recipe"]),
            "base": ModelRef(**told["base"]),
            "start": start_of(told),
            "base_path": Path(),
            "versions": tuple((name, version) for name, version in told["versions"]),
        }
    )


def _base(spec: TrainingSpec, settings: AlignmentSettings, workplace: Path) -> ResolvedBase:
    """The spec's base at its revision, from the Hub's cache, the Hub, or this machine."""
    name, revision = spec.base.base, spec.base.base_revision
    if is_folder(spec) and not Path(name).is_dir():
        raise OriginError(_not_here(Path(name).name))
    asked = settings.model_copy(update={"base_model": name, "base_revision": revision})
    # A home of its own: the base of these votes need not be the base of this home.
    found = resolve_base(asked, workplace, has_votes=False)
    if found.ref.base_revision != revision:
        raise BaseModelError(
            f"The base {found.ref.label} is here and {spec.base.label} is wanted: "
            "bring that revision here."
        )
    return replace(found, notice=None)


def _not_here(base: str) -> str:
    return (
        f"The base {base} was a folder of the machine that trained on it, and is not here: "
        "reproduce it there."
    )


def _fetch_lineage(
    repo: str, revision: str | None, workplace: Path, token: str | None
) -> tuple[str, dict[str, Any]]:
    """The commit that `revision` is, and what its votetune.json says."""
    remote = call_again(lambda: probe(repo, revision, token=token), attempts=3, deadline_s=8.0)
    file = remote.file(LINEAGE)
    if file is None or file.size is None or file.size > MAX_LINEAGE_BYTES:
        raise ModelFilesError(f"there is no {LINEAGE} in it that Votetune wrote")

    def fetch() -> str:
        return str(
            hf_hub_download(
                remote.id,
                LINEAGE,
                revision=remote.commit,
                local_dir=workplace / "lineage",
                token=token,
            )
        )

    return remote.commit, read_json(Path(call_again(fetch, attempts=3, deadline_s=60.0)))


def _digest(weights: Path, name: str) -> str:
    try:
        return sha256_of(*tuned_weight_files(weights))
    except (ModelFilesError, OSError) as error:
        raise OriginError(f"The weights of {name} can't be read ({error}): train again.") from None
