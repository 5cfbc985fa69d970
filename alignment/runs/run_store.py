"""The folder of a training run: spec, state and metrics on disk, and which states may follow which.

Owns the files of `home/runs/<id>/` and the lock under which a state changes; both the app and the
training child write states, always through `RunFolder.move`. Starts and stops no process.
"""

import contextlib
import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from alignment.runs.recipes import Recipe, Start, TrainingSpec
from annotation.faults import Fault
from annotation.schema import ModelRef, utc_now
from annotation.whole_files import write_whole

COMPLETE = "complete"
"""Marks a checkpoint that was written to its end."""


class RunError(Fault):
    """A run that can't be started, found or stopped; the message is the one line to read."""


class RunState(StrEnum):
    QUEUED = "queued"
    PREPARING = "preparing"
    TRAINING = "training"
    EVALUATING = "evaluating"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


_ENDS = frozenset({RunState.FAILED, RunState.CANCELLED, RunState.INTERRUPTED})
NEXT_STATES: Mapping[RunState, frozenset[RunState]] = {
    RunState.QUEUED: _ENDS | {RunState.PREPARING},
    RunState.PREPARING: _ENDS | {RunState.TRAINING},
    RunState.TRAINING: _ENDS | {RunState.EVALUATING},
    RunState.EVALUATING: _ENDS | {RunState.DONE},
    RunState.DONE: frozenset(),
    RunState.FAILED: frozenset({RunState.QUEUED}),
    RunState.CANCELLED: frozenset({RunState.QUEUED}),
    RunState.INTERRUPTED: frozenset({RunState.QUEUED}),
}
ACTIVE = frozenset({RunState.QUEUED, RunState.PREPARING, RunState.TRAINING, RunState.EVALUATING})


@dataclass(frozen=True, slots=True)
class AnswerFigures:
    """What a finished run's model and its base answered to prompts that were held out.

    Means over `answers` of each: `tokens` long, the share of 4-grams said before. `kl_per_token` is
    KL(model ‖ base) in nats, `kl_error` its standard error (alignment.training.watch.answers); None
    for a single answer.
    """

    answers: int
    tokens: float
    base_tokens: float
    repetition: float
    base_repetition: float
    kl_per_token: float
    kl_error: float | None


@dataclass(frozen=True, slots=True)
class FinalMetrics:
    """How a finished run ended. The `eval_` figures are on held-out pairs, None without any.

    `reward_accuracy` is the share of pairs whose chosen answer has the higher reward. `steps` were
    taken; the weights, and these figures, are those of `kept_step`: the last, or the best scored
    one of a run that was stopped early. `tokens_per_s` leaves scoring and samples out. SFT's steps
    have no rewards. `left_out` pairs were not trained on, because the run's sift ranked them
    against their vote; None for a run without a sift. `answered` is None where the answers could
    not be measured.
    """

    loss: float
    reward_accuracy: float | None
    reward_margin: float | None
    seconds: float
    eval_pairs: int = 0
    eval_loss: float | None = None
    eval_reward_accuracy: float | None = None
    eval_reward_margin: float | None = None
    steps: int | None = None
    stopped_early: bool = False
    kept_step: int | None = None
    peak_memory_bytes: int | None = None
    disk_bytes: int | None = None
    tokens_per_s: float | None = None
    left_out: int | None = None
    answered: AnswerFigures | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """What state.json says. `process_started` is psutil's create_time of `pid`, in seconds.

    `job` is the Hub's id of a run that trains there. `recoveries` counts how often an app's start
    went on with it, since a person last did. `kernel_kills` is how many processes the machine's
    kernel had killed for want of memory when the process began.
    """

    state: RunState
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None = None
    step: int = 0
    reason: str | None = None
    pid: int | None = None
    process_started: float | None = None
    job: str | None = None
    recoveries: int = 0
    kernel_kills: int | None = None
    cancel_requested: bool = False
    final: FinalMetrics | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """One optimizer step. Log-probs are sums over a completion in DPO, means per token in ORPO.

    The `eval_` figures are on the held-out pairs, at the steps where those were scored;
    `sample_tokens` is the mean length of that step's samples. `seconds` have passed since the
    first step began, over all the children that a resumed run had.
    """

    step: int
    loss: float
    reward_margin: float | None = None
    reward_accuracy: float | None = None
    chosen_logps: float | None = None
    rejected_logps: float | None = None
    grad_norm: float | None = None
    learning_rate: float | None = None
    eval_loss: float | None = None
    eval_reward_accuracy: float | None = None
    eval_reward_margin: float | None = None
    sample_tokens: float | None = None
    tokens_per_s: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """What the model in training answers to one of the run's fixed prompts after `step` steps."""

    step: int
    prompt: str
    completion: str
    tokens: int


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of one run, by name. Making one touches nothing on disk."""

    path: Path

    @property
    def spec_file(self) -> Path:
        return self.path / "spec.json"

    @property
    def state_file(self) -> Path:
        return self.path / "state.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def samples_file(self) -> Path:
        return self.path / "samples.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def dataset(self) -> Path:
        return self.path / "dataset"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def start(self) -> Path:
        """A copy of the tuned weights that the run goes on from; gone once it has ended well."""
        return self.checkpoints / "start"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def merged(self) -> Path:
        """The base with the adapter merged into it, once somebody asked for that."""
        return self.path / "merged"

    @property
    def weights(self) -> Path:
        """What a finished run left: its whole model if it was tuned in full, else its adapter."""
        return self.model if self.model.is_dir() else self.adapter

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Alone among all processes of this home; the kernel lets go of it when one dies."""
        with hold_lock(self.path.parent):
            yield

    def disk_bytes(self) -> int:
        """What the run's files take now."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    def write_spec(self, spec: TrainingSpec) -> None:
        _write_json(self.spec_file, asdict(spec) | {"base_path": str(spec.base_path)})

    def spec(self) -> TrainingSpec:
        row = json.loads(self.spec_file.read_text(encoding="utf-8"))
        return TrainingSpec(
            **row
            | {
                "start": start_of(row),
                "recipe": Recipe(**row["recipe"]),
                "base": ModelRef(**row["base"]),
                "base_path": Path(row["base_path"]),
                "versions": tuple((name, version) for name, version in row["versions"]),
            }
        )

    def write_status(self, status: Status) -> None:
        _write_json(self.state_file, asdict(status))

    def status(self) -> Status:
        row = json.loads(self.state_file.read_text(encoding="utf-8"))
        finished, final = row["finished_at"], row["final"]
        return Status(
            **row
            | {
                "state": RunState(row["state"]),
                "created_at": datetime.fromisoformat(row["created_at"]),
                "updated_at": datetime.fromisoformat(row["updated_at"]),
                "finished_at": datetime.fromisoformat(finished) if finished else None,
                "final": _final(final) if final else None,
            }
        )

    def move(
        self, state: RunState, *, reason: str | None = None, final: FinalMetrics | None = None
    ) -> Status:
        """Enter `state` if it may follow the present one; the caller holds the lock.

        Raises RunError for a transition that `NEXT_STATES` does not have.
        """
        present = self.status()
        if state not in NEXT_STATES[present.state]:
            raise RunError(f"Run {self.path.name} is {present.state} and can't become {state}.")
        now = utc_now()
        ended = state not in ACTIVE
        status = replace(
            present,
            state=state,
            updated_at=now,
            finished_at=now if ended else None,
            reason=reason,
            final=final,
        )
        self.write_status(status)
        return status

    def metrics(self) -> list[Metric]:
        """One metric a step, in order. A line that is still being written is left for later."""
        return _read_lines(self.metrics_file, Metric)

    def write_metrics(self, metrics: Sequence[Metric]) -> None:
        """Put `metrics` in place of those that are there."""
        _write_lines(self.metrics_file, metrics)

    def keep_metrics(self, through_step: int) -> None:
        """Forget steps after `through_step`: a resumed run takes them again."""
        self.write_metrics([m for m in self.metrics() if m.step <= through_step])

    def append_metric(self, metric: Metric) -> None:
        with self.metrics_file.open("a", encoding="utf-8") as out:
            out.write(_to_line(metric))

    def samples(self) -> list[Sample]:
        """Every sample so far, in order of steps, the same prompts each time."""
        return _read_lines(self.samples_file, Sample)

    def write_samples(self, samples: Sequence[Sample]) -> None:
        """Put `samples` in place of those that are there."""
        _write_lines(self.samples_file, samples)

    def keep_samples(self, through_step: int) -> None:
        """Forget samples after `through_step`: a resumed run takes them again."""
        if self.samples_file.exists():
            self.write_samples([s for s in self.samples() if s.step <= through_step])

    def append_samples(self, samples: Sequence[Sample]) -> None:
        with self.samples_file.open("a", encoding="utf-8") as out:
            out.write("".join(map(_to_line, samples)))

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint that was written to its end."""
        whole = [c.parent for c in self.checkpoints.glob(f"checkpoint-*/{COMPLETE}")]
        return max(whole, key=lambda path: int(path.name.split("-")[1]), default=None)


def start_of(row: Mapping[str, Any]) -> Start | None:
    """What the spec of `row` goes on from; None for the base, and in specs from before there was
    a choice.
    """
    start = row.get("start")
    return Start(**start | {"model": ModelRef(**start["model"])}) if start else None


def _final(row: Mapping[str, Any]) -> FinalMetrics:
    answered = row.get("answered")
    return FinalMetrics(**{**row, "answered": AnswerFigures(**answered) if answered else None})


@contextlib.contextmanager
def hold_lock(runs: Path) -> Iterator[None]:
    """Hold `runs`/.lock, which guards every state of a home."""
    with (runs / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


_Row = TypeVar("_Row", Metric, Sample)


def _read_lines(file: Path, kind: type[_Row]) -> list[_Row]:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    found: list[_Row] = []
    for line in text.split("\n"):
        # Only the last line can be half there; it does not parse, or lacks fields.
        with contextlib.suppress(ValueError, TypeError):
            found.append(kind(**json.loads(line)))
    return found


def _write_lines(file: Path, rows: Sequence[Metric] | Sequence[Sample]) -> None:
    write_whole(file, "".join(map(_to_line, rows)))


def _to_line(row: Metric | Sample) -> str:
    return json.dumps(asdict(row)) + "\n"


def _write_json(file: Path, row: Mapping[str, object]) -> None:
    write_whole(file, json.dumps(row, indent=2, default=_plain) + "\n")


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
