"""A finished run's weights, card and lineage to the Hub, as one commit with a tag of the run.

Owns what is published and what is not: the adapter or the whole model, its card with a picture of
the training, what tells where it came from, and beside a starter's adapter the base itself; never
logs, checkpoints, votes or a path of this machine. Idempotent.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import sleep as wait

from huggingface_hub import constants

from alignment.base import SMALL_FILES
from alignment.hub.card import BASE_FOLDER, CURVES, BaseKind, Lineage, build_card
from alignment.hub.curves import draw_curves
from alignment.hub.evidence import Evidence
from alignment.hub.model_files import INDEX, ModelFilesError, check_model_folder, read_json
from alignment.hub.tuned import (
    CARD,
    CONFIG,
    LINEAGE,
    MODEL_CONFIG,
    check_adapter_files,
    tuned_weight_files,
)
from alignment.publishing.lineage import LineageError, load_lineage
from alignment.publishing.merged import MergeError, ensure_merged
from alignment.runs.run_store import RunFolder, RunState
from annotation.faults import Fault
from annotation.hub.client import HubError, RemoteRepo, Trouble, call_again, look_up
from annotation.hub.commits import (
    find_revision,
    full_name,
    holds,
    make_repo,
    oids_of,
    put_files,
    put_tag,
)
from annotation.whole_files import write_whole

RECORD, MERGED_RECORD = "published.json", "published-merged.json"
TELLING = (CARD, LINEAGE, CURVES)
"""What tells of the weights and is none of them."""


class PublishError(Fault):
    """Nothing new was published; the message is the one line that a person reads."""


@dataclass(frozen=True, slots=True)
class Published:
    """Where a run's weights lie: `revision` is the commit, `url` shows it."""

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
    merged_into: Path | None = None,
    evidence: Evidence | None = None,
    sleep: Callable[[float], None] = wait,
) -> Published:
    """Push what a finished run left, adapter or model, to `repo` on the Hub that HF_ENDPOINT names.

    With `merged_into`, the folder of its base, an adapter goes as one whole model with the base.
    A bare name goes under `namespace`, else under the token's own user. One commit on the head
    that was seen, tagged run-<id>; a run that is already there as it is here is not pushed again,
    but for its card where `evidence` or the lineage says more by now and no other run came since.
    Conflicts, limits, server errors and torn connections are tried again for up to two minutes.
    `private` None leaves it to the Hub's default and to what the repository already is.
    Raises PublishError: no token, a run without weights, a bad name, a repository that holds the
    other kind of weights, or what the Hub refused.
    """
    folder = RunFolder(run_dir.absolute())
    weights = _finished_weights(folder)
    if not token:
        raise PublishError(
            "nothing is published: set HF_TOKEN to a token that may write, "
            f"{_left(folder)} is in {weights}."
        )
    try:
        target = full_name(repo, namespace, token)
        if merged_into:
            weights = ensure_merged(folder, merged_into)
        make_repo(target, kind="model", token=token, private=private, sleep=sleep)
        remote = call_again(lambda: look_up(target, None, token=token), sleep=sleep)
        lineage = load_lineage(folder, token=token, merged=merged_into is not None)
        _check_kind(remote, lineage)
        curves = draw_curves(folder.metrics())
        files = _collect(weights, lineage) | _telling(lineage, remote.id, evidence, curves)
        published = _push(remote.id, lineage, files, token, sleep)
    except (LineageError, MergeError) as error:
        raise PublishError(str(error)) from None
    except HubError as error:
        raise PublishError(_line(folder, repo, error)) from None
    record = folder.path / (MERGED_RECORD if merged_into else RECORD)
    write_whole(record, json.dumps(asdict(published), indent=2) + "\n")
    return published


def load_published(run_dir: Path) -> Published | None:
    """Where the run was published last, or None."""
    try:
        return Published(**json.loads((run_dir / RECORD).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _push(
    repo: str,
    lineage: Lineage,
    files: Mapping[str, bytes | Path],
    token: str,
    sleep: Callable[[float], None],
) -> Published:
    """One commit, tagged; only the card anew where the tag is there and holds these weights."""
    tagged = find_revision(repo, lineage.tag, kind="model", token=token, sleep=sleep)
    push = partial(put_files, repo, kind="model", token=token, sleep=sleep)
    if tagged is None:
        what = _kind(lineage.is_whole)
        commit = push(files, message=f"Add the {what} of run {lineage.run}")
        put_tag(repo, lineage.tag, commit, kind="model", token=token, sleep=sleep)
        return _published(repo, commit)
    weights = {name: oids_of(held) for name, held in files.items() if name not in TELLING}
    if not holds(tagged, weights):
        raise PublishError(
            f"{repo} already has a tag {lineage.tag} of other weights: "
            "delete that tag on the Hub, or publish under another name."
        )
    head = call_again(lambda: look_up(repo, None, token=token), sleep=sleep)
    # Of another run since then the head tells already.
    if holds(head, weights):
        telling = {name: held for name, held in files.items() if name in TELLING}
        push(telling, message=f"Tell more of run {lineage.run}")
    return _published(repo, tagged.commit)


def _published(repo: str, commit: str) -> Published:
    return Published(repo, commit, f"{constants.ENDPOINT}/{repo}/tree/{commit}")


def _finished_weights(folder: RunFolder) -> Path:
    """The folder of what a done run left, checked; PublishError otherwise."""
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
        if folder.model.is_dir():
            check_model_folder(folder.model)
        else:
            check_adapter_files(folder.adapter)
    except (ModelFilesError, OSError) as error:
        raise PublishError(
            f"Run {name} has no whole {_kind(folder.model.is_dir())} in {folder.weights} "
            f"({error}): train again."
        ) from None
    return folder.weights


def _check_kind(remote: RemoteRepo, lineage: Lineage) -> None:
    # Beside an adapter's config, whatever loads the repository takes it for an adapter.
    other, held, left = MODEL_CONFIG, "a whole model", "an adapter"
    if lineage.is_whole:
        other, held, left = CONFIG, left, held
    if remote.file(other) is not None:
        raise PublishError(
            f"{remote.id} holds {held} already and run {lineage.run} left {left}: "
            "publish it under another name."
        )


def _collect(weights: Path, lineage: Lineage) -> dict[str, bytes | Path]:
    """The weights and what loads them, by name: bytes, or the file that holds them."""
    files = _model_files(weights) if lineage.is_whole else _adapter_files(weights, lineage)
    return files | {file.name: file for file in tuned_weight_files(weights)}


def _telling(
    lineage: Lineage, repo: str, evidence: Evidence | None, curves: bytes | None
) -> dict[str, bytes | Path]:
    card = build_card(lineage, repo, evidence, has_curves=curves is not None)
    files: dict[str, bytes | Path] = {CARD: card.encode(), LINEAGE: lineage.to_json().encode()}
    return files | ({CURVES: curves} if curves else {})


def _adapter_files(adapter: Path, lineage: Lineage) -> dict[str, bytes | Path]:
    config = read_json(adapter / CONFIG)
    # A folder's path is this machine's business; its revision, the hash of its weights, stays.
    config["base_model_name_or_path"] = lineage.base
    files: dict[str, bytes | Path] = {CONFIG: _to_json(config)}
    if lineage.base_kind is BaseKind.STARTER:
        files |= _starter_files(lineage)
    return files


def _model_files(model: Path) -> dict[str, bytes | Path]:
    """Configuration, tokenizer and template of a whole model, with no path of this machine."""
    kept = {path for pattern in SMALL_FILES for path in model.glob(pattern)}
    if (model / "model.safetensors").exists():
        kept -= {model / INDEX}
    files: dict[str, bytes | Path] = {}
    for path in sorted(kept):
        files[path.name] = path
        if path.name in (MODEL_CONFIG, "tokenizer_config.json"):
            row = read_json(path)
            # Where a config was loaded from; transformers before 5 wrote it down.
            told = {key: row[key] for key in row if key not in ("_name_or_path", "name_or_path")}
            if told != row:
                files[path.name] = _to_json(told)
    return files


def _to_json(row: Mapping[str, object]) -> bytes:
    return (json.dumps(row, indent=2, sort_keys=True) + "\n").encode()


def _starter_files(lineage: Lineage) -> dict[str, bytes | Path]:
    from alignment.starter.starter import STARTER_DIR, starter_revision

    if starter_revision() != lineage.base_revision:
        raise PublishError(
            f"Run {lineage.run} was trained on another starter model "
            f"({lineage.base_revision[:12]}) than this Votetune ships: train again."
        )
    kept = {p for pattern in (*SMALL_FILES, "model.safetensors") for p in STARTER_DIR.glob(pattern)}
    return {f"{BASE_FOLDER}/{path.name}": path for path in sorted(kept)}


def _kind(is_whole: bool) -> str:
    return "model" if is_whole else "adapter"


def _left(folder: RunFolder) -> str:
    return f"the {_kind(folder.model.is_dir())}"


def _line(folder: RunFolder, repo: str, error: HubError) -> str:
    remedy = {
        Trouble.UNREACHABLE: f"try again online; until then {_left(folder)} is in {folder.weights}",
        Trouble.BUSY: f"try again in a while; until then {_left(folder)} is in {folder.weights}",
        Trouble.MISSING: "check the name and that HF_TOKEN may write there",
    }.get(error.trouble)
    text = f"Run {folder.path.name} is not published as {repo} on {constants.ENDPOINT}: {error}"
    return f"{text}: {remedy}." if remedy else f"{text}."
