"""What the data doctor says: findings, the tokens of a few examples, and advice, as plain data.

Owns the report and its JSON, which crosses from the command to the page. Examines nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from alignment.runs.recipes import TrainingOptions
from annotation.faults import Fault

Level = Literal["ok", "note", "warning", "blocking"]
LEVELS: tuple[Level, ...] = get_args(Level)
"""From harmless to what a run is refused for."""

Role = Literal["template", "text", "end"]
"""What wrote a token: the chat template, a person or a model, or the end of the turn."""


class DiagnosisError(Fault):
    """A report that can't be read; the message is the one line that a person reads."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: `meaning` says what it means, `advice` what to do.

    `value` is the figure behind it and `low`–`high` its 95 % interval, where it has one; shares
    are 0 to 1. `advice` begins small, ends without a stop, and is empty where there is nothing to
    do.
    """

    kind: str
    level: Level
    title: str
    meaning: str
    advice: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def line(self) -> str:
        """Title and advice in one line, for an error."""
        return f"{self.title}: {self.advice}." if self.advice else f"{self.title}."


@dataclass(frozen=True, slots=True)
class TokenPiece:
    """One token as the model sees it. `counts` says whether the loss looks at it."""

    id: int
    text: str
    role: Role
    counts: bool


@dataclass(frozen=True, slots=True)
class ExampleTokens:
    """One example in tokens. Chosen and rejected follow the same prompt, each on its own.

    `chosen_cut` and `rejected_cut` say that the answer has no end of turn: it did not fit, or it
    was cut at the token limit when it was sampled.
    """

    pair_id: str
    prompt: tuple[TokenPiece, ...]
    chosen: tuple[TokenPiece, ...]
    rejected: tuple[TokenPiece, ...]
    chosen_cut: bool
    rejected_cut: bool


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found before a run, the worst first, and what the doctor would ask of the run.

    `advised` is what one button may start, `reasons` why, a sentence each. `max_length` is in
    tokens, the limit that examples were cut at; None where no tokenizer was at hand.
    """

    base: str
    dataset_sha256: str
    examples: int
    findings: tuple[Finding, ...]
    advised: TrainingOptions
    reasons: tuple[str, ...]
    max_length: int | None = None
    tokens: tuple[ExampleTokens, ...] = ()

    @property
    def blocking(self) -> tuple[Finding, ...]:
        """What a run is refused for."""
        return self.at("blocking")

    @property
    def worst(self) -> Level:
        return max((f.level for f in self.findings), key=LEVELS.index, default="ok")

    def at(self, level: Level) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.level == level)

    def finding(self, kind: str) -> Finding | None:
        return next((f for f in self.findings if f.kind == kind), None)

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Diagnosis":
        """What `to_json` wrote. Raises DiagnosisError for anything else."""
        try:
            row = json.loads(text)
            return cls(
                **row
                | {
                    "findings": tuple(Finding(**finding) for finding in row["findings"]),
                    "advised": TrainingOptions(**row["advised"]),
                    "reasons": tuple(row["reasons"]),
                    "tokens": tuple(_example(example) for example in row["tokens"]),
                }
            )
        except (ValueError, TypeError, KeyError) as error:
            raise DiagnosisError(
                f"The doctor's report can't be read ({type(error).__name__}): "
                "run `python app.py doctor` in a terminal to see why."
            ) from error


def _example(row: Mapping[str, Any]) -> ExampleTokens:
    sides = {
        side: tuple(TokenPiece(**piece) for piece in row[side])
        for side in ("prompt", "chosen", "rejected")
    }
    return ExampleTokens(**{**row, **sides})
