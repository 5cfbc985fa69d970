"""What a finished run was made from, read from its folder: the facts that a card tells.

Owns which settings belong to which method, and what of a spec is told to strangers and hashed.
Asks the Hub for the base's licence, and nothing else.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from alignment.hub.card import BaseKind, Lineage
from alignment.hub.model_files import sha256_of
from alignment.hub.tuned import tuned_weight_files
from alignment.runs.recipes import Reference, TrainingSpec
from alignment.runs.run_store import FinalMetrics, RunFolder
from alignment.settings import STARTER
from annotation.export.export import ExportError, load_export
from annotation.faults import Fault
from annotation.hub.client import HubError, look_up
from annotation.hub.dataset import find_published

STARTER_LICENSE = "apache-2.0"


class LineageError(Fault):
    """A run whose folder lacks what a card must tell; the message is the one line to read."""


def load_lineage(folder: RunFolder, *, token: str | None, merged: bool = False) -> Lineage:
    """The lineage of a run that is done, or of its adapter `merged` into the base.

    A dataset that was published after the run began is named all the same. Raises LineageError; a
    licence unknown is None.
    """
    try:
        spec, status = folder.spec(), folder.status()
        export = load_export(folder.dataset)
    except (ExportError, OSError, ValueError, KeyError, TypeError) as error:
        raise LineageError(
            f"Run {folder.path.name} can't say what it was made from ({error}): train again."
        ) from None
    kind, counts = _kind(spec), export.counts
    weights = folder.merged if merged else folder.weights
    repo, commit = spec.dataset_repo, spec.dataset_commit
    if repo is None and (found := find_published(folder.path.parent.parent, export)):
        repo, commit = found.repo, found.commit
    return Lineage(
        run=folder.path.name,
        method=spec.method,
        loss=spec.recipe.loss if spec.method == "dpo" else None,
        flip_rate=spec.flip_rate if spec.method == "dpo" else None,
        tuning=spec.recipe.tuning,
        base=Path(spec.base.base).name if kind is BaseKind.FOLDER else spec.base.base,
        base_revision=spec.base.base_revision,
        base_kind=kind,
        dataset_sha256=spec.dataset_sha256,
        votes=counts.votes,
        voters=counts.voters,
        synthetic_votes=counts.synthetic_votes,
        examples=spec.examples,
        settings=_shown(_settings(spec)),
        final=_shown(_final(status.final)),
        versions=spec.versions,
        code_revision=spec.code_revision,
        weights_sha256=sha256_of(*tuned_weight_files(weights)),
        started_from=spec.start.name if spec.start else None,
        started_from_revision=spec.start.model.adapter_revision if spec.start else None,
        reference=_reference(spec),
        license=_license(kind, spec.base.base, spec.base.base_revision, token),
        votes_sha256=export.votes_sha256,
        dataset_repo=repo,
        dataset_commit=commit,
        agreement=export.measured.alpha if export.measured else None,
        spec=public_spec(spec),
        spec_sha256=sha256_of_spec(spec),
        adapter_sha256=sha256_of(*tuned_weight_files(folder.adapter)) if merged else None,
    )


def public_spec(spec: TrainingSpec) -> dict[str, object]:
    """`spec` as JSON holds it, without a path of this machine and without where it was trained."""
    row = asdict(spec)
    del row["base_path"], row["where"]
    if is_folder(spec):
        row["base"]["base"] = Path(spec.base.base).name
        if spec.start:
            row["start"]["model"]["base"] = Path(spec.start.model.base).name
    told: dict[str, object] = json.loads(json.dumps(row))
    return told


def sha256_of_spec(spec: TrainingSpec) -> str:
    """The sha256 of `public_spec` as compact JSON with sorted keys, which names the run's recipe,
    seed, base, code and dataset at once.
    """
    return sha256_of_row(public_spec(spec))


def sha256_of_row(row: Mapping[str, object]) -> str:
    """The sha256 of a public spec that was read from JSON."""
    text = json.dumps(row, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def is_folder(spec: TrainingSpec) -> bool:
    """Whether the base was a folder of the machine that trained on it."""
    return spec.base.base.startswith("/")


def _kind(spec: TrainingSpec) -> BaseKind:
    if spec.base.base == STARTER:
        return BaseKind.STARTER
    return BaseKind.FOLDER if is_folder(spec) else BaseKind.HUB


def _reference(spec: TrainingSpec) -> Reference | None:
    if spec.method != "dpo":
        return None
    return spec.start.reference if spec.start else "base"


def _settings(spec: TrainingSpec) -> dict[str, object]:
    """What was asked of the run, without the hyperparameters that its method has no use for."""
    row: dict[str, object] = {"method": spec.method, "steps": spec.steps, "seed": spec.seed}
    row |= asdict(spec.recipe) | {"flip_rate": spec.flip_rate}
    unused: set[str] = set()
    if spec.method != "dpo":
        unused |= {"loss", "flip_rate", "sft_weight", "length_penalty", "ld_alpha"}
    if not spec.recipe.sift:
        unused |= {"sift"}
    if spec.method == "sft":
        unused |= {"beta"}
    if spec.recipe.tuning == "full":
        unused |= {"lora_r", "lora_alpha"}
    return {name: value for name, value in row.items() if name not in unused}


def _final(final: FinalMetrics | None) -> dict[str, object]:
    """The last figures, those on answers among them."""
    if final is None:
        return {}
    row = asdict(final)
    answered = row.pop("answered")
    return row | {f"answered {name}": value for name, value in (answered or {}).items()}


def _shown(row: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
        for name, value in row.items()
        if value is not None and not (isinstance(value, float) and math.isnan(value))
    )


def _license(kind: BaseKind, base: str, revision: str, token: str | None) -> str | None:
    """The base's own, from its card; None where it can't be known, and then none is claimed."""
    if kind is BaseKind.STARTER:
        return STARTER_LICENSE
    if kind is BaseKind.FOLDER:
        return None
    try:
        return look_up(base, revision, token=token).license
    except HubError:
        return None
