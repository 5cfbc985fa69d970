"""The quality of the votes in a terminal: figures, voters, who is flagged and why. Changes nothing.

Setting a voter aside is the page's: only the app that runs may write the journal.
"""

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from alignment.pipeline import open_reader
from annotation.home import Home
from annotation.quality.flags import LIMITS, short_name
from annotation.quality.quality import FlipRate, Quality, Share
from annotation.quality.report import QualityDesk, QualityReport
from annotation.quality.voter_health import VoterHealth

SHOWN_VOTERS = 40


def load_quality(home: Home) -> QualityReport:
    """The report on the home's votes, whether or not an app runs."""
    with open_reader(home) as journal:
        return QualityDesk(journal).report()


def print_quality(report: QualityReport, console: Console) -> None:
    """All votes, then each voter, flagged ones first; as wide as the terminal."""
    overall = report.overall
    if not report.voters:
        console.print("No vote yet: start the app and vote, or send its address to some people.")
        return
    title = f"{overall.votes:,} votes that count, {overall.voters} voters, {overall.pairs:,} pairs"
    console.print(title, style="bold", highlight=False)
    console.print(_figures(overall, report.after_flags))
    console.print()
    console.print(_voters(report.voters[:SHOWN_VOTERS]))
    more = len(report.voters) - SHOWN_VOTERS
    if more > 0:
        console.print(f"{more:,} more voters are in --json.", highlight=False)
    _print_flags(report, console)


def _figures(overall: Quality, after: FlipRate | None) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    alpha = overall.alpha
    rows = [
        ("with the majority of others", _share(overall.agreement)),
        ("Krippendorff's α", f"{alpha.value:.2f} on {alpha.pairs} pairs" if alpha else "–"),
        ("for the left answer", _share(overall.side_a)),
        ("for the longer answer", _share(overall.longer)),
        ("for the worse answer", _flips(overall.flip_rate)),
        ("  without flagged voters", _flips(after)),
        ("pairs without agreement", str(len(overall.split_pairs))),
    ]
    for name, value in rows:
        table.add_row(name, value)
    return table


def _voters(voters: tuple[VoterHealth, ...]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("voter", "votes", "with others", "left", "longer", "reads", "gold", "again", ""):
        table.add_column(name, justify="left" if name in ("voter", "") else "right")
    for voter in voters:
        shares = (voter.agreement, voter.side_a, voter.longer)
        table.add_row(
            Text(short_name(voter.voter)),
            f"{voter.votes:,}",
            *map(_rate, shares),
            "–" if voter.reading_s is None else f"{voter.reading_s:.1f} s",
            _rate(voter.gold),
            _rate(voter.repeats),
            _state(voter),
        )
    return table


def _state(voter: VoterHealth) -> Text:
    if voter.set_aside is not None:
        return Text("set aside", style="dim")
    return Text("flagged", style="bold yellow") if voter.is_flagged else Text("")


def _print_flags(report: QualityReport, console: Console) -> None:
    flagged = [voter for voter in report.voters if voter.is_flagged]
    for voter in flagged:
        console.print()
        console.print(Text(short_name(voter.voter), style="bold"))
        for flag in voter.flags:
            console.print(Padding(Text(flag.reason), (0, 0, 0, 2)))
    if flagged:
        console.print()
        console.print(Text(LIMITS, style="dim"))


def _share(share: Share | None) -> str:
    if share is None:
        return "–"
    interval = f"{_percent(share.low)} to {_percent(share.high)}"
    return f"{_percent(share.rate)} of {share.total:,} (95 %: {interval})"


def _flips(rate: FlipRate | None) -> str:
    if rate is None:
        return "–"
    error = "" if rate.standard_error is None else f" ± {_percent(rate.standard_error)}"
    return f"{_percent(rate.rate)}{error} on {rate.pairs:,} pairs"


def _rate(share: Share | None) -> str:
    return "–" if share is None else _percent(share.rate)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
