"""An export to and from a dataset repository of the Hub, pinned to the commit that holds it.

Owns `home`/published_datasets.json, which says what lies where. An export goes as the three files
that it is, in one commit, and nothing else of the home goes with it.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import sleep as wait

from huggingface_hub import constants, hf_hub_download

from annotation.export.export import EXPORT_FILES, Export, ExportError, load_examples, load_export
from annotation.faults import Fault
from annotation.home import write_private
from annotation.hub.client import HubError, Trouble, call_again, look_up
from annotation.hub.commits import full_name, make_repo, put_files

RECORD = "published_datasets.json"


class DatasetError(Fault):
    """A dataset that was not published or fetched; the message is the one line to read."""


@dataclass(frozen=True, slots=True)
class PublishedDataset:
    """Where an export lies: `commit` holds train.jsonl with `sha256`, from votes with
    `votes_sha256`; `url` shows it.
    """

    repo: str
    commit: str
    url: str
    sha256: str
    votes_sha256: str


def publish_dataset(
    export: Export,
    *,
    home: Path,
    repo: str,
    token: str | None,
    namespace: str | None = None,
    private: bool | None = None,
    sleep: Callable[[float], None] = wait,
) -> PublishedDataset:
    """Push `export` to the dataset repository `repo` in one commit, and note in `home` where it is.

    A bare name goes under `namespace`, else under the token's own user; `private` None leaves a new
    repository to the Hub's default. What is there already as it is here is not pushed again.
    Conflicts, limits, server errors and torn connections are tried again for up to two minutes.
    Raises DatasetError: no token, no examples, a changed file, a bad name, or what the Hub refused.
    """
    votes_sha256 = _check(export)
    if not token:
        raise DatasetError(
            "nothing is published: set HF_TOKEN to a token that may write, "
            f"the dataset is in {export.directory}."
        )
    try:
        target = full_name(repo, namespace, token)
        make_repo(target, kind="dataset", token=token, private=private, sleep=sleep)
        remote = call_again(lambda: look_up(target, None, token=token, kind="dataset"), sleep=sleep)
        commit = put_files(
            remote.id,
            {name: export.directory / name for name in EXPORT_FILES},
            kind="dataset",
            message=f"Add {export.examples} preferences, sha256 {export.sha256[:12]}",
            token=token,
            sleep=sleep,
        )
    except HubError as error:
        raise DatasetError(_line(export, repo, error)) from None
    url = f"{constants.ENDPOINT}/datasets/{remote.id}/tree/{commit}"
    done = PublishedDataset(remote.id, commit, url, export.sha256, votes_sha256)
    known = [d for d in published_datasets(home) if d != done]
    write_private(home / RECORD, json.dumps([*map(asdict, known), asdict(done)], indent=2) + "\n")
    return done


def published_datasets(home: Path) -> list[PublishedDataset]:
    """What was published from `home`, the latest last."""
    try:
        return [PublishedDataset(**row) for row in json.loads((home / RECORD).read_text())]
    except (OSError, ValueError, TypeError):
        return []


def find_published(home: Path, export: Export) -> PublishedDataset | None:
    """Where `export`, of these very votes, was published last; None where it never was."""
    mine = (export.sha256, export.votes_sha256)
    found = [d for d in published_datasets(home) if (d.sha256, d.votes_sha256) == mine]
    return found[-1] if found else None


def fetch_dataset(
    repo: str, commit: str, directory: Path, *, sha256: str, token: str | None
) -> Export:
    """Bring the export at `commit` of `repo` into the new folder `directory`.

    Raises DatasetError, with nothing left, where it can't be had or its train.jsonl has another
    `sha256`.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".dataset-") as scratch:
        incoming = Path(scratch) / "new"
        try:
            for name in EXPORT_FILES:
                _download(repo, commit, name, incoming, token)
            shutil.rmtree(incoming / ".cache", ignore_errors=True)
            load_examples(incoming)
            found = load_export(incoming).sha256
        except (HubError, ExportError) as error:
            raise DatasetError(
                f"The dataset {repo}@{commit[:12]} can't be fetched: {str(error).rstrip('.')}."
            ) from None
        if found != sha256:
            raise DatasetError(
                f"The dataset {repo}@{commit[:12]} has sha256 {found[:12]} and {sha256[:12]} was "
                "wanted: it is not the one that was trained on."
            )
        incoming.rename(directory)
    return load_export(directory)


def _check(export: Export) -> str:
    """The sha256 of the votes; DatasetError unless `export` is whole and holds something."""
    if not export.examples:
        raise DatasetError(
            "There is no preference example yet, so there is nothing to publish: vote first."
        )
    try:
        load_examples(export.directory)
    except ExportError as error:
        raise DatasetError(str(error)) from None
    if export.votes_sha256 is None:
        raise DatasetError(
            f"The export in {export.directory} was made by an earlier Votetune, which did not "
            "keep what votes it came from: export again."
        )
    return export.votes_sha256


def _download(repo: str, commit: str, name: str, folder: Path, token: str | None) -> None:
    def fetch() -> str:
        return str(
            hf_hub_download(
                repo, name, revision=commit, repo_type="dataset", local_dir=folder, token=token
            )
        )

    call_again(fetch, attempts=3, deadline_s=60.0)


def _line(export: Export, repo: str, error: HubError) -> str:
    remedy = {
        Trouble.UNREACHABLE: f"try again online; until then it is in {export.directory}",
        Trouble.BUSY: f"try again in a while; until then it is in {export.directory}",
        Trouble.MISSING: "check the name and that HF_TOKEN may write there",
    }.get(error.trouble)
    text = f"The dataset is not published as {repo} on {constants.ENDPOINT}: {error}"
    return f"{text}: {remedy}." if remedy else f"{text}."
