"""What a finished run was made from, read from its folder: the facts that a card tells.

Owns which settings belong to which method. Asks the Hub for the base's licence, and nothing else.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from alignment.hub.card import BaseKind, Lineage
from alignment.hub.model_files import sha256_of
from alignment.hub.tuned import tuned_weight_files
from alignment.recipes import TrainingSpec
from alignment.run_store import RunFolder
from alignment.settings import STARTER
from annotation.export import ExportError, load_export
from annotation.faults import Fault
from annotation.hub.client import HubError, look_up

STARTER_LICENSE = "apache-2.0"


class LineageError(Fault):
    """A run whose folder lacks what a card must tell; the message is the one line to read."""


def load_lineage(folder: RunFolder, *, token: str | None) -> Lineage:
    """The lineage of a run that is done. Raises LineageError; a licence unknown is None."""
    try:
        spec, status = folder.spec(), folder.status()
        counts = load_export(folder.dataset).counts
    except (ExportError, OSError, ValueError, KeyError, TypeError) as error:
        raise LineageError(
            f"Run {folder.path.name} can't say what it was made from ({error}): train again."
        ) from None
    kind = BaseKind.HUB
    if spec.base.base == STARTER:
        kind = BaseKind.STARTER
    elif spec.base.base.startswith("/"):
        kind = BaseKind.FOLDER
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
        final=_shown(asdict(status.final) if status.final else {}),
        versions=spec.versions,
        code_revision=spec.code_revision,
        weights_sha256=sha256_of(*tuned_weight_files(folder.weights)),
        license=_license(kind, spec.base.base, spec.base.base_revision, token),
    )


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
