"""What the admin page and `status` say, as plain text and rows. Pure: reads nothing, draws nothing.

A number says what it counts, and an empty state says what to do next.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from alignment.runs import Metric, Run, RunState
from annotation.export import ExportCounts, PreparedExport

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


def describe_votes(counts: ExportCounts, pairs_ready: int, argilla: ArgillaStatus) -> str:
    """The votes and where they are, as Markdown."""
    synthetic = (
        f" **{counts.synthetic_votes} are synthetic**, from scripted voters."
        if counts.synthetic_votes
        else ""
    )
    lines = [
        f"{_count(counts.votes, 'vote')} by {_count(counts.voters, 'voter')} "
        f"on {counts.pairs_voted} pairs; {pairs_ready} more wait for a vote.{synthetic}",
        f"They give {_count(counts.examples, 'preference example')}. "
        f"Left out: {counts.ties} ties, "
        f"{counts.both_bad} both bad, {counts.conflicts} without a majority, "
        f"{counts.eval_left_out} kept for evaluation.",
        _describe_argilla(argilla),
    ]
    return "\n\n".join(lines)


def _count(number: int, word: str) -> str:
    return f"**{number:,}** {word}{'' if number == 1 else 's'}"


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


def describe_run(run: Run, metrics: Sequence[Metric]) -> str:
    """How far a run is and how it goes, as one or two lines of Markdown."""
    head = f"**{run.id}** is {run.state}, step {run.status.step} of {run.spec.steps}"
    if run.reason:
        return f"{head}. {run.reason}"
    if run.state is RunState.PREPARING:
        return f"{head}: loading the libraries and the model, about 15 seconds."
    if run.status.final is not None:
        return f"{head}, after {run.status.final.seconds:.0f} s. {_final(run)}"
    if not metrics:
        return f"{head}."
    last = metrics[-1]
    parts = [f"loss {last.loss:.3f}"]
    if last.reward_margin is not None:
        parts.append(f"reward margin {last.reward_margin:+.3f}")
    if last.reward_accuracy is not None:
        parts.append(f"reward accuracy {last.reward_accuracy:.2f}")
    return f"{head}: {', '.join(parts)}."


def _final(run: Run) -> str:
    final = run.status.final
    assert final is not None
    if final.eval_reward_accuracy is None:
        return f"Reward accuracy on the training pairs {final.reward_accuracy:.2f}."
    return (
        f"Reward accuracy {final.eval_reward_accuracy:.2f} on {final.eval_pairs} held-out pairs. "
        "It is in the Compare tab now."
    )


def describe_runs(runs: Sequence[Run]) -> list[list[str]]:
    """Rows of run, state, examples, steps, why; newest first."""
    return [
        [
            run.id,
            str(run.state),
            str(run.spec.examples),
            f"{run.status.step} of {run.spec.steps}",
            run.reason or "",
        ]
        for run in reversed(runs)
    ]


def _cell(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= CELL_CHARACTERS else flat[: CELL_CHARACTERS - 1] + "…"
