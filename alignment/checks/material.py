"""What the checks of the data doctor look at, and how they write figures. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from annotation.export.export import PreparedExport
from annotation.quality.voter_health import VoterHealth
from annotation.schema import PreferenceExample, Vote

RARE = 0.01
"""A lean counts when chance gives it less than once in a hundred: people look at this often."""


@dataclass(frozen=True, slots=True)
class Material:
    """What the checks look at: the dataset as it would be exported, and the live votes.

    `suspects` are voters whom the quality figures flag and whose votes are among them.
    """

    prepared: PreparedExport
    votes: Sequence[Vote]
    min_examples: int
    suspects: Sequence[VoterHealth] = ()

    @property
    def examples(self) -> Sequence[PreferenceExample]:
        return self.prepared.examples

    @property
    def train_pairs(self) -> int:
        """Voted pairs whose prompt may be trained on."""
        return self.prepared.counts.pairs_voted - self.prepared.counts.eval_left_out


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def count_of(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
