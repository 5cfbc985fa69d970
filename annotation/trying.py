"""A voter's prompt answered by two models that are not named until the voter has decided.

Owns which two models those are and that the pair is for this voter alone, of a kind that no gate,
leaderboard or export reads. The vote on it is `Voting`'s, like any other.
"""

import hmac
import secrets
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import combinations

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
from annotation.journal.journal import Journal
from annotation.own_prompts import COMMIT_TIMEOUT_S, REDRAWS, SEEDS
from annotation.schema import ModelRef, Pair, PairKind, Sampling, utc_now
from annotation.voting import LEASE, IssuedPair

ONE_MODEL = (
    "Only one model is here, so there is nothing to compare blind yet: "
    "once one is trained on the votes, it can be."
)


class BlindTries:
    """Asks two of `models` unnamed; which two is drawn by a keyed hash, as the sides are."""

    def __init__(
        self,
        journal: Journal,
        queue: AskQueue,
        *,
        models: Callable[[], Sequence[ModelRef]],
        sampling: Sampling,
        flipped: Callable[[str, str], bool],
        secret: bytes,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._journal = journal
        self._queue = queue
        self._models = models
        self._sampling = sampling
        self._flipped = flipped
        self._secret = secret
        self._clock = clock

    def why_not(self) -> str | None:
        """Why nothing can be asked blind just now, None where it can. Reads the disk."""
        return ONE_MODEL if len(self._models()) < 2 else None

    def ask(self, voter: str, text: str) -> Asking:
        """Queue a prompt; for an event loop, at once.

        Raises BadPrompt, AlreadyAsking, TooManyAsking or AskedTooOften.
        """
        return self._queue.ask(voter, to_askable(text), self._draw)

    def _draw(self, asking: Asking) -> Line | None:
        pair_id = uuid.uuid4().hex
        flipped = self._flipped(pair_id, asking.who)
        found = self._models()
        if len(found) < 2:
            return Unanswered(ONE_MODEL)
        models = self._two_of(found, pair_id, asking.who)
        for _ in range(1 + REDRAWS):
            sampling = replace(self._sampling, seed=secrets.randbelow(SEEDS))
            answers = self._queue.follow(asking, models, sampling, flipped=flipped)
            if answers is None:
                return None
            if are_a_pair(answers):
                first, second = to_completions(answers, models, sampling)
                now = self._clock()
                pair = Pair(
                    id=pair_id,
                    prompt=asking.prompt,
                    completions=(first, second),
                    created_at=now,
                    kind=PairKind.TRIED,
                    only_for=asking.who,
                    author=asking.who,
                )
                self._journal.add_own_pair(pair, lease=LEASE, now=now).result(COMMIT_TIMEOUT_S)
                a, b = pair.shown(flipped)
                return Answered(IssuedPair(pair.id, pair.prompt, a.text, b.text))
        return Unanswered("Both models said the same, or nothing: ask something else.")

    def _two_of(self, models: Sequence[ModelRef], pair_id: str, voter: str) -> list[ModelRef]:
        """Two models, all choices as likely, that nobody without the key can foretell."""
        choices = list(combinations(models, 2))
        drawn = hmac.digest(self._secret, f"try\0{pair_id}\0{voter}".encode(), "sha256")
        return list(choices[int.from_bytes(drawn[:8], "big") % len(choices)])
