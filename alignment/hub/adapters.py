"""Adapters as folders: what one must hold, and pulling one from the Hub by revision.

Owns `home`/models/<owner>--<name>/<commit>/. An adapter is kept only when it is whole, plain LoRA
as safetensors, and names this home's base at its revision; a pull that fails leaves nothing.
"""

import json
import shutil
import uuid
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from huggingface_hub import hf_hub_download

from alignment.hub.client import (
    COMMIT,
    HubError,
    RemoteFile,
    RemoteRepo,
    Trouble,
    call_again,
    probe,
)
from alignment.hub.model_files import ModelFilesError, check_safetensors, read_json, sha256_of
from annotation.faults import Fault
from annotation.schema import ModelRef, utc_now

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
CARD, LINEAGE = "README.md", "votetune.json"
MAX_WEIGHTS_BYTES = 2 * 1024**3
MAX_OTHER_BYTES = 1024**2
RECORD = "pulled.json"


class AdapterError(Fault):
    """An adapter that can't be had or used here; the message is the one line that a person reads.

    `unreachable` tells a Hub that did not answer from one that said no.
    """

    def __init__(self, text: str, *, unreachable: bool = False) -> None:
        super().__init__(text)
        self.unreachable = unreachable


@dataclass(frozen=True, slots=True)
class Pulled:
    """An adapter of the Hub in this home. `asked` are the revisions that led to `commit`."""

    repo: str
    commit: str
    asked: tuple[str, ...]
    pulled_at: datetime
    path: Path

    @property
    def name(self) -> str:
        return f"{self.repo}@{self.commit[:12]}"

    def answers_to(self, repo: str, revision: str | None) -> bool:
        """Whether `repo`@`revision` may mean this one; None means any commit."""
        if self.repo.lower() != repo.lower():
            return False
        by_commit = revision is not None and len(revision) >= 7 and self.commit.startswith(revision)
        return revision is None or by_commit or revision in self.asked


def check_adapter(folder: Path, base: ModelRef) -> None:
    """Raise ModelFilesError unless `folder` holds a whole, plain LoRA adapter of `base`."""
    check_adapter_config(folder, base)
    if not (folder / WEIGHTS).is_file():
        raise ModelFilesError(f"{WEIGHTS} is missing, and pickled weights are never read")
    check_safetensors(folder / WEIGHTS)


def check_adapter_config(folder: Path, base: ModelRef) -> None:
    """Raise ModelFilesError unless adapter_config.json describes a plain LoRA adapter of `base`."""
    config = read_json(folder / CONFIG)
    if config.get("peft_type") != "LORA":
        raise ModelFilesError(f"it is {config.get('peft_type')!r} and Votetune loads LoRA only")
    # Mixed batches of PEFT refuse these, or they would change the shared base for every adapter.
    for key in ("use_dora", "target_parameters", "auto_mapping"):
        if config.get(key):
            raise ModelFilesError(f"it uses {key}, which can't be loaded beside other adapters")
    if config.get("bias", "none") != "none":
        raise ModelFilesError("it trains biases, which can't be loaded beside other adapters")
    named, revision = str(config.get("base_model_name_or_path")), config.get("revision")
    here = f"{base.base}@{base.base_revision[:12]}"
    if not isinstance(revision, str) or not revision:
        raise ModelFilesError(
            f"it names {named} without a revision, so nothing says that it fits {here}"
        )
    # A folder's revision is the hash of its weights, and its path means nothing elsewhere.
    same_name = base.base.startswith("/") or named.lower() == base.base.lower()
    if not same_name or revision != base.base_revision:
        raise ModelFilesError(
            f"it belongs to {named}@{revision[:12]} and this home's base is {here}"
        )


def list_pulled(models: Path) -> list[Pulled]:
    """What was pulled into `models`, oldest first."""
    found = [_load_record(record) for record in models.glob(f"*--*/*/{RECORD}")]
    return sorted((p for p in found if p), key=lambda p: (p.pulled_at, p.commit))


def pull_adapter(
    models: Path, base: ModelRef, repo: str, revision: str | None, *, token: str | None
) -> Pulled:
    """Fetch `repo` at `revision` (None: its main branch) into `models`, pinned to the commit.

    Fetches adapter_config.json, adapter_model.safetensors (at most 2 GiB) and, where there are
    any, README.md and votetune.json. Raises AdapterError, having registered nothing.
    """
    label = f"{repo}@{revision}" if revision else repo
    try:
        remote = call_again(lambda: probe(repo, revision, token=token), attempts=3, deadline_s=8.0)
        folder = models / remote.id.replace("/", "--") / remote.commit
        if not _is_whole(folder, base):
            _fetch(remote, base, models, folder, token)
    except HubError as error:
        raise _refusal(label, error) from None
    except ModelFilesError as error:
        raise AdapterError(f"{label} can't be used: {error}: choose another adapter.") from None
    except OSError as error:
        raise AdapterError(
            f"{label} can't be kept in {models} ({error.strerror}): free some space."
        ) from None
    known = _load_record(folder / RECORD)
    asked = tuple(sorted({*(known.asked if known else ()), revision or "main"}))
    at = known.pulled_at if known else utc_now()
    pulled = Pulled(remote.id, remote.commit, asked, at, folder)
    if known is None or known.asked != asked:
        _write_record(pulled)
    return pulled


def _fetch(
    remote: RemoteRepo, base: ModelRef, models: Path, folder: Path, token: str | None
) -> None:
    wanted = _choose_files(remote)
    models.mkdir(parents=True, exist_ok=True)
    incoming = models / f".incoming-{uuid.uuid4().hex}"
    try:
        # The config first: a wrong base is refused before gigabytes come.
        for file in wanted:
            _download(remote, file, incoming, token)
            if file.name == CONFIG:
                check_adapter_config(incoming, base)
        check_adapter(incoming, base)
        shutil.rmtree(incoming / ".cache", ignore_errors=True)
        pulled = Pulled(remote.id, remote.commit, (), utc_now(), incoming)
        _write_record(pulled)
        folder.parent.mkdir(exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        incoming.rename(folder)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def _is_whole(folder: Path, base: ModelRef) -> bool:
    try:
        check_adapter(folder, base)
    except ModelFilesError:
        return False
    return _load_record(folder / RECORD) is not None


def _choose_files(remote: RemoteRepo) -> list[RemoteFile]:
    config, weights = remote.file(CONFIG), remote.file(WEIGHTS)
    if config is None:
        raise ModelFilesError(f"there is no adapter in it (no {CONFIG})")
    if weights is None:
        raise ModelFilesError(f"it has no {WEIGHTS}, and pickled weights are never read")
    extra = [f for name in (CARD, LINEAGE) if (f := remote.file(name))]
    for file in (config, weights, *extra):
        limit = MAX_WEIGHTS_BYTES if file.name == WEIGHTS else MAX_OTHER_BYTES
        if file.size is None or file.size > limit:
            raise ModelFilesError(
                f"{file.name} has {file.size or 'an unknown number of'} bytes "
                f"and at most {limit:,} are taken"
            )
    return [config, weights, *extra]


def _download(remote: RemoteRepo, file: RemoteFile, folder: Path, token: str | None) -> None:
    def fetch() -> Path:
        return Path(
            hf_hub_download(
                remote.id, file.name, revision=remote.commit, local_dir=folder, token=token
            )
        )

    path = call_again(fetch, attempts=3, deadline_s=600.0)
    is_sha256 = file.oid is not None and len(file.oid) == 64
    if path.stat().st_size != file.size or (is_sha256 and sha256_of(path) != file.oid):
        raise ModelFilesError(f"{file.name} came damaged, so it was thrown away")


def _refusal(label: str, error: HubError) -> AdapterError:
    remedy = {
        Trouble.UNREACHABLE: "try again online",
        Trouble.BUSY: "try again in a while",
        Trouble.MISSING: "check the name",
        Trouble.REVISION: "name a commit, tag or branch that exists",
        Trouble.DISK: "free some space",
    }.get(error.trouble)
    text = f"{label} can't be pulled: {error}"
    return AdapterError(
        f"{text}: {remedy}." if remedy else f"{text}.",
        unreachable=error.trouble in (Trouble.UNREACHABLE, Trouble.BUSY),
    )


def _write_record(pulled: Pulled) -> None:
    row = asdict(pulled) | {"pulled_at": pulled.pulled_at.isoformat()}
    del row["path"]
    draft = pulled.path / f".{RECORD}"
    draft.write_text(json.dumps(row, indent=2) + "\n")
    draft.replace(pulled.path / RECORD)


def _load_record(record: Path) -> Pulled | None:
    try:
        row = json.loads(record.read_text())
        at = datetime.fromisoformat(row["pulled_at"])
        pulled = Pulled(row["repo"], row["commit"], tuple(row["asked"]), at, record.parent)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return pulled if COMMIT.fullmatch(pulled.commit) else None
