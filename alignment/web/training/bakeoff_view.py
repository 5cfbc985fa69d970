"""What the bake-off section shows: how far it is, then the table and which method is best. Pure."""

from collections.abc import Sequence
from html import escape

from alignment.bakeoff.bakeoffs import METHODS
from alignment.bakeoff.store import Bakeoff, Row
from alignment.bakeoff.table import COLUMNS, caveat, cells
from alignment.runs.runs import Run
from alignment.web.markup import draw_bar, draw_table


def draw_bakeoff(bakeoff: Bakeoff, runs: Sequence[Run]) -> str:
    """Progress while it goes on, why where it stopped, the table once there is one."""
    if bakeoff.rows:
        return (
            f'<div class="vta-progress"><p>{say_best(bakeoff.rows)}</p>{_table(bakeoff)}'
            f'<p class="vta-note">{escape(caveat(bakeoff))}</p></div>'
        )
    said = f"<p>{escape(bakeoff.reason)}</p>" if bakeoff.reason else ""
    share = sum(_share(run) for run in runs) / (len(METHODS) + 1)
    return (
        f'<div class="vta-progress"><p><b>{escape(bakeoff.id)}</b> is {bakeoff.state}</p>'
        f"{draw_bar('Bake-off', share)}"
        f'<p class="vta-facts">{_stages(bakeoff, runs)}</p>{said}</div>'
    )


def _share(run: Run) -> float:
    return 1.0 if run.status.final else run.status.step / max(1, run.spec.steps)


def _stages(bakeoff: Bakeoff, runs: Sequence[Run]) -> str:
    by_id = {run.id: run for run in runs}
    begun = {method: by_id.get(run_id) for method, run_id in bakeoff.runs}
    return "".join(f"<span><b>{m.upper()}</b> {_stage(begun.get(m))}</span>" for m in METHODS)


def _stage(run: Run | None) -> str:
    if run is None:
        return "to come"
    return (
        f"{run.state}, step {run.status.step} of {run.spec.steps}" if run.is_active else run.state
    )


def say_best(rows: Sequence[Row]) -> str:
    """Which method did best, and how sure that is, in a sentence or two.

    Where one can't be told apart from the best, both are named.
    """
    judged = [row for row in rows if row.run_id is not None and row.win_rate is not None]
    if not judged:
        return "All are trained. Nobody has compared their answers yet: that takes blind votes."
    best = max(judged, key=lambda row: row.win_rate.value if row.win_rate else 0.0)
    assert best.win_rate is not None
    rivals = [row.method.upper() for row in judged if row is not best and not _is_behind(row, best)]
    name = best.method.upper()
    if best.win_rate.low <= 0.5:
        return f"None clearly beats the base: the best, {name}, wins {best.win_rate.value:.0%}."
    if rivals:
        return (
            f"<b>{name}</b> has the highest win rate, {best.win_rate.value:.0%}, but "
            f"{' and '.join(rivals)} may be as good: these votes can't tell."
        )
    return f"<b>{name}</b> is best here: it wins {best.win_rate.value:.0%} against the base."


def _is_behind(row: Row, best: Row) -> bool:
    """Whether `best` is told apart from `row`: head to head where that was judged, else by the
    intervals of both against the base.
    """
    if best.method == "sft" and row.over_sft:
        return row.over_sft.high < 0.5
    if row.method == "sft" and best.over_sft:
        return best.over_sft.low > 0.5
    return not (row.win_rate and best.win_rate and row.win_rate.high >= best.win_rate.low)


def _table(bakeoff: Bakeoff) -> str:
    rows = [cells(row) for row in bakeoff.rows]
    # What nobody measured for any method is left out.
    kept = [i for i, _ in enumerate(COLUMNS) if i == 0 or any(row[i] for row in rows)]
    shown = [[escape(row[i]) or "–" for i in kept] for row in rows]
    return draw_table("Bake-off", [COLUMNS[i] for i in kept], shown)
