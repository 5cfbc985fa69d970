"""The folder `home/bakeoffs/<id>/` of a bake-off, its state and its rows. Starts no process."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from alignment.places.place import Handle
from alignment.runs.recipes import Method
from alignment.runs.run_store import hold_lock
from annotation.home import write_private
from annotation.schema import Message, ModelRef, Prompt


@dataclass(frozen=True, slots=True)
class Rate:
    """A win rate over `n` prompts, ties half; `margin` is half of its 95 % interval."""

    value: float
    margin: float
    n: int

    @property
    def low(self) -> float:
        return self.value - self.margin

    @property
    def high(self) -> float:
        return self.value + self.margin


@dataclass(frozen=True, slots=True)
class Row:
    """How one method did. What nobody can judge here is None, never a number.

    `win_rate` is against the base, `over_sft` against the SFT run on the same prompts. `words` is
    the mean length of an answer; `correct` and `well_formed` are shares that the starter's judge
    knows. `reward_accuracy` is on `eval_pairs` held-out pairs.
    """

    method: str
    run_id: str | None
    win_rate: Rate | None
    over_sft: Rate | None
    words: float
    correct: float | None = None
    well_formed: float | None = None
    reward_accuracy: float | None = None
    eval_pairs: int = 0
    seconds: float | None = None
    peak_memory_bytes: int | None = None

    @property
    def verdict(self) -> str:
        """In plain words, whether it beats the baseline; an interval around ½ decides nothing."""
        if self.run_id is None:
            return "where all start"
        if self.method == "sft":
            return "the baseline"
        if self.over_sft is None:
            return "needs blind votes"
        if self.over_sft.low > 0.5:
            return "beats SFT"
        return "behind SFT" if self.over_sft.high < 0.5 else "level with SFT"


class BakeoffState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Bakeoff:
    """What bakeoff.json says. `runs` are the runs begun so far, `rows` come at the end: the base
    first. `judge` names who compared the answers, None where nobody could.
    """

    id: str
    created_at: datetime
    base: ModelRef
    base_path: Path
    is_starter: bool
    dataset_sha256: str
    examples: int
    min_examples: int
    seed: int
    steps: int | None
    prompts: int
    state: BakeoffState = BakeoffState.RUNNING
    runs: tuple[tuple[Method, str], ...] = ()
    judge: str | None = None
    rows: tuple[Row, ...] = ()
    reason: str | None = None
    pid: int | None = None
    process_started: float | None = None

    @property
    def is_active(self) -> bool:
        return self.state is BakeoffState.RUNNING

    @property
    def handle(self) -> Handle:
        return Handle(self.pid, self.process_started)


@dataclass(frozen=True, slots=True)
class BakeoffFolder:
    """The files of one bake-off."""

    path: Path

    @property
    def file(self) -> Path:
        return self.path / "bakeoff.json"

    @property
    def dataset(self) -> Path:
        return self.path / "dataset"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def home(self) -> Path:
        return self.path.parent.parent

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Alone among all processes of this home."""
        with hold_lock(self.path.parent):
            yield

    def write(self, bakeoff: Bakeoff) -> None:
        row = asdict(bakeoff) | {"base_path": str(bakeoff.base_path)}
        write_private(self.file, json.dumps(row, indent=2, default=str) + "\n")

    def read(self) -> Bakeoff:
        row = json.loads(self.file.read_text(encoding="utf-8"))
        return Bakeoff(
            **row
            | {
                "created_at": datetime.fromisoformat(row["created_at"]),
                "base": ModelRef(**row["base"]),
                "base_path": Path(row["base_path"]),
                "state": BakeoffState(row["state"]),
                "runs": tuple((method, run_id) for method, run_id in row["runs"]),
                "rows": tuple(_row(found) for found in row["rows"]),
            }
        )

    def change(self, **fields: Any) -> Bakeoff:
        """Write what changed; the caller holds the lock."""
        changed = replace(self.read(), **fields)
        self.write(changed)
        return changed

    def write_prompts(self, prompts: Sequence[Prompt]) -> None:
        lines = (json.dumps([asdict(m) for m in p.messages], ensure_ascii=False) for p in prompts)
        text = "".join(f"{line}\n" for line in lines)
        (self.path / "prompts.jsonl").write_text(text, encoding="utf-8")

    def prompts(self) -> list[Prompt]:
        text = (self.path / "prompts.jsonl").read_text(encoding="utf-8")
        turns = (json.loads(line) for line in text.split("\n") if line)
        return [Prompt(tuple(Message(**turn) for turn in messages)) for messages in turns]


def _row(found: dict[str, Any]) -> Row:
    rates = {
        name: Rate(**found[name]) if found[name] else None for name in ("win_rate", "over_sft")
    }
    return Row(**found | rates)
