"""The models of a home by name: its base, adapters of finished runs, adapters pulled from the Hub.

An adapter is registered only if it names this home's base at its revision, as safetensors.
Loads no weights.
"""

from dataclasses import dataclass
from pathlib import Path

from alignment.base import BaseModelError, ResolvedBase
from annotation.schema import ModelRef

__all__ = ["BaseModelError", "RegisteredModel", "ResolvedBase"]


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A model that can be asked by name. `adapter_path` is None for the base itself."""

    name: str
    ref: ModelRef
    adapter_path: Path | None
