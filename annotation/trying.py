"""A voter's prompt answered by two models that are not named until the voter has decided.

Owns which two models those are and that the pair is for this voter alone, of a kind that no gate,
leaderboard or export reads. The vote on it is `Voting`'s, like any other.
"""

import hmac
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import combinations

from annotation.asking import Asking, AskQueue, Line, Unanswered, to_askable
from annotation.drawn_pair import PairDrawer
from annotation.journal.journal import Journal
from annotation.schema import ModelRef, PairKind, Sampling, utc_now

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
        self._queue = queue
        self._models = models
        self._secret = secret
        self._drawer = PairDrawer(journal, queue, sampling, flipped, clock)

    def why_not(self) -> str | None:
        """Why nothing can be asked blind just now, None where it can. Reads the disk."""
        return ONE_MODEL if len(self._models()) < 2 else None

    def ask(self, voter: str, text: str) -> Asking:
        """Queue a prompt; for an event loop, at once.

        Raises BadPrompt, AlreadyAsking, TooManyAsking or AskedTooOften.
        """
        return self._queue.ask(voter, to_askable(text), self._draw)

    def _draw(self, asking: Asking) -> Line | None:
        pair_id, found = uuid.uuid4().hex, self._models()
        if len(found) < 2:
            return Unanswered(ONE_MODEL)
        return self._drawer.draw(
            asking,
            pair_id,
            self._two_of(found, pair_id, asking.who),
            kind=PairKind.TRIED,
            only_for=asking.who,
            alike="Both models said the same, or nothing: ask something else.",
        )

    def _two_of(self, models: Sequence[ModelRef], pair_id: str, voter: str) -> list[ModelRef]:
        """Two models, all choices as likely, that nobody without the key can foretell."""
        choices = list(combinations(models, 2))
        drawn = hmac.digest(self._secret, f"try\0{pair_id}\0{voter}".encode(), "sha256")
        return list(choices[int.from_bytes(drawn[:8], "big") % len(choices)])
