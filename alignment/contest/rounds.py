"""Rounds in a row: each policy, how it came to be, what it won, and the votes on its pairs.

Pure but for `RoundDesk`, which reads a home. A round is the reign of one policy, the base's the
first; a candidate that waits for its gate stands last, and a roll-back is a round of its own.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Literal

from alignment.contest.comparisons import Comparison
from alignment.contest.contest import load_comparisons, look_at_field
from alignment.contest.leaderboard import WinRate, win_rate
from alignment.contest.promotions import By, Promotion
from alignment.registry import Registry
from alignment.runs.recipes import Reference
from alignment.runs.run_store import FinalMetrics
from alignment.runs.runs import Runs, RunState
from alignment.scripted_voter import correctness
from annotation.journal.journal import JournalReader
from annotation.quality.quality import (
    Share,
    agreements,
    decided_votes_by_pair,
    ordinary_votes,
    share_of,
    share_of_flags,
)
from annotation.schema import ModelRef, Pair, PairKind, Vote

Judge = Callable[[str, str], bool | None]
"""Whether an answer to a prompt is right; None where nobody knows."""


@dataclass(frozen=True, slots=True)
class Training:
    """What the run of a model says of itself. `start` is None where it began at the base."""

    run: str
    start: str | None
    reference: Reference | None
    final: FinalMetrics | None


@dataclass(frozen=True, slots=True)
class Round:
    """One policy from `since` on, or the candidate that waits.

    `over_last` and `over_base` are blind votes, None for the base and after a roll-back. `correct`
    counts the right ones among its answers in comparisons, where right is known. `votes` are on
    the pairs of this round, `agreement` how many of them side with the others on their pair.
    """

    model: ModelRef
    by: By | Literal["start", "waits"]
    since: datetime | None
    over_last: WinRate | None
    over_base: WinRate | None
    correct: Share | None
    training: Training | None
    votes: int
    agreement: Share | None


def build_rounds(
    history: Sequence[Promotion],
    base: ModelRef,
    candidate: ModelRef | None,
    votes: Sequence[Vote],
    pairs: Mapping[str, Pair],
    comparisons: Sequence[Comparison],
    trainings: Mapping[ModelRef, Training],
    judge: Judge | None = None,
) -> list[Round]:
    """Every round, the base's first. A vote belongs to the round in which its pair was made."""
    reigns: list[tuple[ModelRef, By | Literal["start", "waits"], datetime | None]] = [
        (base, "start", None),
        *((p.model, p.by, p.at) for p in history),
    ]
    by_round = _votes_by_round(votes, pairs, [p.at for p in history])
    tallies = decided_votes_by_pair(v for some in by_round for v in some)
    if candidate is not None:
        reigns.append((candidate, "waits", None))
        by_round.append([])
    befores = [None, *(model for (model, *_), _ in pairwise(reigns))]
    rounds = []
    for (model, by, since), before, mine in zip(reigns, befores, by_round, strict=True):
        compared = by not in ("start", "roll-back") and before is not None and model != base
        rounds.append(
            Round(
                model=model,
                by=by,
                since=since,
                over_last=win_rate(comparisons, model, before) if compared and before else None,
                over_base=win_rate(comparisons, model, base) if compared else None,
                correct=_correct(model, pairs, judge),
                training=trainings.get(model),
                votes=len(mine),
                agreement=share_of_flags(agreements(mine, tallies)),
            )
        )
    return rounds


def _votes_by_round(
    votes: Sequence[Vote], pairs: Mapping[str, Pair], starts: Sequence[datetime]
) -> list[list[Vote]]:
    found: list[list[Vote]] = [[] for _ in range(len(starts) + 1)]
    for vote in ordinary_votes(votes, pairs):
        if vote.counts:
            made = pairs[vote.pair_id].created_at
            found[sum(start <= made for start in starts)].append(vote)
    return found


def _correct(model: ModelRef, pairs: Mapping[str, Pair], judge: Judge | None) -> Share | None:
    if judge is None:
        return None
    told = [
        judge(pair.prompt.messages[-1].content, completion.text)
        for pair in pairs.values()
        if pair.kind is PairKind.COMPARE
        for completion in pair.completions
        if completion.model == model
    ]
    known = [right for right in told if right is not None]
    return share_of(sum(known), len(known))


class RoundDesk:
    """The rounds of one home, built again only when its votes, policy or models have changed."""

    def __init__(self, registry: Registry, runs: Runs, journal: JournalReader) -> None:
        self._registry, self._runs, self._journal = registry, runs, journal
        self._lock = threading.Lock()
        self._kept: tuple[object, list[Round]] | None = None

    def rounds(self) -> list[Round]:
        """Raises what Registry and Promotions do."""
        field = look_at_field(self._registry, self._journal)
        history = self._registry.promotions.history()
        mark = (self._journal.vote_mark(), tuple(history), field.candidate)
        with self._lock:
            if self._kept is None or self._kept[0] != mark:
                candidate = field.candidate.ref if field.candidate else None
                self._kept = (mark, self._build(history, candidate))
            return self._kept[1]

    def trainings(self) -> dict[ModelRef, Training]:
        """What the run of each model that is here says of itself."""
        done = {run.id: run for run in self._runs.list() if run.state is RunState.DONE}
        found = {}
        for model in self._registry.models():
            if run := done.get(model.name):
                start = run.spec.start
                reference = start.reference if start and run.spec.method == "dpo" else None
                name = start.name if start else None
                found[model.ref] = Training(run.id, name, reference, run.status.final)
        return found

    def _build(self, history: Sequence[Promotion], candidate: ModelRef | None) -> list[Round]:
        votes = self._journal.votes()
        pairs = {p.id: p for p in self._journal.pairs(sorted({v.pair_id for v in votes}))}
        return build_rounds(
            history,
            self._registry.get("base").ref,
            candidate,
            votes,
            pairs,
            load_comparisons(self._journal),
            self.trainings(),
            known_answer if self._registry.is_starter else None,
        )


def known_answer(prompt: str, text: str) -> bool | None:
    """Whether `text` answers a question of the starter rightly; None for any other prompt."""
    try:
        return correctness(prompt, text)
    except KeyError:
        return None
