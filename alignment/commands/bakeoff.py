"""`python app.py bakeoff`: start one, or watch the one that goes on, until its table is there."""

import time

from rich.console import Console
from rich.table import Table

from alignment.bakeoff.bakeoffs import METHODS, BakeoffError, Bakeoffs
from alignment.bakeoff.store import Bakeoff, BakeoffState
from alignment.bakeoff.table import COLUMNS, caveat, cells
from alignment.commands.progress import progress_bars
from alignment.runs.run_store import RunError
from alignment.runs.runs import Runs
from annotation.home import Home

POLL_S = 0.5
STAGES = len(METHODS) + 1
"""A run for each method, then the comparison."""


def watch_bakeoff(home: Home, bakeoff_id: str) -> Bakeoff:
    """Show a bake-off until it ends and return it. Raises BakeoffError unless it is done."""
    bakeoffs, runs = Bakeoffs(home.root), Runs(home.root)
    with progress_bars() as bars:
        bar = bars.add_task("starting", total=STAGES)
        while True:
            bakeoff = bakeoffs.get(bakeoff_id)
            done, stage = _progress(bakeoff, runs)
            bars.update(bar, completed=done, description=stage)
            if not bakeoff.is_active:
                break
            time.sleep(POLL_S)
    if bakeoff.state is not BakeoffState.DONE:
        raise BakeoffError(f"{bakeoff.id} is {bakeoff.state}: {bakeoff.reason}")
    return bakeoff


def _progress(bakeoff: Bakeoff, runs: Runs) -> tuple[float, str]:
    """How many stages are done, with the share of the run that is going, and what goes on."""
    if bakeoff.state is BakeoffState.DONE:
        return STAGES, "done"
    if not bakeoff.runs:
        return 0, "starting"
    method, run_id = bakeoff.runs[-1]
    before = len(bakeoff.runs) - 1
    try:
        run = runs.get(run_id)
    except RunError:
        return before, method
    if run.status.final is not None:
        last = len(bakeoff.runs) == len(METHODS)
        return before + 1, "comparing" if last else f"{method} done"
    return before + run.status.step / run.spec.steps, f"{method} {run.state}"


def print_table(console: Console, bakeoff: Bakeoff) -> None:
    """The table, one method a column: ten columns side by side would not fit a terminal."""
    table = Table(title=f"Bake-off {bakeoff.id}")
    table.add_column("")
    columns = [cells(row) for row in bakeoff.rows]
    for column in columns:
        table.add_column(column[0])
    for index, name in enumerate(COLUMNS[1:], start=1):
        values = [column[index] for column in columns]
        if any(values):
            table.add_row(name, *values)
    console.print(table)
    console.print(caveat(bakeoff))
