"""The only reader of this side's environment: base model, Hub, admin token, training floor.

Read once at start and passed on by constructor. The home folder belongs to annotation.settings.
"""

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

DEFAULT_BASE_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
STARTER = "starter"


def _token(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[A-Za-z0-9_.~-]{16,200}", value.get_secret_value()):
        raise ValueError("not 16 to 200 letters, digits, or - _ . ~")
    return value


def _users(value: object) -> object:
    names = [name.strip() for name in str(value).split(",") if name.strip()]
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", name):
            raise ValueError("not user names with commas between them")
    if not names:
        raise ValueError("no name")
    return frozenset(name.lower() for name in names)


def _namespace(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", value):
        raise ValueError("not a user or organisation name")
    return value


def _space(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}", value):
        raise ValueError("not a Space")
    return value


def _revision(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._/-]{1,200}", value):
        raise ValueError("not a revision")
    return value


def _config(value: Path) -> Path:
    try:
        with value.open("rb"):
            return value.absolute()
    except OSError as error:
        raise ValueError(f"not a readable file ({error.strerror})") from None


def _flavor(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", value):
        raise ValueError("not a machine's name")
    return value


def _duration(value: object) -> object:
    match = re.fullmatch(r"(\d+)([smh]?)", str(value))
    return int(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]] if match else value


def _chat_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an http(s) address")
    if parts.username or parts.query or parts.fragment:
        raise ValueError("more than an address")
    return value.rstrip("/")


def _key(value: SecretStr) -> SecretStr:
    # Anything else breaks the header that carries it, with the key in the error.
    if not re.fullmatch(r"[!-~]+", value.get_secret_value()):
        raise ValueError("not printable ASCII without spaces")
    return value


def split_served_names(text: str) -> dict[str, str]:
    """From "NAME, dpo-1=OTHER" to {"base": "NAME", "dpo-1": "OTHER"}."""
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    pairs = [entry.rpartition("=") for entry in entries]
    return {ours.strip() or "base": theirs.strip() for ours, _, theirs in pairs}


def _served_names(value: str) -> str:
    names = split_served_names(value)
    if not names or not all(names.values()) or len(names) < len(value.strip(", ").split(",")):
        raise ValueError("not a list of names")
    if len(set(names.values())) < len(names):
        raise ValueError("one name for two models")
    return value


class AlignmentSettings(BaseSettings):
    """Which base model, where aligned models go, and who may train.

    `base_model` is None when unset: then the default applies, and the starter model stands in
    where the hub cannot be reached. An explicit name never falls back.
    """

    model_config = SettingsConfigDict(env_ignore_empty=True, frozen=True, extra="ignore")

    base_model: str | None = Field(None, description='a Hub id, a local folder or "starter"')
    base_revision: Annotated[str, AfterValidator(_revision)] | None = Field(
        None, description="a commit, tag or branch of the base model"
    )
    hf_token: SecretStr | None = Field(None, description="a Hugging Face token")
    space_hf_token: SecretStr | None = Field(None, description="a Hugging Face token")
    hub_namespace: Annotated[str, AfterValidator(_namespace)] | None = Field(
        None, description="a Hugging Face user or organisation"
    )
    admin_token: Annotated[SecretStr, AfterValidator(_token)] | None = Field(
        None, description="16 to 200 letters, digits, or - _ . ~"
    )
    admin_users: Annotated[frozenset[str], NoDecode, BeforeValidator(_users)] | None = Field(
        None, description="Hub user names with commas between them, such as ada,grace"
    )
    space_author_name: Annotated[str, AfterValidator(_namespace)] | None = Field(
        None, description="a Hub name, which a Space sets itself"
    )
    min_examples: int = Field(20, ge=2, description="a whole number of at least 2")
    warm_trainer: bool = Field(True, description="true or false")
    accelerate_config: Annotated[Path, AfterValidator(_config)] | None = Field(
        None, description="an accelerate config file (YAML), as `accelerate config` writes it"
    )
    jobs_flavor: Annotated[str, AfterValidator(_flavor)] | None = Field(
        None, description="a machine of Hugging Face Jobs such as l4x1"
    )
    jobs_timeout: Annotated[int, BeforeValidator(_duration)] = Field(
        3600, ge=300, le=7 * 86400, description="seconds or 45m or 2h, from 5m to 168h"
    )
    trackio_project: Annotated[str, AfterValidator(_namespace)] | None = Field(
        None, description="a name of letters, digits, or - _ ."
    )
    trackio_space_id: Annotated[str, AfterValidator(_space)] | None = Field(
        None, description="a Space as owner/name"
    )
    spaces_zero_gpu: bool = Field(False, description="true or false, which a Space sets itself")
    generation_url: Annotated[str, AfterValidator(_chat_url)] | None = Field(
        None, description="an address such as http://127.0.0.1:8000/v1, the key apart"
    )
    generation_model: Annotated[str, AfterValidator(_served_names)] | None = Field(
        None, description="the server's name for BASE_MODEL, then RUN_ID=NAME after commas"
    )
    generation_api_key: Annotated[SecretStr, AfterValidator(_key)] | None = Field(
        None, description="the generation server's key"
    )
    generation_at_once: int = Field(8, ge=1, le=256, description="a whole number from 1 to 256")
    generation_per_minute: int | None = Field(
        None, ge=1, le=100_000, description="a whole number from 1 to 100000"
    )

    @property
    def served_names(self) -> dict[str, str]:
        """The generation server's names by ours, as GENERATION_MODEL gives them."""
        return split_served_names(self.generation_model or "")

    @model_validator(mode="after")
    def _generation_is_whole(self) -> "AlignmentSettings":
        if not self.generation_url:
            return self
        if self.base_model is None:
            raise ValueError(
                "GENERATION_URL needs BASE_MODEL, the model that its server answers with: "
                "votes belong to it, and training loads its weights here."
            )
        if "base" not in self.served_names and "/" not in self.base_model.strip("/."):
            raise ValueError(
                f"GENERATION_URL needs GENERATION_MODEL, the server's name for {self.base_model}."
            )
        return self

    @model_validator(mode="after")
    def _space_needs_project_and_token(self) -> "AlignmentSettings":
        if self.trackio_space_id and not (self.trackio_project and self.hf_token):
            raise ValueError(
                "TRACKIO_SPACE_ID needs TRACKIO_PROJECT and an HF_TOKEN that may write to the "
                "Space: set both, or unset it."
            )
        return self
