"""Tuned weights pulled from the Hub by revision: LoRA adapters, and whole fine-tuned models.

Owns `home`/models/<owner>--<name>/<commit>/. Weights are kept only when they are whole and fit
this home's base at its revision (`alignment.hub.tuned`); a pull that fails leaves nothing.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import hf_hub_download

from alignment.base import SMALL_FILES, ResolvedBase
from alignment.base import WEIGHTS as MODEL_WEIGHTS
from alignment.hub.meter import Meter
from alignment.hub.model_files import ModelFilesError, sha256_of, weight_files
from alignment.hub.tuned import (
    CARD,
    CONFIG,
    LINEAGE,
    MODEL_CONFIG,
    WEIGHTS,
    check_adapter_config,
    check_tuned,
    check_whole_model,
)
from alignment.runs.recipes import Tuning
from annotation.faults import Fault
from annotation.hub.client import (
    COMMIT,
    HubError,
    RemoteFile,
    RemoteRepo,
    Trouble,
    call_again,
    probe,
)
from annotation.schema import utc_now
from annotation.whole_files import abandoned_drafts, draft_folder, write_whole

MAX_WEIGHTS_BYTES = 2 * 1024**3
MAX_OTHER_BYTES = 1024**2
MAX_TOKENIZER_BYTES = 64 * 1024**2
TIMES_THE_BASE = 3
"""A fine-tune may be stored in a wider type than its base, and with a head of its own."""
RECORD = "pulled.json"


class PullError(Fault):
    """Weights that can't be had or used here; the message is the one line that a person reads.

    `unreachable` tells a Hub that did not answer from one that said no.
    """

    def __init__(self, text: str, *, unreachable: bool = False) -> None:
        super().__init__(text)
        self.unreachable = unreachable


@dataclass(frozen=True, slots=True)
class Pulled:
    """Tuned weights of the Hub in this home. `asked` are the revisions that led to `commit`."""

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


@dataclass(frozen=True, slots=True)
class PullSize:
    """What a pull of `name` (repo@commit) would fetch: nothing where it `is_here`."""

    name: str
    tuning: Tuning
    files: int
    bytes: int
    is_here: bool

    @property
    def line(self) -> str:
        what = "a whole model" if self.tuning == "full" else "an adapter"
        if self.is_here:
            return f"{self.name} is here already: {what}, nothing to fetch."
        return f"{self.name}: {what}, {say_bytes(self.bytes)} in {self.files} files."


def say_bytes(count: int) -> str:
    """With three digits at most, in powers of 1000: 812 bytes, 4.21 MB, 16.4 GB."""
    if count < 1000:
        return f"{count} bytes"
    size, unit = count / 1000, "kB"
    for larger in ("MB", "GB", "TB"):
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    return f"{size:.{max(0, 2 - int(size >= 10) - int(size >= 100))}f} {unit}"


def list_pulled(models: Path) -> list[Pulled]:
    """What was pulled into `models`, oldest first."""
    found = [_load_record(record) for record in models.glob(f"*--*/*/{RECORD}")]
    return sorted((p for p in found if p), key=lambda p: (p.pulled_at, p.commit))


def size_up(
    models: Path, base: ResolvedBase, repo: str, revision: str | None, *, token: str | None
) -> PullSize:
    """What `pull_tuned` would fetch, asked of the Hub without fetching it. Raises PullError."""
    label = _label(repo, revision)
    try:
        remote = _find(repo, revision, token)
        small, weights = _wanted(remote, base)
    except HubError as error:
        raise _refusal(label, error) from None
    except ModelFilesError as error:
        raise _unfit(label, error) from None
    files = [*small, *weights]
    return PullSize(
        name=f"{remote.id}@{remote.commit[:12]}",
        tuning="full" if _is_whole_model(remote) else "lora",
        files=len(files),
        bytes=sum(file.size or 0 for file in files),
        is_here=_is_whole(_folder(models, remote), base),
    )


def pull_tuned(
    models: Path,
    base: ResolvedBase,
    repo: str,
    revision: str | None,
    *,
    token: str | None,
    meter: Meter | None = None,
) -> Pulled:
    """Fetch `repo` at `revision` (None: its main branch) into `models`, pinned to the commit.

    Of an adapter come its config and weights (at most 2 GiB), of a whole model also its tokenizer
    (weights of at most TIMES_THE_BASE the base's own); of both README.md and votetune.json where
    they are there. `meter` tells how far it is and may cancel it. Raises PullError or Cancelled,
    having registered nothing.
    """
    label = _label(repo, revision)
    try:
        remote = _find(repo, revision, token)
        folder = _folder(models, remote)
        if not _is_whole(folder, base):
            _fetch(remote, base, models, folder, token, meter or Meter())
    except HubError as error:
        raise _refusal(label, error) from None
    except ModelFilesError as error:
        raise _unfit(label, error) from None
    except OSError as error:
        raise PullError(
            f"{label} can't be kept in {models} ({error.strerror}): free some space."
        ) from None
    known = _load_record(folder / RECORD)
    asked = tuple(sorted({*(known.asked if known else ()), revision or "main"}))
    at = known.pulled_at if known else utc_now()
    pulled = Pulled(remote.id, remote.commit, asked, at, folder)
    if known is None or known.asked != asked:
        _write_record(pulled)
    return pulled


def _label(repo: str, revision: str | None) -> str:
    return f"{repo}@{revision}" if revision else repo


def _find(repo: str, revision: str | None, token: str | None) -> RemoteRepo:
    return call_again(lambda: probe(repo, revision, token=token), attempts=3, deadline_s=8.0)


def _folder(models: Path, remote: RemoteRepo) -> Path:
    return models / remote.id.replace("/", "--") / remote.commit


def _unfit(label: str, error: ModelFilesError) -> PullError:
    return PullError(f"{label} can't be used: {error}: choose another model.")


def _is_whole_model(remote: RemoteRepo) -> bool:
    return remote.file(CONFIG) is None and remote.file(MODEL_CONFIG) is not None


def _wanted(remote: RemoteRepo, base: ResolvedBase) -> tuple[list[RemoteFile], list[RemoteFile]]:
    """Small files and weights to fetch; ModelFilesError where some are missing or too big."""
    return _whole_model_files(remote, base) if _is_whole_model(remote) else _adapter_files(remote)


def _fetch(
    remote: RemoteRepo,
    base: ResolvedBase,
    models: Path,
    folder: Path,
    token: str | None,
    meter: Meter,
) -> None:
    small, weights = _wanted(remote, base)
    meter.begin(sum(file.size or 0 for file in (*small, *weights)))
    models.mkdir(parents=True, exist_ok=True)
    for left in abandoned_drafts(models, "incoming"):
        shutil.rmtree(left, ignore_errors=True)
    incoming = draft_folder(models, "incoming")
    try:
        for file in small:
            _download(remote, file, incoming, token, meter)
        # Before gigabytes come: what was tuned from another base is refused now.
        if _is_whole_model(remote):
            check_whole_model(incoming, base, made_from=None, weights=False)
        else:
            check_adapter_config(incoming, base.ref)
        for file in weights:
            _download(remote, file, incoming, token, meter)
        check_tuned(incoming, base)
        shutil.rmtree(incoming / ".cache", ignore_errors=True)
        pulled = Pulled(remote.id, remote.commit, (), utc_now(), incoming)
        _write_record(pulled)
        folder.parent.mkdir(exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        incoming.rename(folder)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def _is_whole(folder: Path, base: ResolvedBase) -> bool:
    try:
        check_tuned(folder, base)
    except ModelFilesError:
        return False
    return _load_record(folder / RECORD) is not None


def _adapter_files(remote: RemoteRepo) -> tuple[list[RemoteFile], list[RemoteFile]]:
    config, weights = remote.file(CONFIG), remote.file(WEIGHTS)
    if config is None:
        raise ModelFilesError(
            f"there is no adapter in it (no {CONFIG}) and no whole model (no {MODEL_CONFIG})"
        )
    if weights is None:
        raise ModelFilesError(f"it has no {WEIGHTS}, and pickled weights are never read")
    small = [config, *_named(remote, CARD, LINEAGE)]
    for file in small:
        _check_size(file, MAX_OTHER_BYTES)
    _check_size(weights, MAX_WEIGHTS_BYTES)
    return small, [weights]


def _whole_model_files(
    remote: RemoteRepo, base: ResolvedBase
) -> tuple[list[RemoteFile], list[RemoteFile]]:
    top = [file for file in remote.files if "/" not in file.name]
    single = [file for file in top if file.name == "model.safetensors"]
    weights = single or [file for file in top if fnmatch(file.name, MODEL_WEIGHTS)]
    if not weights:
        raise ModelFilesError("it has no model.safetensors, and pickled weights are never read")
    loading = [f for f in top if any(fnmatch(f.name, pattern) for pattern in SMALL_FILES)]
    for file in loading:
        _check_size(file, MAX_TOKENIZER_BYTES)
    telling = _named(remote, CARD, LINEAGE)
    for file in telling:
        _check_size(file, MAX_OTHER_BYTES)
    room = TIMES_THE_BASE * sum(file.stat().st_size for file in weight_files(base.path))
    for file in weights:
        _check_size(file, room)
        room -= file.size or 0
    return [*telling, *loading], weights


def _named(remote: RemoteRepo, *names: str) -> list[RemoteFile]:
    return [file for name in names if (file := remote.file(name))]


def _check_size(file: RemoteFile, limit: int) -> None:
    if file.size is None or file.size > limit:
        raise ModelFilesError(
            f"{file.name} has {file.size or 'an unknown number of'} bytes "
            f"and at most {limit:,} are taken"
        )


def _download(
    remote: RemoteRepo, file: RemoteFile, folder: Path, token: str | None, meter: Meter
) -> None:
    def fetch() -> Path:
        meter.check()
        return Path(
            hf_hub_download(
                remote.id,
                file.name,
                revision=remote.commit,
                local_dir=folder,
                token=token,
                tqdm_class=meter.bars(),
            )
        )

    path = call_again(fetch, attempts=3, deadline_s=600.0)
    is_sha256 = file.oid is not None and len(file.oid) == 64
    if path.stat().st_size != file.size or (is_sha256 and sha256_of(path) != file.oid):
        raise ModelFilesError(f"{file.name} came damaged, so it was thrown away")
    meter.finish_file(file.size or 0)


def _refusal(label: str, error: HubError) -> PullError:
    remedy = {
        Trouble.UNREACHABLE: "try again online",
        Trouble.BUSY: "try again in a while",
        Trouble.MISSING: "check the name",
        Trouble.REVISION: "name a commit, tag or branch that exists",
        Trouble.DISK: "free some space",
    }.get(error.trouble)
    text = f"{label} can't be pulled: {error}"
    return PullError(
        f"{text}: {remedy}." if remedy else f"{text}.",
        unreachable=error.trouble in (Trouble.UNREACHABLE, Trouble.BUSY),
    )


def _write_record(pulled: Pulled) -> None:
    row = asdict(pulled) | {"pulled_at": pulled.pulled_at.isoformat()}
    del row["path"]
    write_whole(pulled.path / RECORD, json.dumps(row, indent=2) + "\n")


def _load_record(record: Path) -> Pulled | None:
    try:
        row = json.loads(record.read_text())
        at = datetime.fromisoformat(row["pulled_at"])
        pulled = Pulled(row["repo"], row["commit"], tuple(row["asked"]), at, record.parent)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return pulled if COMMIT.fullmatch(pulled.commit) else None
