"""A finished run's adapter, card and lineage to the Hub, as one commit with a tag of the run.

Owns what is published and what is not: the adapter, what tells where it came from, and for the
starter the base itself; never logs, checkpoints, votes or a path of this machine. Idempotent.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import sleep as wait

from huggingface_hub import CommitOperationAdd, HfApi, constants

from alignment.base import SMALL_FILES
from alignment.hub.card import BASE_FOLDER, BaseKind, Lineage, build_card
from alignment.hub.client import HubError, RemoteRepo, Trouble, call_again, is_repo_id, look_up
from alignment.hub.commits import has_file, holds, oids_of
from alignment.hub.model_files import ModelFilesError, check_safetensors, read_json, sha256_of
from alignment.hub.tuned import CARD, CONFIG, LINEAGE, WEIGHTS
from alignment.run_store import RunFolder, RunState
from alignment.settings import STARTER
from annotation.export import ExportError, load_export
from annotation.faults import Fault

RECORD = "published.json"
STARTER_LICENSE = "apache-2.0"


class PublishError(Fault):
    """Nothing new was published; the message is the one line that a person reads."""


@dataclass(frozen=True, slots=True)
class Published:
    """Where an adapter lies: `revision` is the commit, `url` shows it."""

    repo: str
    revision: str
    url: str


def publish_run(
    run_dir: Path,
    *,
    repo: str,
    token: str | None,
    namespace: str | None = None,
    private: bool | None = None,
    sleep: Callable[[float], None] = wait,
) -> Published:
    """Push the adapter of a finished run to `repo` on the Hub that HF_ENDPOINT names.

    A bare name goes under `namespace`, else under the token's own user. One commit on the head
    that was seen, tagged run-<id>; a run that is already there as it is here is not pushed again.
    Conflicts, limits, server errors and torn connections are tried again for up to two minutes.
    `private` None leaves it to the Hub's default and to what the repository already is.
    Raises PublishError: no token, a run without an adapter, a bad name, or what the Hub refused.
    """
    folder = RunFolder(run_dir.absolute())
    adapter = _finished_adapter(folder)
    if not token:
        raise PublishError(
            "nothing is published: set HF_TOKEN to a token that may write, "
            f"the adapter is in {adapter}."
        )
    try:
        target = _full_name(repo, namespace, token)
        push = _Push(HfApi(token=token), token, sleep)
        repo_id = push.create(target, private)
        lineage = _load_lineage(folder, token)
        files = _collect(adapter, lineage, repo_id)
        published = push.run(repo_id, lineage, files)
    except HubError as error:
        raise PublishError(_line(folder, repo, error)) from None
    draft = folder.path / f".{RECORD}.{os.getpid()}"
    draft.write_text(json.dumps(asdict(published), indent=2) + "\n")
    draft.replace(folder.path / RECORD)
    return published


def load_published(run_dir: Path) -> Published | None:
    """Where the run was published last, or None."""
    try:
        return Published(**json.loads((run_dir / RECORD).read_text()))
    except (OSError, ValueError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class _Push:
    """The requests of one publication."""

    api: HfApi
    token: str
    sleep: Callable[[float], None]

    def create(self, repo: str, private: bool | None) -> str:
        """Make `repo` unless it is there; its name as the Hub spells it."""
        call_again(
            lambda: self.api.create_repo(repo, private=private, exist_ok=True), sleep=self.sleep
        )
        return call_again(lambda: look_up(repo, None, token=self.token), sleep=self.sleep).id

    def run(self, repo: str, lineage: Lineage, files: Mapping[str, bytes | Path]) -> Published:
        oids = {name: oids_of(content) for name, content in files.items()}
        tagged = self._at(repo, lineage.tag)
        same = {name: oids[name] for name in (CONFIG, WEIGHTS)}
        if tagged is not None and holds(tagged, same):
            return self._published(repo, tagged.commit)
        if tagged is not None:
            raise PublishError(
                f"{repo} already has a tag {lineage.tag} of another adapter: "
                "delete that tag on the Hub, or publish under another name."
            )
        commit = call_again(lambda: self._commit(repo, lineage, files, oids), sleep=self.sleep)
        call_again(lambda: self._tag(repo, lineage.tag, commit), sleep=self.sleep)
        return self._published(repo, commit)

    def _tag(self, repo: str, tag: str, commit: str) -> None:
        """One attempt; a conflict may mean that the tag is there already, so it is looked up."""
        self.api.create_tag(repo, tag=tag, revision=commit, exist_ok=True)
        try:
            made = look_up(repo, tag, token=self.token).commit
        except HubError as error:
            made = None
            if error.trouble is not Trouble.REVISION:
                raise
        if made != commit:
            raise HubError(Trouble.BUSY, f"the tag {tag} was not made", passing=True)

    def _commit(
        self,
        repo: str,
        lineage: Lineage,
        files: Mapping[str, bytes | Path],
        oids: Mapping[str, tuple[str, str]],
    ) -> str:
        """One attempt, on the head as it is now; a commit whose answer was lost is recognised."""
        head = look_up(repo, None, token=self.token)
        if holds(head, oids):
            return head.commit
        done = self.api.create_commit(
            repo,
            [CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message=f"Add the adapter of run {lineage.run}",
            parent_commit=head.commit,
        )
        made = look_up(repo, done.oid, token=self.token)
        if not holds(made, oids):
            missing = next(n for n, known in oids.items() if not has_file(made, n, known))
            raise HubError(
                Trouble.REFUSED,
                f"{missing} did not arrive (does a .gitignore there leave it out?)",
                passing=False,
            )
        return made.commit

    def _at(self, repo: str, revision: str) -> RemoteRepo | None:
        try:
            return call_again(lambda: look_up(repo, revision, token=self.token), sleep=self.sleep)
        except HubError as error:
            if error.trouble is Trouble.REVISION:
                return None
            raise

    def _published(self, repo: str, commit: str) -> Published:
        return Published(repo, commit, f"{self.api.endpoint}/{repo}/tree/{commit}")


def _full_name(repo: str, namespace: str | None, token: str) -> str:
    if not is_repo_id(repo):
        raise PublishError(
            f"{repo!r} is no name for a repository: use letters, digits, - _ and ., "
            "bare or as owner/name, at most 96 in all."
        )
    if "/" in repo:
        return repo
    owner = namespace or str(call_again(lambda: HfApi(token=token).whoami())["name"])
    return f"{owner}/{repo}"


def _finished_adapter(folder: RunFolder) -> Path:
    """The adapter's folder of a run that is done; PublishError otherwise."""
    name = folder.path.name
    try:
        state = folder.status().state
    except (OSError, ValueError, KeyError, TypeError):
        raise PublishError(
            f"Run {name} is not in {folder.path.parent}: `python app.py runs` lists the runs."
        ) from None
    if state is not RunState.DONE:
        raise PublishError(f"Run {name} is {state} and only a run that is done can be published.")
    try:
        read_json(folder.adapter / CONFIG)
        check_safetensors(folder.adapter / WEIGHTS)
    except (ModelFilesError, OSError) as error:
        raise PublishError(
            f"Run {name} has no whole adapter in {folder.adapter} ({error}): train again."
        ) from None
    return folder.adapter


def _load_lineage(folder: RunFolder, token: str) -> Lineage:
    try:
        spec, status = folder.spec(), folder.status()
        counts = load_export(folder.dataset).counts
    except (ExportError, OSError, ValueError, KeyError, TypeError) as error:
        raise PublishError(
            f"Run {folder.path.name} can't say what it was made from ({error}): train again."
        ) from None
    kind = BaseKind.HUB
    if spec.base.base == STARTER:
        kind = BaseKind.STARTER
    elif spec.base.base.startswith("/"):
        kind = BaseKind.FOLDER
    settings = {"method": spec.method, "steps": spec.steps, "seed": spec.seed}
    return Lineage(
        run=folder.path.name,
        method=spec.method,
        base=Path(spec.base.base).name if kind is BaseKind.FOLDER else spec.base.base,
        base_revision=spec.base.base_revision,
        base_kind=kind,
        dataset_sha256=spec.dataset_sha256,
        votes=counts.votes,
        voters=counts.voters,
        synthetic_votes=counts.synthetic_votes,
        examples=spec.examples,
        settings=_shown(settings | asdict(spec.recipe)),
        final=_shown(asdict(status.final) if status.final else {}),
        versions=spec.versions,
        code_revision=spec.code_revision,
        adapter_sha256=sha256_of(folder.adapter / WEIGHTS),
        license=_license(kind, spec.base.base, spec.base.base_revision, token),
    )


def _license(kind: BaseKind, base: str, revision: str, token: str) -> str | None:
    """The base's own, from its card; None where it can't be known, and then none is claimed."""
    if kind is BaseKind.STARTER:
        return STARTER_LICENSE
    if kind is BaseKind.FOLDER:
        return None
    try:
        return look_up(base, revision, token=token).license
    except HubError:
        return None


def _shown(row: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
        for name, value in row.items()
        if value is not None
    )


def _collect(adapter: Path, lineage: Lineage, repo: str) -> dict[str, bytes | Path]:
    """What belongs in the repository, by name: bytes, or the file that holds them."""
    config = read_json(adapter / CONFIG)
    # A folder's path is this machine's business; its revision, the hash of its weights, stays.
    config["base_model_name_or_path"] = lineage.base
    files: dict[str, bytes | Path] = {
        CONFIG: (json.dumps(config, indent=2, sort_keys=True) + "\n").encode(),
        WEIGHTS: adapter / WEIGHTS,
        CARD: build_card(lineage, repo).encode(),
        LINEAGE: lineage.to_json().encode(),
    }
    if lineage.base_kind is BaseKind.STARTER:
        files |= _starter_files(lineage)
    return files


def _starter_files(lineage: Lineage) -> dict[str, bytes | Path]:
    from alignment.starter import STARTER_DIR, starter_revision

    if starter_revision() != lineage.base_revision:
        raise PublishError(
            f"Run {lineage.run} was trained on another starter model "
            f"({lineage.base_revision[:12]}) than this Votetune ships: train again."
        )
    kept = {p for pattern in (*SMALL_FILES, "model.safetensors") for p in STARTER_DIR.glob(pattern)}
    return {f"{BASE_FOLDER}/{path.name}": path for path in sorted(kept)}


def _line(folder: RunFolder, repo: str, error: HubError) -> str:
    remedy = {
        Trouble.UNREACHABLE: f"try again online; until then the adapter is in {folder.adapter}",
        Trouble.BUSY: f"try again in a while; until then the adapter is in {folder.adapter}",
        Trouble.MISSING: "check the name and that HF_TOKEN may write there",
    }.get(error.trouble)
    text = f"Run {folder.path.name} is not published as {repo} on {constants.ENDPOINT}: {error}"
    return f"{text}: {remedy}." if remedy else f"{text}."
