"""`python app.py deploy`: this app on a Space, made or brought up to date.

Owns what goes there (files, variables, secrets by name), what stays here, and the plan that a
person reads before anything is changed. How the Hub is asked is `alignment.hub.space`'s.
"""

import re
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from alignment.hub.space import HeldSpace, NewSpace, SpaceError, SpaceHub
from alignment.settings import STARTER, AlignmentSettings
from annotation.hub.client import HubError, is_repo_id
from annotation.hub.commits import has_file, oids_of, put_files
from annotation.settings import AnnotationSettings

ROOT = Path(__file__).parent.parent.parent
FILES = ("app.py", "README.md", "LICENSE", "requirements.txt")
FOLDERS = ("alignment", "annotation")
MOUNT = "/data"
BUCKET_CACHE = {"HF_HUB_CACHE": f"{MOUNT}/hub"}
"""What a bucket is for: weights of the base survive a restart. SQLite would break on it."""
# Of this machine, of the Space's own, or about the deployment itself.
_HERE = frozenset(
    {
        *("system", "space_host", "space_author_name", "spaces_zero_gpu", "votetune_home"),
        *("gradio_server_name", "gradio_server_port", "oauth_client_id", "oauth_client_secret"),
        *("oauth_scopes", "openid_provider_url", "space_hf_token", "hf_token", "gold_pairs"),
        "accelerate_config",
    }
)
_ADDRESSES = ("argilla_api_url", "generation_url")
OPEN_PORTS = (80, 443, 8080)
"""Through which a Space reaches others."""


@dataclass(frozen=True, slots=True)
class DeployOptions:
    """What the command line asks for. `renew` names secrets to be set anew."""

    repo: str
    private: bool = False
    hardware: str | None = None
    bucket: str | None = None
    renew: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is to be changed, told by `lines` and done by `carry_out`. Secrets by name only."""

    hub: SpaceHub
    options: DeployOptions
    is_new: bool
    files: Mapping[str, bytes | Path]
    gone: tuple[str, ...]
    variables: Mapping[str, str]
    secrets: Mapping[str, str] = field(repr=False)
    hardware: str | None
    bucket: str | None
    notes: tuple[str, ...]
    token: str = field(repr=False)

    @property
    def changes_nothing(self) -> bool:
        return not (
            self.is_new
            or self.files
            or self.gone
            or self.variables
            or self.secrets
            or self.hardware
            or self.bucket
        )

    def lines(self) -> Iterator[str]:
        """The plan as a person reads it."""
        sight = "private" if self.options.private else "public"
        made = f"Make the {sight} Space" if self.is_new else "Update the Space"
        yield f"{made} {self.options.repo}:"
        if self.files:
            size_mb = sum(_size(content) for content in self.files.values()) / 1e6
            yield f"  files      {len(self.files)} to upload, {size_mb:.1f} MB: {_some(self.files)}"
        if self.gone:
            yield f"  gone       {len(self.gone)} files: {_some(self.gone)}"
        for name, value in self.variables.items():
            yield f"  variable   {name}={value} (public)"
        if self.secrets:
            yield f"  secrets    {', '.join(self.secrets)} (values are not shown)"
        if self.hardware:
            yield f"  hardware   {self.hardware}"
        if self.bucket:
            yield f"  bucket     {self.bucket}, private, mounted at {MOUNT}"
        for note in self.notes:
            yield f"  note       {note}"

    def carry_out(self, tell: Callable[[str], None]) -> str:
        """Do it, telling what is done; the Space's address. Raises SpaceError.

        What surrounds the files comes first: their upload is what starts the Space.
        """
        if self.is_new:
            self.hub.create(
                NewSpace(
                    repo=self.options.repo,
                    private=self.options.private,
                    variables=self.variables,
                    secrets=self.secrets,
                    hardware=self.hardware,
                    bucket=self.bucket,
                ),
                mount_path=MOUNT,
            )
            tell("The Space is made.")
        # Again where it is new: after a lost answer the Space may be there without them.
        self._set_surroundings()
        if self.files or self.gone:
            try:
                commit = put_files(
                    self.options.repo,
                    self.files,
                    kind="space",
                    message="Deploy Votetune",
                    token=self.token,
                    gone=self.gone,
                )
            except HubError as error:
                raise SpaceError(
                    f"The files of {self.options.repo} can't be uploaded: {error}: "
                    "run the command again."
                ) from None
            tell(f"Files uploaded, commit {commit[:12]}.")
        return f"https://huggingface.co/spaces/{self.options.repo}"

    def _set_surroundings(self) -> None:
        held = self.hub.load()
        if held is None:
            raise SpaceError(f"The Space {self.options.repo} is gone: run the command again.")
        for name, value in self.variables.items():
            if held.variables.get(name) != value:
                self.hub.set_variable(name, value)
        for name, value in self.secrets.items():
            if name not in held.secrets or name in self.options.renew:
                self.hub.set_secret(name, value)
        if self.hardware and held.hardware != self.hardware:
            self.hub.set_hardware(self.hardware)
        if self.bucket and (self.bucket, MOUNT) not in held.volumes:
            self.hub.make_bucket(self.bucket)
            self.hub.mount(self.bucket, MOUNT)


def plan_deployment(
    options: DeployOptions, annotation: AnnotationSettings, alignment: AlignmentSettings
) -> Deployment:
    """What `deploy` would do, everything checked that can be. Changes nothing.

    Raises SpaceError: a bad name, no token, one that may not write there, unknown hardware, a
    setting that only this machine can follow.
    """
    hub, token = _open(options, alignment)
    notes: list[str] = []
    if options.hardware:
        prices = hub.hardware_prices()
        if options.hardware not in prices:
            raise SpaceError(f"Hardware {options.hardware} is not known: use {', '.join(prices)}.")
        notes.append(f"{options.hardware} costs: {prices[options.hardware]}")
    held = hub.load()
    files = app_files(ROOT)
    set_there = held.variables if held else {}
    variables = _variables(options, annotation, alignment, files, notes, set_there)
    wanted = _secrets(annotation, alignment, token)
    _check_renewed(options.renew, wanted)
    return Deployment(
        hub=hub,
        options=options,
        is_new=held is None,
        files=_changed_files(files, held),
        gone=_gone_files(files, held),
        variables=_changed(variables, set_there),
        secrets=_unset(wanted, held.secrets if held else (), options.renew),
        hardware=options.hardware if held is None or held.hardware != options.hardware else None,
        bucket=_new_bucket(options.bucket, held),
        notes=tuple(notes),
        token=token,
    )


def app_files(root: Path) -> dict[str, bytes | Path]:
    """What of the folder the app runs from: its code, and the pictures that the README shows.

    No tests, no home, nothing hidden, nothing compiled.
    """
    readme = (root / "README.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^\]]*\]\(([^):]+)\)", readme)
    names = {*FILES, *(name for name in pictures if (root / name).is_file())}
    for folder in FOLDERS:
        for path in (root / folder).rglob("*"):
            parts = path.relative_to(root).parts
            if path.is_file() and not any(p.startswith(".") or p == "__pycache__" for p in parts):
                names.add(path.relative_to(root).as_posix())
    return {name: root / name for name in sorted(names)}


def _open(options: DeployOptions, alignment: AlignmentSettings) -> tuple[SpaceHub, str]:
    if not is_repo_id(options.repo) or "/" not in options.repo:
        raise SpaceError(f"{options.repo} is no name of a Space: use NAMESPACE/NAME.")
    if options.bucket and (not is_repo_id(options.bucket) or "/" not in options.bucket):
        raise SpaceError(f"{options.bucket} is no name of a bucket: use NAMESPACE/NAME.")
    if alignment.hf_token is None:
        raise SpaceError(
            "HF_TOKEN is not set: make one that may write at "
            "https://huggingface.co/settings/tokens and set it."
        )
    token = alignment.hf_token.get_secret_value()
    hub = SpaceHub(options.repo, token)
    hub.check_account()
    return hub, token


def _variables(
    options: DeployOptions,
    annotation: AnnotationSettings,
    alignment: AlignmentSettings,
    files: dict[str, bytes | Path],
    notes: list[str],
    set_there: Mapping[str, str],
) -> dict[str, str]:
    """The settings of this environment that a Space can follow; a file of prompts goes along.

    What the Space has already is not replaced by a default.
    """
    owner = options.repo.split("/", maxsplit=1)[0]
    found = _set_here(annotation) | _set_here(alignment)
    base = found.get("BASE_MODEL")
    if base and base != STARTER and Path(base).expanduser().is_dir():
        raise SpaceError(f"BASE_MODEL={base} is a folder here: name a model on the Hub.")
    prompts = found.get("PROMPTS")
    if prompts and (file := Path(prompts).expanduser()).is_file():
        found["PROMPTS"] = f"prompts/{file.name}"
        files[found["PROMPTS"]] = file
    if annotation.gold_pairs:
        found.pop("GOLD_SHARE", None)
        notes.append("GOLD_PAIRS stays here: in a Space's files everybody could read it")
    for name in _ADDRESSES:
        if name.upper() in found:
            _check_reachable(name.upper(), found[name.upper()])
    found.setdefault("HUB_NAMESPACE", set_there.get("HUB_NAMESPACE", owner))
    if annotation.argilla_api_url is None:
        default = set_there.get("VOTES_REPO", f"{options.repo}-votes")
        found.setdefault("VOTES_REPO", default)
    if repo := found.get("VOTES_REPO"):
        notes.append(f"votes are backed up to the dataset {repo}, private where it is new")
    if options.bucket:
        found |= BUCKET_CACHE
    return dict(sorted(found.items()))


def _set_here(settings: BaseSettings) -> dict[str, str]:
    """What of `settings` this environment sets, as its variables would be written; no secrets."""
    found = {}
    for name in settings.model_fields_set - _HERE:
        value = getattr(settings, name)
        if isinstance(value, bool):
            found[name.upper()] = str(value).lower()
        elif isinstance(value, frozenset):
            found[name.upper()] = ",".join(sorted(value))
        elif value is not None and not isinstance(value, SecretStr):
            found[name.upper()] = str(value)
    return found


def _check_reachable(name: str, url: str) -> None:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if parts.hostname in ("localhost", "127.0.0.1", "::1", "0.0.0.0"):  # noqa: S104
        raise SpaceError(f"{name} is on this machine, which a Space can't reach: set another.")
    if port not in OPEN_PORTS:
        raise SpaceError(
            f"{name} is on port {port}, and a Space reaches only "
            f"{', '.join(map(str, OPEN_PORTS))}: serve it on one of those."
        )


def _secrets(
    annotation: AnnotationSettings, alignment: AlignmentSettings, token: str
) -> dict[str, str]:
    """The Space's secrets by name; a cookie secret is made where this environment has none."""
    found = {
        name.upper(): value.get_secret_value()
        for settings in (annotation, alignment)
        for name in sorted(type(settings).model_fields)
        if name not in _HERE and isinstance(value := getattr(settings, name), SecretStr)
    }
    own = alignment.space_hf_token
    found["HF_TOKEN"] = own.get_secret_value() if own else token
    found.setdefault("COOKIE_SECRET", secrets.token_hex(32))
    return dict(sorted(found.items()))


def _check_renewed(renew: Collection[str], wanted: Mapping[str, str]) -> None:
    for name in renew:
        if name not in wanted:
            raise SpaceError(f"--renew {name}: there is no such secret: use {', '.join(wanted)}.")


def _unset(
    wanted: Mapping[str, str], held: Collection[str], renew: Collection[str]
) -> dict[str, str]:
    return {k: v for k, v in wanted.items() if k not in held or k in renew}


def _changed(wanted: Mapping[str, str], held: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in wanted.items() if held.get(name) != value}


def _changed_files(
    files: Mapping[str, bytes | Path], held: HeldSpace | None
) -> dict[str, bytes | Path]:
    if held is None:
        return dict(files)
    return {n: c for n, c in files.items() if not has_file(held.files, n, oids_of(c))}


def _gone_files(files: Mapping[str, bytes | Path], held: HeldSpace | None) -> tuple[str, ...]:
    """Files of an earlier version; what the owner put beside the app's folders stays."""
    there = () if held is None else held.files.files
    return tuple(
        file.name
        for file in there
        if file.name not in files and file.name.split("/", maxsplit=1)[0] in FOLDERS
    )


def _new_bucket(bucket: str | None, held: HeldSpace | None) -> str | None:
    mounted = held is not None and (bucket, MOUNT) in held.volumes
    return None if mounted else bucket


def _size(content: bytes | Path) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)


def _some(names: Collection[str]) -> str:
    first = list(names)[:4]
    return ", ".join(first) + (", …" if len(names) > len(first) else "")
