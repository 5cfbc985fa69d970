"""A voter's own prompt: two answers drawn while they watch, then a pair like any other.

Owns who may ask and when, the queue, and that a pair is stored and given before it is shown whole.
Never draws through the pool's sampler, so the pool does not wait. Knows no HTTP and no weights: a
Streamer draws, in a thread of this service's own.
"""

import asyncio
import contextlib
import logging
import secrets
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, Protocol

from annotation.faults import Fault, Unaskable
from annotation.journal.journal import Journal, JournalFull
from annotation.prompts import clean_text, to_prompt
from annotation.schema import (
    Completion,
    Finish,
    ModelRef,
    Pair,
    PairKind,
    Prompt,
    Sampling,
    utc_now,
)
from annotation.voting import LEASE, IssuedPair
from annotation.web.voters import TokenBuckets

Mode = Literal["open", "moderated", "off"]
MAX_OWN_PROMPT_CHARACTERS = 2000
MAX_WAITING = 8
"""Prompts that wait behind the one that is being answered."""
FULL_WAIT_S = 10.0
REDRAWS = 3
DRAFT_EVERY_S = 0.1
COMMIT_TIMEOUT_S = 60.0
_SEEDS = 1 << 31
_log = logging.getLogger(__name__)


class Streamer(Protocol):
    """Draws answers and shows them as they grow."""

    def stream(
        self, prompt: Prompt, models: Sequence[ModelRef], sampling: Sampling
    ) -> Generator[tuple[str, ...], None, tuple[Finish, ...]]:
        """Yield the answers so far, last the whole ones, and return how each ended.

        Closing it stops the drawing. Raises Unaskable for a prompt that does not fit the model,
        and may raise anything else.
        """
        ...


class OwnPromptsOff(Fault):
    """The owner takes no prompts of voters."""


class BadOwnPrompt(Fault):
    """A prompt that nobody could answer."""


class AlreadyAsking(Fault):
    """This voter's last prompt is still being answered."""


class AskLater(Fault):
    """Not now: `wait_s` says in how many seconds it may work."""

    def __init__(self, line: str, wait_s: float) -> None:
        super().__init__(line)
        self.wait_s = wait_s


class TooManyAsking(AskLater):
    """The queue is full."""


class AskedTooOften(AskLater):
    """This voter asks faster than once in 10 seconds."""


@dataclass(frozen=True, slots=True)
class Draft:
    """Both answers so far, by this voter's sides. A later one may be shorter: drawn again."""

    a: str
    b: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The pair, stored and given to its author."""

    pair: IssuedPair


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Why there is no pair, in one line for the voter."""

    why: str


Line = Draft | Answered | Unanswered


class Asking:
    """One prompt on its way: lines for the event loop that asked, told from another thread."""

    def __init__(self, voter: str, prompt: Prompt) -> None:
        self.voter = voter
        self.prompt = prompt
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[Line] = asyncio.Queue()
        self._left = threading.Event()

    def is_left(self) -> bool:
        """Whether nobody reads any more."""
        return self._left.is_set()

    def leave(self) -> None:
        """Stop the drawing: nobody reads any more."""
        self._left.set()

    def tell(self, line: Line) -> None:
        """From any thread."""
        # A loop that is closed has nobody who reads.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._lines.put_nowait, line)

    async def lines(self) -> AsyncIterator[Line]:
        """Drafts, of which a slow reader gets the newest only, and then what became of it."""
        line: Line = Draft("", "")
        while isinstance(line, Draft):
            line = await self._lines.get()
            while isinstance(line, Draft) and not self._lines.empty():
                line = self._lines.get_nowait()
            yield line


class OwnPrompts:
    """Takes prompts of voters, one at a time for each, and answers them one after the other.

    `open`: the pair goes round like any other. `moderated`: only its author has it until the owner
    approves it. `off`: none is taken. `flipped` says which sides a voter sees.
    """

    def __init__(
        self,
        journal: Journal,
        streamer: Streamer,
        *,
        mode: Mode,
        model: Callable[[], ModelRef],
        sampling: Sampling,
        flipped: Callable[[str, str], bool],
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._journal = journal
        self._streamer = streamer
        self._mode = mode
        self._model = model
        self._sampling = sampling
        self._flipped = flipped
        self._clock = clock
        self._buckets = TokenBuckets(rate_per_s=0.1, burst=3)
        self._gate = threading.Lock()
        self._asking: dict[str, Asking] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="own-prompts")

    def ask(self, voter: str, text: str) -> Asking:
        """Queue a prompt; for an event loop, at once.

        Raises OwnPromptsOff, BadOwnPrompt, AlreadyAsking, TooManyAsking or AskedTooOften.
        """
        if self._mode == "off":
            raise OwnPromptsOff("Own prompts are not taken here: vote on the pairs that there are.")
        if len(text) > MAX_OWN_PROMPT_CHARACTERS:
            raise BadOwnPrompt(
                f"The prompt has {len(text):,} characters: shorten it to "
                f"{MAX_OWN_PROMPT_CHARACTERS:,}."
            )
        prompt = to_prompt(text)
        if prompt is None:
            raise BadOwnPrompt("The prompt is empty: ask something first.")
        with self._gate:
            if voter in self._asking:
                raise AlreadyAsking("Your last prompt is still being answered: wait for it.")
            if len(self._asking) > MAX_WAITING:
                raise TooManyAsking(
                    "Many voters are asking just now: try again in 10 seconds.", FULL_WAIT_S
                )
            wait_s = self._buckets.take(voter)
            if wait_s:
                raise AskedTooOften("One prompt in 10 seconds: wait a moment, then ask.", wait_s)
            asking = self._asking[voter] = Asking(voter, prompt)
        self._thread.submit(self._answer, asking)
        return asking

    def stop(self) -> None:
        """Take no more time for any prompt; the one in flight ends with its streamer."""
        with self._gate:
            for asking in self._asking.values():
                asking.leave()
                asking.tell(Unanswered("The app is stopping: ask again in a minute."))
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _answer(self, asking: Asking) -> None:
        line: Line | None
        try:
            line = self._draw(asking)
        except Unaskable as error:
            line = Unanswered(str(error))
        except JournalFull:
            line = Unanswered("The server's disk is full, so nothing was saved: try later.")
        # A thread's boundary: the voter is told, and the next prompt may work.
        except Exception:  # noqa: BLE001
            _log.exception("an own prompt failed")
            line = Unanswered("The model could not answer this time: try again in a minute.")
        with self._gate:
            del self._asking[asking.voter]
        # Only now: whoever reads this line may ask again.
        if line is not None:
            asking.tell(line)

    def _draw(self, asking: Asking) -> Line | None:
        """What became of the prompt, the pair on disk; None where nobody waits for it."""
        pair_id, model = uuid.uuid4().hex, self._model()
        flipped = self._flipped(pair_id, asking.voter)
        for _ in range(1 + REDRAWS):
            sampling = replace(self._sampling, seed=secrets.randbelow(_SEEDS))
            drawn = self._follow(asking, [model, model], sampling, flipped)
            if drawn is None:
                return None
            first, second = drawn
            if first.text and second.text and first.text.strip() != second.text.strip():
                now = self._clock()
                pair = self._pair(pair_id, asking, (first, second), now)
                self._journal.add_own_pair(pair, lease=LEASE, now=now).result(COMMIT_TIMEOUT_S)
                a, b = pair.shown(flipped)
                return Answered(IssuedPair(pair.id, pair.prompt, a.text, b.text))
        return Unanswered("The model gave the same answer twice, or none: ask something else.")

    def _follow(
        self, asking: Asking, models: Sequence[ModelRef], sampling: Sampling, flipped: bool
    ) -> list[Completion] | None:
        """One answer of each model, told as they grow; None when nobody reads any more."""
        if asking.is_left():
            return None
        texts: tuple[str, ...] = ()
        told_at = 0.0
        with closing(self._streamer.stream(asking.prompt, models, sampling)) as stream:
            while True:
                try:
                    texts = next(stream)
                except StopIteration as end:
                    finishes: tuple[Finish, ...] = end.value
                    break
                if asking.is_left():
                    return None
                if time.monotonic() - told_at > DRAFT_EVERY_S:
                    told_at = time.monotonic()
                    a, b = reversed(texts) if flipped else texts
                    asking.tell(Draft(a, b))
        return [
            Completion(clean_text(text).rstrip(), model, sampling, finish)
            for text, model, finish in zip(texts, models, finishes, strict=True)
        ]

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
            only_for=asking.voter if self._mode == "moderated" else None,
            author=asking.voter,
        )
