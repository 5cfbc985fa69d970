"""One queue for whatever people ask while they watch: answers drawn in turn, told as they grow.

Owns who may ask and when, and the one thread that draws, so that a question never holds up the
pool, a vote or an event loop. Knows no HTTP, no page and no weights: a Streamer draws. What is
asked, and what becomes of the answers, is the caller's.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol

from annotation.faults import Fault, Unaskable
from annotation.journal.journal import JournalFull
from annotation.prompts import clean_text, to_prompt
from annotation.schema import Completion, Finish, ModelRef, Prompt, Sampling
from annotation.voting import IssuedPair
from annotation.web.voters import TokenBuckets

MAX_PROMPT_CHARACTERS = 2000
MAX_WAITING = 8
"""Prompts that wait behind the one that is being answered."""
MAX_UNPACED = 4
"""Of these, such as are not paced: whoever asks without a name must not fill the queue."""
FULL_WAIT_S = 10.0
STOPPED = "Stopped."
DRAFT_EVERY_S = 0.1
_log = logging.getLogger(__name__)


class Streamer(Protocol):
    """Draws answers and shows them as they grow."""

    def stream(
        self,
        prompt: Prompt,
        models: Sequence[ModelRef],
        sampling: Sampling,
        count: Callable[[Sequence[int]], None],
    ) -> Generator[tuple[str, ...], None, tuple[Finish, ...]]:
        """Yield the answers so far, last the whole ones, and return how each ended.

        `count` is told their tokens before each. Closing it stops the drawing. Raises Unaskable
        for a prompt that does not fit the model, and may raise anything else.
        """
        ...


class BadPrompt(Fault):
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
class Answer:
    """One answer so far. `tokens_per_s` counts from the first token on, None until it can.

    `finish` says how it ended, None while it grows.
    """

    text: str = ""
    tokens: int = 0
    tokens_per_s: float | None = None
    finish: Finish | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """The answers so far, by the sides of who asked. A later one may be shorter: drawn again."""

    answers: tuple[Answer, ...] = ()


@dataclass(frozen=True, slots=True)
class Answered:
    """The pair, stored and given to its author."""

    pair: IssuedPair


@dataclass(frozen=True, slots=True)
class Shown:
    """The whole answers, where nothing is stored."""

    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Why there is no answer, in one line for who asked."""

    why: str


Line = Draft | Answered | Shown | Unanswered


class Asking:
    """One prompt on its way: lines for the event loop that asked, told from another thread."""

    def __init__(self, who: str, prompt: Prompt, *, paced: bool = True) -> None:
        self.who = who
        self.prompt = prompt
        self.paced = paced
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[Line] = asyncio.Queue()
        self._left = threading.Event()

    def __enter__(self) -> "Asking":
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def is_left(self) -> bool:
        """Whether nobody reads any more."""
        return self._left.is_set()

    def leave(self) -> None:
        """Stop the drawing: nobody reads any more."""
        self._left.set()

    def stop(self) -> None:
        """End it now, at the wish of who asked, and say so."""
        self.leave()
        self.tell(Unanswered(STOPPED))

    def tell(self, line: Line) -> None:
        """From any thread."""
        # A loop that is closed has nobody who reads.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._lines.put_nowait, line)

    async def lines(self) -> AsyncIterator[Line]:
        """Drafts, of which a slow reader gets the newest only, and then what became of it."""
        line: Line = Draft()
        while isinstance(line, Draft):
            line = await self._lines.get()
            while isinstance(line, Draft) and not self._lines.empty():
                line = self._lines.get_nowait()
            yield line


Draw = Callable[[Asking], Line | None]
"""Draws in the queue's thread: what became of the prompt, None where nobody waits for it."""


class AskQueue:
    """Answers prompts one after the other, in a thread of its own.

    Whoever asks under a name may have one prompt on its way, and where `paced` three at once and
    then one in 10 seconds.
    """

    def __init__(self, streamer: Streamer, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._streamer = streamer
        self._clock = clock
        self._buckets = TokenBuckets(rate_per_s=0.1, burst=3)
        self._gate = threading.Lock()
        self._asking: dict[str, Asking] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="asking")

    def ask(self, who: str, prompt: Prompt, draw: Draw, *, paced: bool = True) -> Asking:
        """Queue a prompt; for an event loop, at once.

        Raises AlreadyAsking, TooManyAsking or AskedTooOften.
        """
        with self._gate:
            if who in self._asking:
                raise AlreadyAsking("Your last prompt is still being answered: wait for it.")
            others = [a for a in self._asking.values() if not a.paced and not a.is_left()]
            if len(self._asking) > MAX_WAITING or (not paced and len(others) >= MAX_UNPACED):
                raise TooManyAsking(
                    "Many voters are asking just now: try again in 10 seconds.", FULL_WAIT_S
                )
            wait_s = self._buckets.take(who) if paced else 0.0
            if wait_s:
                raise AskedTooOften("One prompt in 10 seconds: wait a moment, then ask.", wait_s)
            asking = self._asking[who] = Asking(who, prompt, paced=paced)
        self._thread.submit(self._answer, asking, draw)
        return asking

    def follow(
        self,
        asking: Asking,
        models: Sequence[ModelRef],
        sampling: Sampling,
        *,
        flipped: bool = False,
    ) -> tuple[Answer, ...] | None:
        """One answer of each model, told as they grow; None when nobody reads any more.

        What is told is by sides, the other way round where `flipped`; what is returned is not.
        """
        if asking.is_left():
            return None
        pace = _Pace(len(models), self._clock)
        texts: tuple[str, ...] = ()
        told_at = 0.0
        stream = self._streamer.stream(asking.prompt, models, sampling, pace.count)
        with closing(stream):
            while True:
                try:
                    texts = next(stream)
                except StopIteration as end:
                    finishes: tuple[Finish, ...] = end.value
                    break
                if asking.is_left():
                    return None
                if self._clock() - told_at > DRAFT_EVERY_S:
                    told_at = self._clock()
                    so_far = pace.answers(texts)
                    asking.tell(Draft(so_far[::-1] if flipped else so_far))
        return tuple(
            replace(answer, text=clean_text(answer.text).rstrip(), finish=finish)
            for answer, finish in zip(pace.answers(texts), finishes, strict=True)
        )

    def stop(self) -> None:
        """Take no more time for any prompt; the one in flight ends with its streamer."""
        with self._gate:
            for asking in self._asking.values():
                asking.leave()
                asking.tell(Unanswered("The app is stopping: ask again in a minute."))
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _answer(self, asking: Asking, draw: Draw) -> None:
        line: Line | None
        try:
            line = draw(asking)
        except Unaskable as error:
            line = Unanswered(str(error))
        except JournalFull:
            line = Unanswered("The server's disk is full, so nothing was saved: try later.")
        # A thread's boundary: the voter is told, and the next prompt may work.
        except Exception:  # noqa: BLE001
            _log.exception("a prompt failed")
            line = Unanswered("The model could not answer this time: try again in a minute.")
        with self._gate:
            del self._asking[asking.who]
        # Only now: whoever reads this line may ask again.
        if line is not None:
            asking.tell(line)


class _Pace:
    """How fast answers grow: each is measured from the moment it first had tokens."""

    def __init__(self, answers: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tokens = [0] * answers
        self._first: list[tuple[int, float]] = [(0, 0.0)] * answers
        self._rates: list[float | None] = [None] * answers

    def count(self, tokens: Sequence[int]) -> None:
        now = self._clock()
        for side, (before, after) in enumerate(zip(self._tokens, tokens, strict=True)):
            if after > before == 0:
                self._first[side] = (after, now)
            elif after > before:
                had, since = self._first[side]
                self._rates[side] = (after - had) / (now - since) if now > since else None
        self._tokens = list(tokens)

    def answers(self, texts: Sequence[str]) -> tuple[Answer, ...]:
        measured = zip(texts, self._tokens, self._rates, strict=True)
        return tuple(Answer(text, tokens, rate) for text, tokens, rate in measured)


def to_askable(text: str) -> Prompt:
    """The prompt that `text` makes; raises BadPrompt for an empty or overlong one."""
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise BadPrompt(
            f"The prompt has {len(text):,} characters: shorten it to {MAX_PROMPT_CHARACTERS:,}."
        )
    prompt = to_prompt(text)
    if prompt is None:
        raise BadPrompt("The prompt is empty: ask something first.")
    return prompt


def to_completions(
    answers: Sequence[Answer], models: Sequence[ModelRef], sampling: Sampling
) -> list[Completion]:
    """What is stored of whole answers."""
    return [
        Completion(answer.text, model, sampling, answer.finish or "stop")
        for answer, model in zip(answers, models, strict=True)
    ]


def are_a_pair(answers: Sequence[Answer]) -> bool:
    """Whether two answers can be voted on: neither is empty, and they differ."""
    first, second = (answer.text.strip() for answer in answers)
    return bool(first and second) and first != second
