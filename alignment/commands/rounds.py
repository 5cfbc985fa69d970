"""Rounds in a terminal: each policy, what it won, and the votes on its pairs. Changes nothing."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from alignment.contest.leaderboard import MIN_DECIDED, WinRate
from alignment.contest.rounds import Round, RoundDesk
from alignment.pipeline import open_pipeline
from alignment.settings import AlignmentSettings
from annotation.home import Home
from annotation.quality.quality import Share


def load_rounds(home: Home, settings: AlignmentSettings) -> list[Round]:
    """The home's rounds, whether or not an app runs."""
    with open_pipeline(home, settings) as pipeline:
        return RoundDesk(pipeline.registry, pipeline.runs, pipeline.journal).rounds()


def to_json(rounds: Sequence[Round]) -> str:
    """Every figure by its name in the types; moments as text, a rate of nothing as null."""
    rows = [asdict(each) for each in rounds]
    for row, each in zip(rows, rounds, strict=True):
        for name, rate in (("over_last", each.over_last), ("over_base", each.over_base)):
            if rate is not None and not rate.n:
                row[name] |= {"rate": None, "low": None, "high": None}
    return json.dumps(rows, indent=2, default=str, allow_nan=False)


def print_rounds(rounds: Sequence[Round], console: Console) -> None:
    """A row a round, the base's first."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("", "policy", "how", "over the last", "over the base", "correct", "tokens"):
        table.add_column(name)
    for name in ("votes", "agreement"):
        table.add_column(name, justify="right")
    for number, each in enumerate(rounds, 1):
        final = each.training.final if each.training else None
        table.add_row(
            "next" if each.by == "waits" else str(number),
            Text(each.training.run if each.training else each.model.label),
            each.by,
            _rate(each.over_last),
            _rate(each.over_base),
            _share(each.correct),
            f"{final.answered.tokens:.0f}" if final and final.answered else "–",
            f"{each.votes:,}",
            _share(each.agreement),
        )
    console.print(table)


def _rate(rate: WinRate | None) -> str:
    if rate is None:
        return "–"
    if not rate.n:
        return "never compared"
    if rate.wins + rate.losses < MIN_DECIDED:
        return "not enough votes"
    return f"{rate.rate:.2f} ({rate.low:.2f}–{rate.high:.2f})"


def _share(share: Share | None) -> str:
    return f"{share.rate:.2f} ({share.low:.2f}–{share.high:.2f})" if share else "–"
