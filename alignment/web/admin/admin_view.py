"""What the admin page says of votes and dataset, as plain text and rows. Pure: draws nothing.

A number says what it counts, and an empty state says what to do next.
"""

from dataclasses import dataclass
from typing import Literal

from annotation.backup.sync import BackupStatus
from annotation.export.card import ExportCounts
from annotation.export.export import PreparedExport

PREVIEW_EXAMPLES = 8
CELL_CHARACTERS = 160


@dataclass(frozen=True, slots=True)
class ArgillaStatus:
    """How this home's Argilla does. `sign_in` says where its password is, never what it is."""

    state: Literal["starting", "ready", "unreachable"]
    url: str | None
    sign_in: str
    undelivered: int
    last_error: str | None


def describe_votes(
    counts: ExportCounts,
    pairs_ready: int,
    argilla: ArgillaStatus,
    backup: BackupStatus | None = None,
    *,
    trouble: str | None = None,
    sampling: str | None = None,
    missing: str | None = None,
) -> str:
    """The votes and where they are, as Markdown. `backup` is None where none is set up.

    `trouble` is why votes can't be saved just now, `sampling` why no new pairs are drawn,
    `missing` that the policy is not here.
    """
    synthetic = (
        f" **{counts.synthetic_votes} are synthetic**, from scripted voters."
        if counts.synthetic_votes
        else ""
    )
    lines = [
        *([_describe_trouble(trouble)] if trouble else []),
        *([f"**New pairs wait.** {sampling}"] if sampling else []),
        *([f"**Pairs come from the base.** {missing}"] if missing else []),
        f"{_count(counts.votes, 'vote')} by {_count(counts.voters, 'voter')} "
        f"on {counts.pairs_voted} pairs; {pairs_ready} more wait for a vote.{synthetic}",
        f"They give {_count(counts.examples, 'preference example')}. "
        f"Left out: {counts.ties} ties, "
        f"{counts.both_bad} both bad, {counts.conflicts} without a majority, "
        f"{counts.eval_left_out} kept for evaluation.",
        _describe_argilla(argilla),
        *([describe_backup(backup)] if backup else []),
    ]
    return "\n\n".join(lines)


def _count(number: int, word: str) -> str:
    return f"**{number:,}** {word}{'' if number == 1 else 's'}"


def _describe_trouble(trouble: str) -> str:
    kept = "Open pages keep their votes and send them again until it works."
    return f"**No vote can be saved now.** {trouble} {kept}"


def _describe_argilla(argilla: ArgillaStatus) -> str:
    where = f"[Argilla]({argilla.url})" if argilla.url else "Argilla"
    waiting = (
        f"{argilla.undelivered} votes wait here until it has them."
        if argilla.undelivered
        else "It has every vote."
    )
    if argilla.state == "ready":
        return f"{where} is ready. {waiting} {argilla.sign_in}"
    trouble = f" Last error: {argilla.last_error}" if argilla.last_error else ""
    if argilla.state == "starting":
        return f"{where} is starting; voting goes on meanwhile. {waiting}{trouble}"
    return f"{where} can't be reached; no vote is lost. {waiting}{trouble}"


def describe_backup(backup: BackupStatus) -> str:
    """Whether votes and pairs are safe outside this disk, as one line of Markdown."""
    last = f"{backup.last_sync:%Y-%m-%d %H:%M:%S} UTC" if backup.last_sync else "not yet"
    waiting = " It has everything." if backup.state == "ready" else ""
    if backup.waiting:
        waiting = f" {backup.waiting:,} votes and pairs wait here until it has them."
    doing = {
        "restoring": "is being read",
        "ready": "works",
        "unreachable": "can't be reached; no vote is lost",
        "refused": "**needs you**",
    }[backup.state]
    trouble = f" Last error: {backup.last_error}" if backup.last_error else ""
    return f"The backup `{backup.repo}` {doing}. Last sync: {last}.{waiting}{trouble}"


def describe_export(prepared: PreparedExport) -> str:
    """One line on the dataset that an export would write now."""
    if not prepared.examples:
        return "No preference example yet: vote on a few pairs first."
    return (
        f"{len(prepared.examples)} examples, sha256 `{prepared.sha256[:12]}`. "
        "The same votes always give the same file."
    )


def preview_rows(prepared: PreparedExport) -> list[list[str]]:
    """The first examples as rows of prompt, chosen, rejected, votes, agreement."""
    return [
        [
            _cell(example.prompt.messages[-1].content),
            _cell(example.chosen),
            _cell(example.rejected),
            str(example.votes),
            f"{example.agreement:.0%}",
        ]
        for example in prepared.examples[:PREVIEW_EXAMPLES]
    ]


def _cell(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= CELL_CHARACTERS else flat[: CELL_CHARACTERS - 1] + "…"
