"""From a model back to the votes, each thing by the hash that what was made from it names.

Owns that every hash is computed again from the bytes: a chain that does not hold is refused.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.hub.model_files import ModelFilesError, read_json, sha256_of
from alignment.hub.tuned import LINEAGE, tuned_weight_files
from alignment.publishing.lineage import public_spec, sha256_of_row
from alignment.registry import Registry
from alignment.runs.run_store import RunFolder
from annotation.export.export import Export, ExportError, load_examples, load_export, votes_behind
from annotation.faults import Fault
from annotation.hub.dataset import DatasetError, fetch_dataset
from annotation.journal.journal import JournalReader
from annotation.schema import ModelRef


class TraceError(Fault):
    """A chain that breaks off or does not hold; the message is the one line to read."""


@dataclass(frozen=True, slots=True)
class Link:
    """A thing called `name`, with the `hash` of its own bytes, and what it was `made_from` by hash.

    `where` says where it lies.
    """

    kind: str
    name: str
    hash: str
    made_from: str | None
    where: str


def trace_model(
    ref: ModelRef, registry: Registry, home: Path, journal: JournalReader, *, token: str | None
) -> tuple[Link, ...]:
    """The chain of `ref`, as a leaderboard row names it: row, weights, run, dataset, votes.

    A dataset that this home has not is read from the Hub. Raises TraceError, RegistryError.
    """
    weights = registry.weights_path(ref)
    if weights is None or ref.adapter is None or ref.adapter_revision is None:
        raise TraceError(f"{ref.label} is the base: no votes went into it.")
    row = _lineage_row(weights, ref)
    digest = sha256_of(*tuned_weight_files(weights))
    is_run = weights.parent == home.absolute() / "runs" / ref.adapter
    if is_run:
        _same(digest[:40], ref.adapter_revision, f"The weights of run {ref.adapter}", "the row")
    else:
        _same(digest, row["weights_sha256"], f"The weights of {ref.label}", LINEAGE)
    spec_sha256 = sha256_of_row(row["spec"])
    _same(spec_sha256, row["spec_sha256"], f"The spec of run {row['run']}", LINEAGE)
    export, where = _dataset(row, weights.parent / "dataset" if is_run else None, token)
    _same(export.sha256, row["spec"]["dataset_sha256"], "The dataset", "the spec")
    votes_sha256 = export.votes_sha256
    if votes_sha256 is None:
        raise TraceError("The dataset names no votes: it was made by an earlier Votetune.")
    _same(votes_sha256, row["spec"]["votes_sha256"], "The dataset's list of votes", "the spec")
    found = votes_behind(journal, export)
    votes = "in this home, as they were"
    if found is None:
        votes = "no more in this home as they were: elsewhere, undone, deleted or set aside"
    voters = "1 voter" if export.counts.voters == 1 else f"{export.counts.voters} voters"
    told = f"{export.counts.votes} votes of {voters}"
    here = "in this home" if is_run else f"from the Hub, commit {ref.adapter_revision}"
    return (
        Link("leaderboard row", ref.label, ref.adapter_revision, digest, "in this home"),
        Link("weights", ref.adapter, digest, spec_sha256, here),
        Link("run", str(row["run"]), spec_sha256, export.sha256, "its spec, in votetune.json"),
        Link("dataset", f"{export.examples} examples", export.sha256, votes_sha256, where),
        Link("votes", told, votes_sha256, None, votes),
    )


def _lineage_row(weights: Path, ref: ModelRef) -> Mapping[str, Any]:
    """What votetune.json says, or would say of a run of this home."""
    try:
        row = _read_row(weights)
        # Asked for here, so that what lacks them is one line and not a KeyError further on.
        _ = (row["run"], row["spec_sha256"], row["dataset_repo"], row["spec"]["votes_sha256"])
    except (ModelFilesError, OSError, KeyError, TypeError, ValueError):
        raise TraceError(
            f"{ref.label} does not say what it was made from: it was not trained by this Votetune, "
            "or by an earlier one."
        ) from None
    return row


def _read_row(weights: Path) -> Mapping[str, Any]:
    if (weights / LINEAGE).exists():
        return read_json(weights / LINEAGE)
    spec = RunFolder(weights.parent).spec()
    told = public_spec(spec)
    return {
        "run": weights.parent.name,
        "spec": told,
        "spec_sha256": sha256_of_row(told),
        "dataset_repo": spec.dataset_repo,
        "dataset_commit": spec.dataset_commit,
    }


def _dataset(
    row: Mapping[str, Any], directory: Path | None, token: str | None
) -> tuple[Export, str]:
    """The dataset, read whole, and where it lies."""
    repo, commit, sha256 = row["dataset_repo"], row["dataset_commit"], row["spec"]["dataset_sha256"]
    try:
        if repo and commit:
            with tempfile.TemporaryDirectory(prefix="votetune-") as scratch:
                found = fetch_dataset(repo, commit, Path(scratch) / "d", sha256=sha256, token=token)
            return found, f"{repo}@{commit}"
        if directory is None:
            raise TraceError("The dataset was never published: ask where it was trained.")
        load_examples(directory)
        return load_export(directory), "in this home"
    except (DatasetError, ExportError) as error:
        raise TraceError(str(error)) from None


def _same(found: object, named: object, what: str, by: str) -> None:
    if found != named:
        raise TraceError(
            f"{what} has the hash {str(found)[:12]} and {by} names {str(named)[:12]}: "
            "it was changed since."
        )
