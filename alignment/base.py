"""Which base model this home speaks, at which commit, and where its files lie.

Owns the binding of a home to its base (`base.json`): votes belong to one base and are never
mixed silently. Refuses pickled weights and repositories that need their own code. Loads nothing.
"""

from dataclasses import dataclass
from pathlib import Path

from annotation.faults import Fault
from annotation.schema import ModelRef


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
