"""A voter's own prompt: two answers drawn while they watch, then a pair like any other.

Owns that a pair is stored and given before it is shown whole, and who sees it. Who may ask and
when is the queue's; knows no HTTP.
"""

import secrets
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Literal

from annotation.asking import (
    Answered,
    Asking,
    AskQueue,
    Line,
    Unanswered,
    are_a_pair,
    to_askable,
    to_completions,
)
from annotation.faults import Fault
from annotation.journal.journal import Journal
from annotation.schema import Completion, ModelRef, Pair, PairKind, Sampling, utc_now
from annotation.voting import LEASE, IssuedPair

Mode = Literal["open", "moderated", "off"]
REDRAWS = 3
COMMIT_TIMEOUT_S = 60.0
SEEDS = 1 << 31


class OwnPromptsOff(Fault):
    """The owner takes no prompts of voters."""


class OwnPrompts:
    """Takes prompts of voters and has the policy answer each twice.

    `open`: the pair goes round like any other. `moderated`: only its author has it until the owner
    approves it. `off`: none is taken. `flipped` says which sides a voter sees.
    """

    def __init__(
        self,
        journal: Journal,
        queue: AskQueue,
        *,
        mode: Mode,
        model: Callable[[], ModelRef],
        sampling: Sampling,
        flipped: Callable[[str, str], bool],
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._journal = journal
        self._queue = queue
        self._mode = mode
        self._model = model
        self._sampling = sampling
        self._flipped = flipped
        self._clock = clock

    def ask(self, voter: str, text: str) -> Asking:
        """Queue a prompt; for an event loop, at once.

        Raises OwnPromptsOff, BadPrompt, AlreadyAsking, TooManyAsking or AskedTooOften.
        """
        if self._mode == "off":
            raise OwnPromptsOff("Own prompts are not taken here: vote on the pairs that there are.")
        return self._queue.ask(voter, to_askable(text), self._draw)

    def _draw(self, asking: Asking) -> Line | None:
        """What became of the prompt, the pair on disk; None where nobody waits for it."""
        pair_id, model = uuid.uuid4().hex, self._model()
        flipped = self._flipped(pair_id, asking.who)
        for _ in range(1 + REDRAWS):
            sampling = replace(self._sampling, seed=secrets.randbelow(SEEDS))
            answers = self._queue.follow(asking, [model, model], sampling, flipped=flipped)
            if answers is None:
                return None
            if are_a_pair(answers):
                first, second = to_completions(answers, [model, model], sampling)
                now = self._clock()
                pair = self._pair(pair_id, asking, (first, second), now)
                self._journal.add_own_pair(pair, lease=LEASE, now=now).result(COMMIT_TIMEOUT_S)
                a, b = pair.shown(flipped)
                return Answered(IssuedPair(pair.id, pair.prompt, a.text, b.text))
        return Unanswered("The model gave the same answer twice, or none: ask something else.")

    def _pair(
        self,
        pair_id: str,
        asking: Asking,
        completions: tuple[Completion, Completion],
        now: datetime,
    ) -> Pair:
        return Pair(
            id=pair_id,
            prompt=asking.prompt,
            completions=completions,
            created_at=now,
            kind=PairKind.OWN,
            only_for=asking.who if self._mode == "moderated" else None,
            author=asking.who,
        )
