"""The only reader of this side's environment: home, address, prompts, Argilla, votes wanted.

Read once at start and passed on by constructor. Knows nothing of models.
"""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from annotation.faults import Fault
from annotation.schema import AnonymousVotes, PairStrategy


class SettingsError(Fault):
    """A variable that cannot be used; the message is the one line that a person reads."""


SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def load_settings(kind: type[SettingsT]) -> SettingsT:
    """Read `kind` from the environment, or raise SettingsError naming variable, value and remedy.

    An empty variable counts as unset. The value of a secret is never repeated.
    """
    try:
        return kind()
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).upper() if first["loc"] else ""
        reason = first["msg"].removeprefix("Value error, ")
        if not name:
            raise SettingsError(reason) from None
        field = kind.model_fields[name.lower()]
        is_secret = "Secret" in str(field.annotation)
        # An address may hold a password, which is no less a secret.
        shown = (
            "(hidden)" if is_secret else re.sub("//[^/@]*@", "//(hidden)@", repr(first["input"]))
        )
        wanted = field.description or "another value"
        raise SettingsError(f"{name}={shown} can't be used ({reason}): set {wanted}.") from None


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an http(s) address")
    return value.rstrip("/")


def _host(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", value):
            raise ValueError("not a host name or address") from None
    return value


def _argilla_name(value: str) -> str:
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_-]*", value):
        raise ValueError("not a name")
    return value


def _repo(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}", value):
        raise ValueError("not a repository")
    return value


def _licence(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 .+-]{0,63}", value):
        raise ValueError("not a licence")
    return value


def _long_secret(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value()) < 32:
        raise ValueError("too short")
    return value


def _default_host(known: dict[str, object]) -> str:
    # A Space's proxy reaches the app from outside the container.
    return "0.0.0.0" if known["system"] == "spaces" else "127.0.0.1"  # noqa: S104


def check_sign_in(settings: "AnnotationSettings") -> None:
    """Raise SettingsError where people sign in and no secret of the owner's signs their cookies.

    Asked where the app is served; commands need no cookie.
    """
    if settings.oauth_client_id and settings.cookie_secret is None:
        raise SettingsError(
            "COOKIE_SECRET is not set, and people sign in here (OAUTH_CLIENT_ID is set): set it "
            "to 32 random characters or more, on a Space as a secret."
        )


HttpUrl = Annotated[str, AfterValidator(_http_url)]
ArgillaName = Annotated[str, AfterValidator(_argilla_name)]


class SpaceEnvironment(BaseSettings):
    """What a Space's own settings page gave the app, unchecked: it must be readable when wrong."""

    model_config = SettingsConfigDict(env_ignore_empty=True, frozen=True, extra="ignore")

    system: str | None = None
    space_id: str | None = None
    space_author_name: str | None = None
    admin_users: str | None = None
    gradio_server_port: str | None = None
    oauth_client_id: str | None = None
    cookie_secret: SecretStr | None = None
    hf_token: SecretStr | None = None
    votes_repo: str | None = None
    argilla_api_url: str | None = None
    argilla_api_key: SecretStr | None = None
    generation_url: str | None = None
    generation_api_key: SecretStr | None = None

    @property
    def on_space(self) -> bool:
        return self.system == "spaces"


class AnnotationSettings(BaseSettings):
    """Where things are kept, where the app listens, what is asked and where votes go."""

    model_config = SettingsConfigDict(env_ignore_empty=True, frozen=True, extra="ignore")

    system: str | None = Field(None, description='"spaces", which a Space sets itself')
    space_host: str | None = Field(None, description="a host name, which a Space sets itself")
    oauth_client_id: str | None = Field(None, description="the id of an OAuth app")
    oauth_client_secret: SecretStr | None = Field(None, description="that app's secret")
    oauth_scopes: str = Field("openid profile", description="scopes such as openid profile")
    openid_provider_url: HttpUrl = Field(
        "https://huggingface.co", description="an address such as https://huggingface.co"
    )
    votetune_home: Path = Field(Path(".votetune"), description="a folder that can be written")
    gradio_server_name: Annotated[str, AfterValidator(_host)] = Field(
        default_factory=_default_host, description="an address to listen on, such as 127.0.0.1"
    )
    gradio_server_port: int = Field(7860, ge=1, le=65535, description="a port from 1 to 65535")
    prompts: str | None = Field(
        None, description="a .txt, .jsonl, .csv or .parquet file, or a Hub dataset id"
    )
    votes_per_pair: int = Field(1, ge=1, le=100, description="a whole number from 1 to 100")
    pair_strategy: PairStrategy = Field("random", description="random, edit_distance or mixed")
    argilla_api_url: HttpUrl | None = Field(
        None, description="an address such as http://127.0.0.1:6900"
    )
    argilla_api_key: SecretStr | None = Field(None, description="an owner's API key")
    anonymous_votes: AnonymousVotes = Field("count", description="count, store or refuse")
    cookie_secret: Annotated[SecretStr, AfterValidator(_long_secret)] | None = Field(
        None, description="a random text of 32 characters or more"
    )
    repeat_share: float = Field(0.0, ge=0, le=0.5, description="a share from 0 to 0.5")
    gold_pairs: Path | None = Field(
        None, description='a .jsonl file of {"prompt", "better", "worse"}'
    )
    gold_share: float = Field(0.1, ge=0, le=0.5, description="a share from 0 to 0.5")
    compare_share: float = Field(0.2, ge=0, le=0.5, description="a share from 0 to 0.5")
    own_prompts: Literal["open", "moderated", "off"] = Field(
        "open", description="open, moderated or off"
    )
    data_licence: Annotated[str, AfterValidator(_licence)] = Field(
        "Apache-2.0", description="the name of a licence, such as CC-BY-4.0"
    )
    votes_repo: Annotated[str, AfterValidator(_repo)] | None = Field(
        None, description="a dataset repository as owner/name"
    )
    hf_token: SecretStr | None = Field(None, description="a Hugging Face token")
    argilla_workspace: ArgillaName = Field("votetune", description="letters, digits, - and _")
    argilla_dataset: ArgillaName = Field("preferences", description="letters, digits, - and _")

    @property
    def forgets_at_restart(self) -> bool:
        """Whether votes are only on a Space's own disk, which a restart wipes."""
        kept_elsewhere = self.argilla_api_url or self.votes_repo
        return self.on_space and not kept_elsewhere

    @model_validator(mode="after")
    def _both_or_neither(self) -> "AnnotationSettings":
        if (self.argilla_api_url is None) != (self.argilla_api_key is None):
            have, want = (
                ("ARGILLA_API_URL", "ARGILLA_API_KEY")
                if self.argilla_api_url
                else ("ARGILLA_API_KEY", "ARGILLA_API_URL")
            )
            raise ValueError(f"{have} is set and {want} is not: set both, or neither.")
        return self

    @property
    def on_space(self) -> bool:
        """Whether this runs on a Space, whose pages the Hub frames."""
        return self.system == "spaces"

    @model_validator(mode="after")
    def _sign_in_is_whole(self) -> "AnnotationSettings":
        if (self.oauth_client_id is None) != (self.oauth_client_secret is None):
            have, want = (
                ("OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET")
                if self.oauth_client_id
                else ("OAUTH_CLIENT_SECRET", "OAUTH_CLIENT_ID")
            )
            raise ValueError(f"{have} is set and {want} is not: set both, or neither.")
        return self

    @model_validator(mode="after")
    def _backup_needs_a_token(self) -> "AnnotationSettings":
        if self.votes_repo and not self.hf_token:
            raise ValueError(
                "VOTES_REPO is set and HF_TOKEN is not: set a token that may write there, or unset "
                "it."
            )
        return self
