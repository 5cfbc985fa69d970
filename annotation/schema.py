"""The frozen types that every module speaks. Owns what a valid prompt, pair and vote is.

Knows no storage, no model and no page. `a`/`b` are the sides that a voter saw; `chosen` and
`rejected` come into being in one place, `Pair.resolve`.
"""

import hashlib
import json
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal

Finish = Literal["stop", "length"]
"""How an answer ended: by its own end of turn, or cut at the token limit of its sampling."""

AnonymousVotes = Literal["count", "store", "refuse"]
"""What a vote without sign-in is worth; `store` keeps it and does not count it."""

PairStrategy = Literal["random", "edit_distance", "mixed"]
ChosenBy = Literal["random", "edit_distance"]
"""By what the two answers of a pair are chosen among those drawn (annotation/choosing.py); `mixed`
takes turns, and each pair says which it was.
"""

EVAL_PERCENT = 20
"""Share of prompts, by hash, that are kept for evaluation and never exported."""


class Split(StrEnum):
    TRAIN = "train"
    EVAL = "eval"


class Choice(StrEnum):
    """What a voter pressed, in terms of the sides shown to that voter."""

    A = "a"
    B = "b"
    TIE = "tie"
    BOTH_BAD = "both_bad"
    SKIP = "skip"


class Reason(StrEnum):
    CORRECT = "correct"
    CLEAR = "clear"
    SAFE = "safe"
    STYLE = "style"


class PairKind(StrEnum):
    """Where a pair comes from. Only `pool` and `own` are ever exported or trained on.

    `own` is a prompt that a voter asked, `compare` an eval prompt answered by two models, `tried`
    a prompt that a voter asked two models blind, for that voter's own eyes and no figure at all,
    `gold` one whose better side is known, `repeat` a pair shown once more to the same voter with
    its sides swapped. The last three are never public, and Argilla never gets them.
    """

    POOL = "pool"
    OWN = "own"
    COMPARE = "compare"
    TRIED = "tried"
    GOLD = "gold"
    REPEAT = "repeat"


class VoteSource(StrEnum):
    """Where a vote was cast; `synthetic` votes come from scripted voters and say so everywhere."""

    PAGE = "page"
    ARGILLA = "argilla"
    SYNTHETIC = "synthetic"


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str

    def __post_init__(self) -> None:
        if self.role not in ("system", "user", "assistant"):
            raise ValueError(
                f"Message role {self.role!r} is unknown: use system, user or assistant."
            )


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that ends with the user's turn; equal prompts have equal ids."""

    messages: tuple[Message, ...]

    def __post_init__(self) -> None:
        if not self.messages or self.messages[-1].role != "user":
            raise ValueError("A prompt must end with a user message.")
        if not self.messages[-1].content.strip():
            raise ValueError("A prompt must not be empty.")

    @classmethod
    def from_text(cls, text: str) -> "Prompt":
        return cls((Message("user", text.strip()),))

    @property
    def id(self) -> str:
        """First 16 hex digits of the sha256 of the NFC, whitespace-folded messages."""
        folded = [
            [m.role, " ".join(unicodedata.normalize("NFC", m.content).split())]
            for m in self.messages
        ]
        canonical = json.dumps(folded, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def split(self) -> Split:
        """By hash alone, so that a prompt never changes sides when others come or go."""
        return Split.EVAL if int(self.id[:8], 16) % 100 < EVAL_PERCENT else Split.TRAIN


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model by name and commit. `adapter` is None for the base itself.

    `base` is a Hub id, a local folder's path or "starter"; `adapter` a run id or a Hub id.
    Revisions are commits of the Hub, or the sha256 of the weights where there is no Hub.
    """

    base: str
    base_revision: str
    adapter: str | None = None
    adapter_revision: str | None = None

    @property
    def label(self) -> str:
        name, revision = (
            (self.adapter, self.adapter_revision)
            if self.adapter
            else (self.base, self.base_revision)
        )
        return f"{name}@{revision[:8]}" if revision else str(name)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a completion was drawn. `seed` is that of the batch it was drawn in.

    `chosen_by` is what chose it for its pair among the answers drawn.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    seed: int = 0
    chosen_by: ChosenBy = "random"


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of one model. `finish` is "length" when it was cut at `max_new_tokens`."""

    text: str
    model: ModelRef
    sampling: Sampling
    finish: Finish = "stop"


@dataclass(frozen=True, slots=True)
class Preference:
    """A decided vote on a pair."""

    chosen: Completion
    rejected: Completion


@dataclass(frozen=True, slots=True)
class Pair:
    """Two different, non-empty completions of one prompt, in the order of the Argilla record.

    A pair `only_for` a voter is given to nobody else. `author` is who asked an own prompt,
    `repeats` the id of the pair that a repeat shows again, `expected` the better side of a gold
    pair, in the record's order.
    """

    id: str
    prompt: Prompt
    completions: tuple[Completion, Completion]
    created_at: datetime
    kind: PairKind = PairKind.POOL
    only_for: str | None = None
    author: str | None = None
    repeats: str | None = None
    expected: Choice | None = None

    def __post_init__(self) -> None:
        first, second = (c.text.strip() for c in self.completions)
        if not first or not second:
            raise ValueError(f"Pair {self.id} has an empty completion: draw it again.")
        if first == second:
            raise ValueError(f"Pair {self.id} has two equal completions: draw one again.")
        if (self.kind is PairKind.GOLD) != (self.expected in (Choice.A, Choice.B)):
            raise ValueError(f"Pair {self.id}: a gold pair, and no other, has a better side.")
        if self.kind is PairKind.TRIED and self.only_for is None:
            raise ValueError(f"Pair {self.id}: what a voter tried is for that voter only.")
        if (self.kind is PairKind.REPEAT) != (self.repeats is not None):
            raise ValueError(f"Pair {self.id}: a repeat, and no other, names the pair it repeats.")

    @property
    def is_public(self) -> bool:
        """Whether anybody may see it, Argilla included: no check, nothing tried or waiting."""
        private = (PairKind.GOLD, PairKind.REPEAT, PairKind.TRIED)
        return self.kind not in private and self.only_for is None

    def shown(self, flipped: bool) -> tuple[Completion, Completion]:
        """The completions as sides (a, b) for a voter whose sides are `flipped` or not."""
        first, second = self.completions
        return (second, first) if flipped else (first, second)

    def resolve(self, choice: Choice, flipped: bool) -> Preference | None:
        """Turn a/b into chosen and rejected; None for tie, both_bad and skip."""
        a, b = self.shown(flipped)
        if choice is Choice.A:
            return Preference(chosen=a, rejected=b)
        if choice is Choice.B:
            return Preference(chosen=b, rejected=a)
        return None


@dataclass(frozen=True, slots=True)
class Vote:
    """One voter's choice on one pair. A superseded vote stays, with the time it was undone.

    `flipped` is True when the voter's side a was `pair.completions[1]`. `revision` grows with
    every change (reasons, comment, undo), so that a delivery can tell which state it delivered.
    `why` says in plain words why a vote does not count, and is None for one that does.
    `issued_at` is when the voter was given the pair. `set_aside` says why the owner has set the
    voter's votes aside, which can be taken back at any time; None where they are not.
    """

    id: str
    pair_id: str
    voter: str
    choice: Choice
    flipped: bool
    created_at: datetime
    reasons: tuple[Reason, ...] = ()
    comment: str = ""
    source: VoteSource = VoteSource.PAGE
    superseded_at: datetime | None = None
    counted: bool = True
    why: str | None = None
    revision: int = 1
    issued_at: datetime | None = None
    set_aside: str | None = None

    @property
    def counts(self) -> bool:
        """Whether it is part of any figure or dataset: live, counted and not set aside."""
        return self.counted and self.set_aside is None and self.superseded_at is None

    @property
    def record_choice(self) -> Choice:
        """The choice in the record's own order, as Argilla stores it."""
        if self.flipped and self.choice in (Choice.A, Choice.B):
            return Choice.B if self.choice is Choice.A else Choice.A
        return self.choice


@dataclass(frozen=True, slots=True)
class PreferenceExample:
    """One row of the preference dataset: what the majority of the counted votes preferred.

    `agreement` is the share of a pair's decided votes that agree with the majority, 0.5–1. A
    `finish` of "length" says that the answer was cut, so that its end teaches nothing.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    pair_id: str
    votes: int
    agreement: float
    chosen_model: ModelRef
    rejected_model: ModelRef
    chosen_finish: Finish = "stop"
    rejected_finish: Finish = "stop"
