"""Progress in a terminal: a run as its folder tells it, and how it ended. Changes nothing."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from alignment.run_store import FinalMetrics
from alignment.runs import RunError, Runs

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


def watch_run(runs: Runs, run_id: str) -> FinalMetrics:
    """Show a run until it ends and return its final metrics. Raises RunError unless it is done."""
    run = runs.get(run_id)
    with progress_bars() as bars:
        bar = bars.add_task(run.state, total=run.spec.steps)
        while True:
            metrics = runs.metrics(run_id)
            loss = f"  loss {metrics[-1].loss:.3f}" if metrics else ""
            bars.update(bar, completed=run.status.step, description=f"{run.state}{loss}")
            if not run.is_active:
                break
            time.sleep(POLL_S)
            run = runs.get(run_id)
    if run.status.final is None:
        raise RunError(f"Run {run_id} is {run.state}: {run.reason or 'see its log.txt'}")
    return run.status.final
