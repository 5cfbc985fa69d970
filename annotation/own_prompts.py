"""A voter's own prompt: two answers drawn while they watch, then a pair like any other.

Owns whether such prompts are taken, and who sees what came of one. Who may ask and when is the
queue's; knows no HTTP.
"""

import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Literal

from annotation.asking import Asking, AskQueue, Line, to_askable
from annotation.drawn_pair import PairDrawer
from annotation.faults import Fault
from annotation.journal.journal import Journal
from annotation.schema import ModelRef, PairKind, Sampling, utc_now

Mode = Literal["open", "moderated", "off"]


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
        self._queue = queue
        self._mode = mode
        self._model = model
        self._drawer = PairDrawer(journal, queue, sampling, flipped, clock)

    def ask(self, voter: str, text: str) -> Asking:
        """Queue a prompt; for an event loop, at once.

        Raises OwnPromptsOff, BadPrompt, AlreadyAsking, TooManyAsking or AskedTooOften.
        """
        if self._mode == "off":
            raise OwnPromptsOff("Own prompts are not taken here: vote on the pairs that there are.")
        return self._queue.ask(voter, to_askable(text), self._draw)

    def _draw(self, asking: Asking) -> Line | None:
        """What became of the prompt; None where nobody waits for it."""
        model = self._model()
        return self._drawer.draw(
            asking,
            uuid.uuid4().hex,
            [model, model],
            kind=PairKind.OWN,
            only_for=asking.who if self._mode == "moderated" else None,
            alike="The model gave the same answer twice, or none: ask something else.",
        )
