"""The only reader of this side's environment: base model, Hub, admin token, training floor.

Read once at start and passed on by constructor. The home folder belongs to annotation.settings.
"""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

DEFAULT_BASE_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
STARTER = "starter"


def _token(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[A-Za-z0-9_.~-]{16,200}", value.get_secret_value()):
        raise ValueError("not 16 to 200 letters, digits, or - _ . ~")
    return value


def _namespace(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", value):
        raise ValueError("not a user or organisation name")
    return value


def _revision(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._/-]{1,200}", value):
        raise ValueError("not a revision")
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
    hub_namespace: Annotated[str, AfterValidator(_namespace)] | None = Field(
        None, description="a Hugging Face user or organisation"
    )
    admin_token: Annotated[SecretStr, AfterValidator(_token)] | None = Field(
        None, description="16 to 200 letters, digits, or - _ . ~"
    )
    min_examples: int = Field(20, ge=2, description="a whole number of at least 2")
    generation_url: str | None = None

    @model_validator(mode="after")
    def _no_remote_generation_yet(self) -> "AlignmentSettings":
        # Refused rather than ignored: sampling from other weights than one expects is a trap.
        if self.generation_url:
            raise ValueError(
                "GENERATION_URL is not supported yet: unset it to sample from local weights."
            )
        return self
