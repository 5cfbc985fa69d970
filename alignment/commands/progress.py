"""Progress in a terminal: a run as its folder tells it, and how it ended. Changes nothing."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from alignment.runs.alarms import Alarm, alarms
from alignment.runs.pace import remaining_s, say_duration
from alignment.runs.run_store import FinalMetrics, Metric
from alignment.runs.runs import Run, RunError, Runs

POLL_S = 0.3


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Bars on standard error, so that standard output stays for what a script reads."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield bars


@contextmanager
def download_bars() -> Iterator[Progress]:
    """As `progress_bars`, counting bytes."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield bars


def watch_run(runs: Runs, run_id: str) -> FinalMetrics:
    """Show a run until it ends, then its alarms, and return its final metrics.

    Raises RunError unless it is done.
    """
    run = runs.get(run_id)
    with progress_bars() as bars:
        bar = bars.add_task(run.state, total=run.spec.steps)
        while True:
            said = describe(run, runs.metrics(run_id))
            bars.update(bar, completed=run.status.step, description=said)
            if not run.is_active:
                break
            time.sleep(POLL_S)
            run = runs.get(run_id)
    found = alarms(runs.metrics(run_id), run.folder.samples(), run.spec)
    print_alarms(found, Console(stderr=True))
    if run.status.final is None:
        raise RunError(f"Run {run_id} is {run.state}: {run.reason or 'see its log.txt'}")
    return run.status.final


def describe(run: Run, metrics: Sequence[Metric]) -> str:
    """State, loss, held-out accuracy and what is left, as far as each is known."""
    parts = [str(run.state)]
    if metrics:
        parts.append(f"loss {metrics[-1].loss:.3f}")
    scored = [m.eval_reward_accuracy for m in metrics if m.eval_reward_accuracy is not None]
    if scored:
        parts.append(f"held out {scored[-1]:.2f}")
    left = remaining_s(metrics, run.spec.steps) if run.is_active else None
    if left:
        parts.append(f"{say_duration(left)} left")
    return "  ".join(parts)


def print_alarms(found: Sequence[Alarm], console: Console) -> None:
    """Each alarm with what to do; a sign beside the colour says which are serious."""
    for alarm in found:
        sign, style = ("✗", "bold red") if alarm.serious else ("!", "bold yellow")
        console.print(Text.assemble((sign, style), " ", alarm.says))
        console.print(Padding(Text.assemble(("→ ", style), alarm.do), (0, 0, 0, 2)))
