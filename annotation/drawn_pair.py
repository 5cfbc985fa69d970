"""Two answers drawn while somebody watches, again until they can be voted on, and kept as a pair.

Owns that a pair is stored and given to whoever asked before it is shown whole. Which models
answer, and what kind of pair it is, is the caller's; who may ask and when, the queue's.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from annotation.asking import (
    Answered,
    Asking,
    AskQueue,
    Line,
    Unanswered,
    are_a_pair,
    to_completions,
)
from annotation.journal.journal import Journal
from annotation.schema import ModelRef, Pair, PairKind, Sampling
from annotation.voting import LEASE, IssuedPair

REDRAWS = 3
COMMIT_TIMEOUT_S = 60.0
SEEDS = 1 << 31


@dataclass(frozen=True, slots=True)
class PairDrawer:
    """Draws through `queue` into `journal`. `flipped` says which sides a voter sees of a pair."""

    journal: Journal
    queue: AskQueue
    sampling: Sampling
    flipped: Callable[[str, str], bool]
    clock: Callable[[], datetime]

    def draw(
        self,
        asking: Asking,
        pair_id: str,
        models: Sequence[ModelRef],
        *,
        kind: PairKind,
        only_for: str | None,
        alike: str,
    ) -> Line | None:
        """What became of the prompt, its pair on disk; None where nobody waits for it.

        The two of `models` may be one and the same. `alike` is said where they never differed.
        """
        flipped = self.flipped(pair_id, asking.who)
        for _ in range(1 + REDRAWS):
            sampling = replace(self.sampling, seed=secrets.randbelow(SEEDS))
            answers = self.queue.follow(asking, models, sampling, flipped=flipped)
            if answers is None:
                return None
            if are_a_pair(answers):
                first, second = to_completions(answers, models, sampling)
                now = self.clock()
                pair = Pair(
                    id=pair_id,
                    prompt=asking.prompt,
                    completions=(first, second),
                    created_at=now,
                    kind=kind,
                    only_for=only_for,
                    author=asking.who,
                )
                self.journal.add_own_pair(pair, lease=LEASE, now=now).result(COMMIT_TIMEOUT_S)
                a, b = pair.shown(flipped)
                return Answered(IssuedPair(pair.id, pair.prompt, a.text, b.text))
        return Unanswered(alike)
