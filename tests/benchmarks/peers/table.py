"""The one table of `make bench`: every row a ratio, of rounds in which both sides took turns.

Owns how a ratio is taken and how far it is from its goal. Measures nothing.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Direction = Literal["more is better", "less is better"]


@dataclass(frozen=True, slots=True)
class Goal:
    """What a ratio has to reach: times as good as the peer, or a share of what the peer takes."""

    kind: Literal["at least", "at most"]
    ratio: float

    def is_met(self, ratio: float) -> bool:
        """Compared as it is measured, unrounded."""
        return ratio >= self.ratio if self.kind == "at least" else ratio <= self.ratio

    def __str__(self) -> str:
        return f"{'≥' if self.kind == 'at least' else '≤'} {self.ratio:g}×"


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: what, against whom, and what each round gave.

    `ours` and `peer` are one value a round, in `unit`, of rounds in which the two took turns.
    `checked` says which outputs were compared in the same script and within what tolerance;
    `notes` what else a reader needs (share of the roofline, memory, the next bottleneck).
    """

    what: str
    against: str
    unit: str
    ours: Sequence[float]
    peer: Sequence[float]
    direction: Direction
    goal: Goal
    checked: str
    notes: str = ""

    def ratios(self) -> list[float]:
        """One a round. For "at least" how many times as good we are; for "at most" ours by theirs.

        Raises ValueError where the sides have not had as many rounds, or none.
        """
        if len(self.ours) != len(self.peer) or not self.ours:
            raise ValueError(f"{self.what}: {len(self.ours)} rounds against {len(self.peer)}")
        swapped = self.goal.kind == "at least" and self.direction == "less is better"
        sides = (self.peer, self.ours) if swapped else (self.ours, self.peer)
        return [over / under for over, under in zip(*sides, strict=True)]

    def ratio(self) -> float:
        """The median round's."""
        return statistics.median(self.ratios())

    def is_met(self) -> bool:
        return self.goal.is_met(self.ratio())

    def __str__(self) -> str:
        ratios = self.ratios()
        medians = [f"{statistics.median(side):.4g}" for side in (self.ours, self.peer)]
        verdict = "met" if self.is_met() else "**missed**"
        cells = (
            self.what,
            self.against,
            f"{medians[0]} against {medians[1]} {self.unit}",
            f"**{self.ratio():.3g}×** [{min(ratios):.3g}, {max(ratios):.3g}], n {len(ratios)}",
            f"{self.goal}, {verdict}",
            "; ".join(text for text in (self.checked, self.notes) if text),
        )
        return "| " + " | ".join(cells) + " |"


@dataclass(frozen=True, slots=True)
class Limit:
    """A row without a peer: medians of `values` in `unit` against a limit."""

    what: str
    unit: str
    values: Sequence[float]
    at_most: float
    checked: str
    notes: str = ""

    def is_met(self) -> bool:
        return statistics.median(self.values) <= self.at_most

    def __str__(self) -> str:
        low, high = min(self.values), max(self.values)
        verdict = "met" if self.is_met() else "**missed**"
        cells = (
            self.what,
            "no peer",
            f"**{statistics.median(self.values):.3g} {self.unit}** [{low:.3g}, {high:.3g}], "
            f"n {len(self.values)}",
            "",
            f"≤ {self.at_most:g} {self.unit}, {verdict}",
            "; ".join(text for text in (self.checked, self.notes) if text),
        )
        return "| " + " | ".join(cells) + " |"


HEAD = """\
| what | against | measured, medians | ratio [least, most of the rounds] | goal | checked; notes |
|---|---|---|---|---|---|"""
