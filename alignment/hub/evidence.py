"""What is known of a trained model beyond how it was made: blind votes, length, correctness.

Figures only, each with what it counts, or a state in words where there is none. Pure.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from alignment.bakeoff.store import Bakeoff
from alignment.contest.comparisons import Comparison
from alignment.contest.leaderboard import MIN_DECIDED, WinRate, win_rate
from alignment.runs.run_store import Sample
from annotation.schema import ModelRef


class DuelState(StrEnum):
    """Whether a win rate can be told, and if not, why."""

    TOLD = "told"
    NOT_ENOUGH_VOTES = "not enough votes"
    STILL_OPEN = "still open"


@dataclass(frozen=True, slots=True)
class Duel:
    """Blind votes of the model against another, called `over`, by `voters` people.

    While the comparison is open no figure is told, so that no vote is swayed by it.
    """

    over: str
    state: DuelState
    found: WinRate
    voters: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean tokens of sample answers to the same `prompts`, before training and at its end."""

    before: float
    after: float
    prompts: int


@dataclass(frozen=True, slots=True)
class Correctness:
    """Shares of correct answers to `prompts` eval prompts, as `judge` found them in a bake-off."""

    model: float
    base: float
    prompts: int
    judge: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known; the base comes first in `duels`."""

    duels: tuple[Duel, ...] = ()
    lengths: Lengths | None = None
    correctness: Correctness | None = None


def judge_duels(
    comparisons: Sequence[Comparison],
    model: ModelRef,
    opponents: Sequence[tuple[str, ModelRef, bool]],
) -> tuple[Duel, ...]:
    """`model` against each opponent: what it is called, which it is, whether it is still open."""
    return tuple(_duel(comparisons, model, *opponent) for opponent in opponents)


def _duel(
    comparisons: Sequence[Comparison], model: ModelRef, name: str, over: ModelRef, is_open: bool
) -> Duel:
    own = [c for c in comparisons if c.outcome_for(model, over) is not None]
    found = win_rate(own, model, over)
    state = DuelState.TOLD
    if is_open:
        state = DuelState.STILL_OPEN
    elif found.wins + found.losses < MIN_DECIDED:
        state = DuelState.NOT_ENOUGH_VOTES
    return Duel(name, state, found, len({c.voter for c in own}))


def lengths_of(samples: Sequence[Sample]) -> Lengths | None:
    """How long the run's own sample answers were at first and at last; None without both."""
    steps = sorted({sample.step for sample in samples})
    if len(steps) < 2:
        return None
    first, last = ([s for s in samples if s.step == step] for step in (steps[0], steps[-1]))
    before, after = (sum(s.tokens for s in some) / len(some) for some in (first, last))
    return Lengths(before, after, len(last))


def correctness_of(run: str, bakeoffs: Sequence[Bakeoff]) -> Correctness | None:
    """What the newest bake-off of `run` found, where somebody could judge it."""
    for bakeoff in reversed(bakeoffs):
        rows = {row.run_id: row for row in bakeoff.rows}
        mine, base = rows.get(run), rows.get(None)
        if mine and base and bakeoff.judge and None not in (mine.correct, base.correct):
            return Correctness(
                mine.correct or 0.0, base.correct or 0.0, bakeoff.prompts, bakeoff.judge
            )
    return None


def describe_evidence(evidence: Evidence) -> str:
    """The section of a card that says how good the model is, as far as anybody knows."""
    return "\n".join(["## Results", *_duel_lines(evidence.duels), "", *_other_lines(evidence)])


def _duel_lines(duels: Sequence[Duel]) -> Iterator[str]:
    yield "Blind comparisons: a voter saw this model's answer and the other's, unnamed, sides drawn"
    yield "per voter, on prompts that no model is trained on. A tie counts half."
    yield ""
    yield "| against | win rate | 95 % interval | wins, losses, ties | voters |"
    yield "|---|---|---|---|---|"
    for duel in duels:
        found, told = duel.found, duel.state is DuelState.TOLD
        rate = f"{found.rate:.1%}" if told else str(duel.state)
        interval = f"{found.low:.1%} to {found.high:.1%}" if told else "–"
        counts = f"{found.wins}, {found.losses}, {found.ties}"
        is_open = duel.state is DuelState.STILL_OPEN
        cells = ("–", "–") if is_open else (counts, str(duel.voters))
        yield f"| {' | '.join((duel.over, rate, interval, *cells))} |"
    if any(duel.state is DuelState.STILL_OPEN for duel in duels):
        yield ""
        yield "While a comparison is open no figure of it is told, so that no vote is swayed by it."
    if any(duel.state is DuelState.NOT_ENOUGH_VOTES for duel in duels):
        yield ""
        yield f"Fewer than {MIN_DECIDED} decided votes say nothing worth reading."


def _other_lines(evidence: Evidence) -> Iterator[str]:
    lengths, correct = evidence.lengths, evidence.correctness
    if lengths is None:
        yield "- Length: not measured."
    else:
        change = lengths.after / lengths.before - 1 if lengths.before else math.nan
        told = "" if math.isnan(change) else f" ({change:+.0%})"
        yield (
            f"- Length: {lengths.after:.1f} tokens a sample answer at the end of training, "
            f"{lengths.before:.1f} before it{told}, on the same {lengths.prompts} prompts."
        )
    if correct is None:
        yield "- Correctness: not measured. Votes say what people prefer, not what is true."
    else:
        yield (
            f"- Correctness: {correct.model:.0%} of {correct.prompts} answers, the base "
            f"{correct.base:.0%}; judged by {correct.judge}."
        )
