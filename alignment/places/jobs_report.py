"""What a job tells of its run through its log, and how that becomes the run's folder here.

Both ends of one wire. A row of metrics.jsonl, samples.jsonl or state.json is a log line that begins
with MARK; any other line is the log. The Hub replays a log from its start, so a row is taken once,
a metric by its step and a sample by step and prompt. What does not parse is left out.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import astuple, replace
from pathlib import Path

from alignment.runs.run_store import ACTIVE, Metric, RunFolder, RunState, Sample
from annotation.hub.client import COMMIT

MARK = "@votetune "
MAX_LINE = 8_000
"""Characters of a row in the log: machines cut longer lines. The whole files come at the end."""
_ORDER = (RunState.QUEUED, RunState.PREPARING, RunState.TRAINING, RunState.EVALUATING)


def to_line(kind: str, row: Mapping[str, object]) -> str:
    """A row as one log line; `kind` is metric, sample, state or result."""
    return MARK + json.dumps({"kind": kind, "row": row})


class FolderReporter:
    """The job's end: what is new in `folder` since the last look, as log lines."""

    def __init__(self, folder: RunFolder, *, hide: str) -> None:
        """`hide` is a secret that no line may hold."""
        self._folder = folder
        self._hide = hide
        self._read: dict[Path, int] = {}
        self._state = b""

    def news(self) -> Iterator[str]:
        """Lines of the log, then new rows, each once. A half-written line is left for later."""
        for line in self._new_lines(self._folder.log):
            # A line of the training that begins as a row does must not pass for one.
            yield self._hidden(f" {line}" if line.startswith(MARK) else line)
        for kind, file in (
            ("metric", self._folder.metrics_file),
            ("sample", self._folder.samples_file),
        ):
            for line in self._new_lines(file):
                with contextlib.suppress(ValueError):
                    told = to_line(kind, json.loads(line))
                    if len(told) <= MAX_LINE:
                        yield self._hidden(told)
        state = self._folder.state_file.read_bytes()
        if state != self._state:
            self._state = state
            row = json.loads(state)
            yield self._hidden(
                to_line("state", {key: row[key] for key in ("state", "step", "reason")})
            )

    def _new_lines(self, file: Path) -> list[str]:
        start = self._read.get(file, 0)
        try:
            with file.open("rb") as stream:
                stream.seek(start)
                data = stream.read()
        except FileNotFoundError:
            return []
        whole, newline, _ = data.rpartition(b"\n")
        self._read[file] = start + len(whole) + len(newline)
        return whole.decode(errors="replace").split("\n") if newline else []

    def _hidden(self, line: str) -> str:
        return line.replace(self._hide, "…") if self._hide else line


class FolderMirror:
    """This end: the run's folder follows the job's lines. Not for two threads at once.

    `reason` is why the job's training failed, `result` the commit of what it made, once told.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.reason: str | None = None
        self.result: str | None = None
        self._steps = {metric.step for metric in folder.metrics()}
        self._samples = {(s.step, s.prompt) for s in folder.samples()}

    def take(self, line: str) -> str | None:
        """Put a row where it belongs; a line of the log is given back."""
        if not line.startswith(MARK):
            return line
        with contextlib.suppress(ValueError, TypeError, KeyError):
            told = json.loads(line.removeprefix(MARK))
            kind, row = told["kind"], told["row"]
            if kind == "metric":
                self._take_metric(Metric(**row))
            elif kind == "sample":
                self._take_sample(Sample(**row))
            elif kind == "state":
                self._take_state(RunState(row["state"]), int(row["step"]), row["reason"])
            elif kind == "result" and COMMIT.fullmatch(row["commit"]):
                self.result = row["commit"]
        return None

    def _take_metric(self, metric: Metric) -> None:
        if metric.step not in self._steps and is_sound(metric):
            self._steps.add(metric.step)
            self.folder.append_metric(metric)

    def _take_sample(self, sample: Sample) -> None:
        key = (sample.step, sample.prompt)
        if key not in self._samples:
            self._samples.add(key)
            self.folder.append_samples([sample])

    def reach(self, state: RunState) -> None:
        """Walk an active run on to `state` by legal steps; nothing where it is there or further.

        The caller holds the lock.
        """
        wanted = _ORDER.index(state) if state in _ORDER else 0
        for following in _ORDER[_ORDER.index(self.folder.status().state) + 1 : wanted + 1]:
            self.folder.move(following)

    def _take_state(self, state: RunState, step: int, reason: object) -> None:
        """As far as this state: done, failed and cancelled are said only when the job has ended."""
        if state is RunState.FAILED:
            self.reason = " ".join(str(reason).split())[:300]
        with self.folder.locked():
            if self.folder.status().state not in ACTIVE:
                return
            self.reach(state)
            status = self.folder.status()
            if step > status.step:
                self.folder.write_status(replace(status, step=step))


def is_sound(metric: Metric) -> bool:
    """Whether every figure is a number or missing."""
    return all(value is None or isinstance(value, int | float) for value in astuple(metric))
