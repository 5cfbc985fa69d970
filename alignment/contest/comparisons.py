"""Blind votes between two models, as the leaderboard and the gate read them.

Pure: votes and pairs in, comparisons out. Owns which votes compare models: they count, their pair
was made to compare two models, and "both bad" and skips rank neither.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from annotation.schema import Choice, Completion, ModelRef, Pair, PairKind, Vote

Outcome = Literal["win", "loss", "tie"]
_OUTCOMES: dict[Choice, Outcome] = {Choice.A: "win", Choice.B: "loss", Choice.TIE: "tie"}
_OTHER: dict[Outcome, Outcome] = {"win": "loss", "loss": "win", "tie": "tie"}
_MARKDOWN = re.compile(r"^(?:#{1,6} |[-*+] |\d+[.)] |```|> )|\*\*[^*\n]+\*\*", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One vote on one pair: `outcome` is that of `first`.

    `length` is (len_first − len_second) / (len_first + len_second) in characters, −1 to 1, and
    `markdown` the same of headings, list items, code fences, quotes and bold spans.
    """

    voter: str
    first: ModelRef
    second: ModelRef
    outcome: Outcome
    length: float = 0.0
    markdown: float = 0.0

    def outcome_for(self, model: ModelRef, other: ModelRef) -> Outcome | None:
        """The outcome for `model` against `other`; None where the vote was on other models."""
        if (self.first, self.second) == (model, other):
            return self.outcome
        if (self.first, self.second) == (other, model):
            return _OTHER[self.outcome]
        return None


def comparisons_of(votes: Sequence[Vote], pairs: Mapping[str, Pair]) -> list[Comparison]:
    """The comparisons that `votes` on `pairs` (by id) make, in the order of the votes."""
    found = []
    for vote in votes:
        pair = pairs[vote.pair_id]
        first, second = pair.completions
        outcome = _OUTCOMES.get(vote.record_choice)
        compares = pair.kind is PairKind.COMPARE and first.model != second.model
        if outcome and compares and vote.counts:
            found.append(
                Comparison(
                    voter=vote.voter,
                    first=first.model,
                    second=second.model,
                    outcome=outcome,
                    length=_share(len(first.text), len(second.text)),
                    markdown=_share(_marks(first), _marks(second)),
                )
            )
    return found


def _marks(completion: Completion) -> int:
    return len(_MARKDOWN.findall(completion.text))


def _share(one: int, other: int) -> float:
    return (one - other) / (one + other) if one + other else 0.0
