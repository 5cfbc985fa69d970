"""A Space as the Hub keeps it: its files, variables, secrets, machine and volume.

Owns what may be asked of the account that a token belongs to, what is there now, and how one
change is made, tried again while its trouble passes. Decides nothing: `commands.deploy` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import HfApi, SpaceHardware, Volume

from annotation.faults import Fault
from annotation.hub.client import HubError, RemoteRepo, Trouble, call_again, look_up

MAY_WRITE = frozenset({"admin", "write", "contributor"})
"""Roles in an organisation that may make repositories there."""


class SpaceError(Fault):
    """A Space that can't be made or changed; the message is the one line that a person reads."""


@dataclass(frozen=True, slots=True)
class HeldSpace:
    """What a Space holds now. Of secrets the Hub tells the names only."""

    files: RemoteRepo
    variables: Mapping[str, str]
    secrets: frozenset[str]
    hardware: str | None
    volumes: frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class NewSpace:
    """What a Space is made with, so that its first start finds everything."""

    repo: str
    private: bool
    variables: Mapping[str, str]
    secrets: Mapping[str, str] = field(repr=False)
    hardware: str | None
    bucket: str | None


class SpaceHub:
    """The Hub, asked with one token about one Space. Every method raises SpaceError."""

    def __init__(self, repo: str, token: str) -> None:
        self.repo = repo
        self._token = token
        self._api = HfApi(token=token)

    def check_account(self) -> None:
        """Refuse a token that is not valid or may not write in the Space's namespace."""
        who: dict[str, Any] = self._ask(self._api.whoami, "Hugging Face can't say who you are")
        owner = self.repo.split("/", maxsplit=1)[0]
        token = who.get("auth", {}).get("accessToken", {})
        roles = {org["name"].lower(): org.get("roleInOrg") for org in who.get("orgs", ())}
        if owner.lower() == who["name"].lower():
            pass
        elif owner.lower() not in roles:
            mine = ", ".join([who["name"], *sorted(roles)])
            raise SpaceError(f"{owner} is neither you nor an organisation of yours: use {mine}.")
        elif roles[owner.lower()] not in MAY_WRITE:
            raise SpaceError(
                f"Your role in {owner} is {roles[owner.lower()]}, which makes no Spaces: ask an "
                f"admin of {owner} for the role contributor."
            )
        if token.get("role") == "read":
            raise SpaceError(
                "HF_TOKEN may only read: make one that may write at "
                "https://huggingface.co/settings/tokens and set it."
            )
        if token.get("role") == "fineGrained" and not _may_write(token["fineGrained"], self.repo):
            raise SpaceError(
                f"HF_TOKEN may not write to repositories of {owner}: give the token that "
                "permission at https://huggingface.co/settings/tokens."
            )

    def hardware_prices(self) -> dict[str, str]:
        """The machines by name, and what each costs; those the client knows where none is told."""
        try:
            told = call_again(self._api.list_spaces_hardware, attempts=3)
        except HubError:
            return {str(machine.value): "price not told" for machine in SpaceHardware}
        return {m.name: _price(m.unit_cost_usd, m.unit_label) for m in told}

    def load(self) -> HeldSpace | None:
        """What is there; None where there is no such Space."""
        try:
            files = call_again(lambda: look_up(self.repo, None, token=self._token, kind="space"))
        except HubError as error:
            if error.trouble is Trouble.MISSING:
                return None
            raise self._error("can't be looked up", error) from None
        variables = self._ask(
            lambda: self._api.get_space_variables(self.repo), "tells no variables"
        )
        secrets = self._ask(lambda: self._api.get_space_secrets(self.repo), "tells no secrets")
        runtime = self._ask(lambda: self._api.get_space_runtime(self.repo), "tells no hardware")
        wanted = runtime.requested_hardware or runtime.hardware
        return HeldSpace(
            files=files,
            variables={name: held.value for name, held in variables.items()},
            secrets=frozenset(secrets),
            hardware=str(getattr(wanted, "value", wanted)) if wanted else None,
            volumes=frozenset((v.source, v.mount_path) for v in runtime.volumes or ()),
        )

    def create(self, new: NewSpace, *, mount_path: str) -> None:
        """Make the Space with all that surrounds its files; harmless where it is there."""
        if new.bucket:
            self.make_bucket(new.bucket)
        self._ask(
            lambda: self._api.create_repo(
                new.repo,
                repo_type="space",
                space_sdk="gradio",
                private=new.private,
                space_hardware=new.hardware,  # type: ignore[arg-type]
                space_secrets=_rows(new.secrets),
                space_variables=_rows(new.variables),
                space_volumes=[_volume(new.bucket, mount_path)] if new.bucket else None,
                exist_ok=True,
            ),
            "can't be made",
        )

    def set_variable(self, name: str, value: str) -> None:
        self._ask(lambda: self._api.add_space_variable(self.repo, name, value), f"refuses {name}")

    def set_secret(self, name: str, value: str) -> None:
        self._ask(lambda: self._api.add_space_secret(self.repo, name, value), f"refuses {name}")

    def set_hardware(self, name: str) -> None:
        self._ask(
            lambda: self._api.request_space_hardware(self.repo, name),  # type: ignore[arg-type]
            f"can't run on {name}",
        )

    def make_bucket(self, bucket: str) -> None:
        self._ask(
            lambda: self._api.create_bucket(bucket, private=True, exist_ok=True),
            f"can't have the bucket {bucket}",
        )

    def mount(self, bucket: str, mount_path: str) -> None:
        self._ask(
            lambda: self._api.set_space_volumes(self.repo, [_volume(bucket, mount_path)]),
            f"can't mount {bucket}",
        )

    def _ask(self, request: Any, what: str) -> Any:
        try:
            return call_again(request)
        except HubError as error:
            raise self._error(what, error) from None

    def _error(self, what: str, error: HubError) -> SpaceError:
        return SpaceError(f"The Space {self.repo} {what}: {error}.")


def _may_write(fine_grained: Mapping[str, Any], repo: str) -> bool:
    """Whether a fine-grained token may write to `repo`, or to whatever its owner has."""
    wide_enough = (repo.lower(), repo.lower().split("/", maxsplit=1)[0])
    return any(
        scope.get("entity", {}).get("name", "").lower() in wide_enough
        and "repo.write" in scope.get("permissions", ())
        for scope in fine_grained.get("scoped", ())
    )


def _price(usd: float, unit: str) -> str:
    if not usd:
        return "free"
    return f"{usd * 60:.2f} USD an hour" if unit == "minute" else f"{usd:g} USD a {unit}"


def _rows(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": name, "value": value} for name, value in values.items()]


def _volume(bucket: str, mount_path: str) -> Volume:
    return Volume(type="bucket", source=bucket, mount_path=mount_path)
