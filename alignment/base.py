"""Which base model this home speaks, at which commit, and where its files lie.

Owns the binding of a home to its base (`base.json`): votes belong to one base and are never
mixed silently. Refuses pickled weights and repositories that need their own code. Loads nothing.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from huggingface_hub import snapshot_download

from alignment.hub.model_files import ModelFilesError, check_model_folder, weights_sha256
from alignment.settings import DEFAULT_BASE_MODEL, STARTER, AlignmentSettings
from annotation.faults import Fault
from annotation.home import Home, running_app
from annotation.hub.client import (
    COMMIT,
    HubError,
    RemoteRepo,
    Trouble,
    call,
    call_again,
    is_repo_id,
    probe,
)
from annotation.schema import ModelRef
from annotation.whole_files import write_whole

SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "tokenizer*.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "model.safetensors.index.json",
)
WEIGHTS = "model*.safetensors"
DOWNLOAD_DEADLINE_S = 3600.0
STARTER_NOTICE = (
    "Answers come from the starter model, a tiny model that ships with Votetune: "
    "good for trying the loop, not for knowledge."
)


class BaseModelError(Fault):
    """The base model can't be used; the message is the one line that a person reads."""


@dataclass(frozen=True, slots=True)
class ResolvedBase:
    """A base model on this machine's disk.

    `path` is a folder with config, tokenizer and *.safetensors. `notice` is a plain sentence for
    the page when the base is not what one would expect, or None.
    """

    ref: ModelRef
    path: Path
    is_starter: bool
    notice: str | None

    def weights_bytes(self) -> int:
        """What the weights take on disk, and about what each process that loads them takes."""
        return sum(file.stat().st_size for file in self.path.glob("*.safetensors"))


@dataclass(frozen=True, slots=True)
class _Binding:
    """What base.json holds. `asked` is the BASE_REVISION that `revision` was resolved from."""

    base: str
    revision: str
    asked: str | None

    @property
    def label(self) -> str:
        return f"{self.base}@{self.revision[:12]}"


@dataclass(frozen=True, slots=True)
class _Held:
    """A binding that must stay, and `holder`, the beginning of the sentence that says why."""

    binding: _Binding
    holder: str

    def refuse(self, wanted: str) -> NoReturn:
        bound = self.binding
        revision = "" if bound.base == STARTER else f" BASE_REVISION={bound.revision}"
        raise BaseModelError(
            f"{self.holder} {bound.label}, and {wanted} is wanted: "
            f"set BASE_MODEL={bound.base}{revision}, or another VOTETUNE_HOME."
        )


def resolve_base(settings: AlignmentSettings, home: Path, *, has_votes: bool) -> ResolvedBase:
    """The base model of `home`, its files on this disk, its commit pinned in `home`/base.json.

    Reads the network only where the pinned commit is not cached, after one probe of at most 3 s.
    Raises BaseModelError, having changed nothing in the home: the base does not exist, is gated,
    can't be reached, holds no safetensors, needs its own code, or is not the one that the home's
    votes belong to or that an app running on it speaks. Only an unset BASE_MODEL on a home that
    neither holds falls back to the starter.
    """
    home = home.absolute()
    holder = _holder(home, has_votes=has_votes)
    bound = _load_binding(home, is_held=holder is not None)
    held = _Held(bound, holder) if bound and holder else None
    if settings.base_model is None:
        resolved = _resolve_default(settings, bound, held)
    else:
        resolved = _resolve_named(settings.base_model, settings, bound, held)
    if held and not _same(held.binding, resolved.ref):
        held.refuse(f"{resolved.ref.base}@{resolved.ref.base_revision[:12]}")
    asked = None if resolved.is_starter else settings.base_revision
    binding = _Binding(resolved.ref.base, resolved.ref.base_revision, asked)
    if binding != bound:
        _save_binding(home, binding)
    return resolved


def bound_base(home: Path) -> ModelRef | None:
    """The base that `home` is bound to, from its base.json alone; None before the first start."""
    bound = _load_binding(home, is_held=False)
    return ModelRef(bound.base, bound.revision) if bound else None


def bind_base(home: Path, base: str, revision: str, asked: str | None) -> None:
    """Bind a home without votes to the base that the votes it will hold belong to.

    `asked` is the BASE_REVISION that led to `revision`. Raises BaseModelError.
    """
    _save_binding(home.absolute(), _Binding(base, revision, asked))


def bound_revision_asked(home: Path) -> str | None:
    """The BASE_REVISION that led to the revision that `home` is bound to."""
    bound = _load_binding(home, is_held=False)
    return bound.asked if bound else None


def _holder(home: Path, *, has_votes: bool) -> str | None:
    """Why the home must stay on the base that it is bound to, as a sentence's beginning."""
    if has_votes:
        return "This home's votes belong to"
    app = running_app(Home(home))
    if app is not None and app.pid != os.getpid():
        return f"The app running at {app.url} speaks"
    return None


def _resolve_default(
    settings: AlignmentSettings, bound: _Binding | None, held: _Held | None
) -> ResolvedBase:
    if held and held.binding.base == STARTER:
        notice = (
            f"{STARTER_NOTICE} {held.holder} it: "
            f"set another VOTETUNE_HOME to begin with {DEFAULT_BASE_MODEL}."
        )
        return _starter(None, notice)
    if held and not _same_name(held.binding.base, DEFAULT_BASE_MODEL):
        held.refuse(f"{DEFAULT_BASE_MODEL}, the default,")
    try:
        return _hub_base(DEFAULT_BASE_MODEL, settings, bound)
    except HubError as error:
        wrong = error.trouble in (Trouble.TOKEN, Trouble.DISK) or (
            error.trouble is Trouble.REVISION and settings.base_revision is not None
        )
        if wrong or held:
            _refuse_hub_base(DEFAULT_BASE_MODEL, settings, error)
        notice = f"{STARTER_NOTICE} {DEFAULT_BASE_MODEL} is out of reach: {error}."
        return _starter(None, notice)


def _resolve_named(
    name: str, settings: AlignmentSettings, bound: _Binding | None, held: _Held | None
) -> ResolvedBase:
    folder = Path(name).expanduser()
    is_folder = name != STARTER and folder.is_dir()
    spelled = str(folder.resolve()) if is_folder else name
    # Refused before anything is downloaded.
    if held and not _same_name(held.binding.base, spelled):
        held.refuse(spelled)
    if name == STARTER:
        return _starter(settings.base_revision, STARTER_NOTICE)
    if is_folder:
        return _folder_base(Path(spelled), settings.base_revision)
    if not is_repo_id(name):
        raise BaseModelError(
            f"BASE_MODEL={name} is no folder here and no name of a model on the Hub: "
            f'set a Hub id such as {DEFAULT_BASE_MODEL}, a local folder or "{STARTER}".'
        )
    try:
        return _hub_base(name, settings, bound)
    except HubError as error:
        _refuse_hub_base(name, settings, error)


def _starter(wanted_revision: str | None, notice: str) -> ResolvedBase:
    from alignment.starter.starter import STARTER_DIR, starter_revision

    revision = starter_revision()
    _check_content_revision(STARTER, revision, wanted_revision)
    return ResolvedBase(ModelRef(STARTER, revision), STARTER_DIR, is_starter=True, notice=notice)


def _folder_base(folder: Path, wanted_revision: str | None) -> ResolvedBase:
    try:
        check_model_folder(folder)
    except ModelFilesError as error:
        raise BaseModelError(f"BASE_MODEL={folder} can't be used: {error}.") from None
    revision = weights_sha256(folder)
    _check_content_revision(str(folder), revision, wanted_revision)
    return ResolvedBase(ModelRef(str(folder), revision), folder, is_starter=False, notice=None)


def _check_content_revision(base: str, revision: str, wanted: str | None) -> None:
    if wanted is not None and not revision.startswith(wanted.lower()):
        raise BaseModelError(
            f"BASE_REVISION={wanted} is not the revision of {base}, which is {revision[:12]} "
            "(the sha256 of its weights): unset BASE_REVISION."
        )


def _hub_base(repo: str, settings: AlignmentSettings, bound: _Binding | None) -> ResolvedBase:
    """A base of the Hub: the pinned commit from the cache, else what the Hub answers."""
    asked = settings.base_revision
    commit = asked if asked and COMMIT.fullmatch(asked) else None
    if bound and _same_name(bound.base, repo) and bound.asked == asked:
        repo, commit = bound.base, bound.revision
    folder = _cached(repo, commit) if commit else None
    if folder is None:
        token = settings.hf_token.get_secret_value() if settings.hf_token else None
        try:
            remote = probe(repo, commit or asked, token=token)
        except HubError as error:
            folder = _cached(repo, asked or "main") if commit is None else None
            if folder is None or error.trouble not in (Trouble.UNREACHABLE, Trouble.BUSY):
                raise
        else:
            repo, folder = remote.id, _download(remote, commit or asked or "main", token)
    ref = ModelRef(repo, folder.name)
    return ResolvedBase(ref, folder, is_starter=False, notice=None)


def _cached(repo: str, revision: str) -> Path | None:
    """The snapshot of `repo` in huggingface_hub's cache if it is whole, without the network."""
    patterns = [*SMALL_FILES, WEIGHTS]
    try:
        folder = call(
            lambda: snapshot_download(
                repo,
                revision=revision,
                allow_patterns=patterns,
                ignore_patterns=["*/*"],
                local_files_only=True,
            )
        )
        check_model_folder(Path(folder))
    except (HubError, ModelFilesError):
        return None
    return Path(folder)


def _download(remote: RemoteRepo, revision: str, token: str | None) -> Path:
    """Config and tokenizer first, so that a refused base costs no gigabytes; then the weights."""
    names = {f.name for f in remote.files}
    if "config.json" not in names and "adapter_config.json" in names:
        raise BaseModelError(
            f"BASE_MODEL={remote.id} is an adapter, not a base model: "
            "set BASE_MODEL to the model that its card names as base_model."
        )
    if not any(n.startswith("model") and n.endswith(".safetensors") for n in names if "/" not in n):
        raise BaseModelError(
            f"BASE_MODEL={remote.id} has no safetensors weights, and pickled ones can run code: "
            "choose a model with model.safetensors."
        )

    def fetch(revision: str, patterns: list[str]) -> Path:
        folder = call_again(
            lambda: snapshot_download(
                remote.id,
                revision=revision,
                allow_patterns=patterns,
                ignore_patterns=["*/*"],
                token=token,
            ),
            attempts=3,
            deadline_s=DOWNLOAD_DEADLINE_S,
        )
        return Path(folder)

    try:
        check_model_folder(fetch(remote.commit, [*SMALL_FILES]), weights=False)
        # By its name, so that the cache learns which commit "main" is for a start without network.
        folder = fetch(revision, [*SMALL_FILES, WEIGHTS])
        check_model_folder(folder)
    except ModelFilesError as error:
        raise BaseModelError(f"BASE_MODEL={remote.id} can't be used: {error}.") from None
    return folder


def _refuse_hub_base(repo: str, settings: AlignmentSettings, error: HubError) -> NoReturn:
    at = f" at BASE_REVISION={settings.base_revision}" if settings.base_revision else ""
    remedy = {
        Trouble.UNREACHABLE: f'go online once, or set BASE_MODEL="{STARTER}" or a local folder',
        Trouble.BUSY: "try again in a while",
        Trouble.MISSING: "check BASE_MODEL",
        Trouble.REVISION: "set BASE_REVISION to a commit, tag or branch that exists, or unset it",
        Trouble.DISK: "make room",
    }.get(error.trouble)
    what = f"BASE_MODEL={repo}{at} can't be had: {error}"
    raise BaseModelError(f"{what}: {remedy}." if remedy else f"{what}.") from None


def _same_name(one: str, other: str) -> bool:
    # Ids of the Hub are case-insensitive; folders are not.
    return one == other or (
        not one.startswith("/") and STARTER not in (one, other) and one.lower() == other.lower()
    )


def _same(bound: _Binding, ref: ModelRef) -> bool:
    return _same_name(bound.base, ref.base) and bound.revision == ref.base_revision


def _load_binding(home: Path, *, is_held: bool) -> _Binding | None:
    path = home / "base.json"
    try:
        held = json.loads(path.read_text())
        return _Binding(str(held["base"]), str(held["revision"]), held.get("asked"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if not is_held:
            return None
        raise BaseModelError(
            f"{path} can't be read ({type(error).__name__}), so the base that this home's votes "
            "belong to is unknown: restore it, or set another VOTETUNE_HOME."
        ) from None


def _save_binding(home: Path, binding: _Binding) -> None:
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(home / "base.json", json.dumps(asdict(binding), indent=2) + "\n")
    except OSError as error:
        raise BaseModelError(
            f"VOTETUNE_HOME={home} can't be written ({error.strerror}): name a folder that can be."
        ) from None
