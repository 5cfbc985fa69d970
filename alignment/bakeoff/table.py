"""A bake-off's result in words: the cells of its table and what it rests on. Pure."""

from alignment.bakeoff.store import Bakeoff, Rate, Row


def to_markdown(bakeoff: Bakeoff) -> str:
    """The table and what it rests on; a line that says how far it is while there is none."""
    if not bakeoff.rows:
        begun = ", ".join(method.upper() for method, _ in bakeoff.runs) or "nothing yet"
        why = f" {bakeoff.reason}" if bakeoff.reason else ""
        return f"{bakeoff.id} is {bakeoff.state}; begun: {begun}.{why}"
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    lines += [f"| {' | '.join(cells(row))} |" for row in bakeoff.rows]
    return "\n".join([*lines, "", caveat(bakeoff)])


COLUMNS = (
    "method",
    "win rate over the base",
    "over SFT",
    "reward accuracy",
    "words",
    "correct",
    "well formed",
    "time",
    "memory",
    "verdict",
)


def cells(row: Row) -> tuple[str, ...]:
    """One row in the order of COLUMNS; an empty cell is what does not apply or nobody measured."""
    return (
        "base" if row.run_id is None else row.method.upper(),
        _rate(row.win_rate),
        _rate(row.over_sft),
        "" if row.reward_accuracy is None else f"{row.reward_accuracy:.2f} of {row.eval_pairs}",
        f"{row.words:.1f}",
        "" if row.correct is None else f"{row.correct:.2f}",
        "" if row.well_formed is None else f"{row.well_formed:.2f}",
        "" if row.seconds is None else f"{row.seconds:.0f} s",
        "" if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 1e9:.1f} GB",
        row.verdict,
    )


def caveat(bakeoff: Bakeoff) -> str:
    """What the table rests on, in a sentence or two."""
    basis = (
        f"{bakeoff.examples} examples, seed {bakeoff.seed}, {bakeoff.prompts} eval prompts that "
        "nobody voted on; ± is half of a 95 % interval, ties count half."
    )
    if bakeoff.judge is None:
        return f"{basis} Nobody has judged the answers yet: win rates need blind votes."
    return f"{basis} Judged by {bakeoff.judge}."


def _rate(rate: Rate | None) -> str:
    return "" if rate is None else f"{rate.value:.2f} ± {rate.margin:.2f}"
