"""One question to an OpenAI-compatible chat server: asked politely, tried again, read as it comes.

Owns what goes over the wire, the limits (at once, a minute), what may be tried again, and that the
key reaches no message. Plain httpx, not huggingface_hub's InferenceClient: that one can't be
interrupted, shares the Hub's session, and refuses every address where HF_HUB_OFFLINE is set. Asks
for one answer a request: servers that ignore `n` are many. Knows no pairs and no weights.
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx

from alignment.chat import GenerationError, UnaskablePrompt
from annotation.schema import Finish, Prompt, Sampling

ATTEMPTS = 6
BACK_OFF_S = (0.5, 8.0)
LONGEST_WAIT_S = 60.0
"""What a server may ask us to wait; past that the request fails and its caller rests."""
TIMEOUT = httpx.Timeout(connect=10.0, read=120.0, write=30.0, pool=None)
MAX_WORDS = 160
_PASSING = frozenset({408, 409, 425, 429})
_TOO_LONG = ("context length", "context window", "too long", "maximum length", "max_model_len")

T = TypeVar("T")
OnText = Callable[[str], None]
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt for the model that the server calls `model`; `seed` is this answer's own."""

    prompt: Prompt
    model: str
    sampling: Sampling
    seed: int

    def to_body(self, *, stream: bool) -> dict[str, Any]:
        # max_tokens: every server knows it, and some know no other name for it.
        return {
            "model": self.model,
            "messages": [{"role": m.role, "content": m.content} for m in self.prompt.messages],
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "max_tokens": self.sampling.max_new_tokens,
            "seed": self.seed,
            "stream": stream,
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """What came; `model` is who the server says it was, None where it does not say."""

    text: str
    finish: Finish
    model: str | None


class ChatServer:
    """The server at `url`, with or without its /v1. For one event loop.

    At most `at_once` requests are open, of which batches leave one for people who wait, and
    `per_minute` begin in a minute. Passing trouble (429, 5xx, timeouts, a lost connection, a torn
    answer) is tried again ATTEMPTS times with back-off, or when the server says; a 429 makes every
    other request wait too. Redirects are not followed, so that the key stays where it was meant.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None,
        at_once: int,
        per_minute: int | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        root = url.rstrip("/").removesuffix("/chat/completions")
        self._url = root if root.rsplit("/", 1)[-1].startswith("v1") else f"{root}/v1"
        self._key = key
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=TIMEOUT,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=at_once),
            follow_redirects=False,
        )
        self._all = asyncio.Semaphore(at_once)
        self._batches = asyncio.Semaphore(max(1, at_once - 1))
        self._pace = _Pace(per_minute, clock, sleep)
        self._sleep = sleep

    async def close(self) -> None:
        await self._client.aclose()

    async def ask(self, question: Question) -> Answer:
        """The whole answer, for a batch. Raises GenerationError, UnaskablePrompt if too long."""

        async def once() -> Answer:
            answer = await self._post(question)
            return _whole(answer.json())

        async with self._batches, self._all:
            return await self._again(once, question.model)

    async def follow(self, question: Question, on_text: OnText) -> Answer:
        """The answer, with all of it so far passed to `on_text` as it comes; else as `ask`.

        After a torn stream it is asked anew, and the text begins anew.
        """

        async def once() -> Answer:
            return await self._stream(question, on_text)

        async with self._all:
            return await self._again(once, question.model)

    async def models(self) -> frozenset[str]:
        """The names that the server lists, none where it can't. Raises GenerationError."""

        async def once() -> frozenset[str]:
            answer = await self._client.get(f"{self._url}/models")
            # Optional among servers: one that fails here may answer all the same.
            if answer.status_code == 404 or answer.status_code >= 500:
                return frozenset()
            _check(answer)
            return frozenset(str(row["id"]) for row in answer.json()["data"])

        return await self._again(once, "its list of models")

    async def _post(self, question: Question) -> httpx.Response:
        answer = await self._client.post(
            f"{self._url}/chat/completions", json=question.to_body(stream=False)
        )
        _check(answer)
        return answer

    async def _stream(self, question: Question, on_text: OnText) -> Answer:
        text, finish, model = "", None, None
        async with AsyncExitStack() as stack:
            answer = await stack.enter_async_context(
                self._client.stream(
                    "POST", f"{self._url}/chat/completions", json=question.to_body(stream=True)
                )
            )
            if not answer.is_success:
                await answer.aread()
            _check(answer)
            async for event in _events(answer):
                model = event.get("model") or model
                for choice in event.get("choices") or ():
                    new = (choice.get("delta") or {}).get("content")
                    finish = choice.get("finish_reason") or finish
                    if new:
                        text += new
                        on_text(text)
        if finish is None:
            raise _Passing("its answer broke off")
        return Answer(text, _finish(finish), model)

    async def _again(self, once: Callable[[], Awaitable[T]], model: str) -> T:
        """`once`, again while its trouble passes. Raises GenerationError in the server's name."""
        for attempt in range(1, ATTEMPTS + 1):
            await self._pace.turn()
            try:
                return await once()
            except _Passing as error:
                trouble = error
            except httpx.RequestError as error:
                trouble = _Passing(f"the connection failed ({type(error).__name__})")
            except (ValueError, LookupError, TypeError, AttributeError):
                trouble = _Passing("its answer makes no sense")
            except _Refusal as error:
                raise self._refused(error, model) from None
            wait_s = _back_off(attempt) if trouble.wait_s is None else trouble.wait_s
            if attempt == ATTEMPTS or wait_s > LONGEST_WAIT_S:
                break
            if trouble.is_for_all:
                self._pace.rest(wait_s)
            else:
                await self._sleep(wait_s)
        raise GenerationError(
            f"The generation server does not answer now: {trouble}. "
            "It is asked again in a while; check GENERATION_URL if this stays."
        )

    def _refused(self, error: "_Refusal", model: str) -> GenerationError:
        status, words = error.status, error.words
        if self._key:
            words = words.replace(self._key, "(key)")
        if status in (400, 413, 422) and any(told in words.lower() for told in _TOO_LONG):
            return UnaskablePrompt("The prompt is too long for the model: shorten it.")
        if line := _REFUSALS.get(status):
            return GenerationError(line.format(model=model))
        if 300 <= status < 400:
            return GenerationError(
                f"The generation server sends us elsewhere (HTTP {status}): set GENERATION_URL to "
                "the address that answers itself."
            )
        return GenerationError(
            f"The generation server refused a request for {model} (HTTP {status}: "
            f"{words[:MAX_WORDS]}): check GENERATION_MODEL."
        )


_REFUSALS = {
    401: "The generation server refused GENERATION_API_KEY (HTTP 401): set a valid one.",
    402: "The account at the generation server has no credit (HTTP 402): add some.",
    403: "GENERATION_API_KEY may not use {model} (HTTP 403): set a key that may.",
    404: "The generation server has no {model} at this address (HTTP 404): check GENERATION_URL "
    "and GENERATION_MODEL.",
}


class _Passing(Exception):
    """Trouble that may pass. `wait_s` is what the server asked for, of everybody if `is_for_all`"""

    def __init__(self, what: str, *, wait_s: float | None = None, is_for_all: bool = False) -> None:
        super().__init__(what)
        self.wait_s = wait_s
        self.is_for_all = is_for_all and wait_s is not None


class _Refusal(Exception):
    """An answer that would be the same the next time."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.words = words


class _Pace:
    """When the next request may begin: so many a minute, and none while the server wants rest."""

    def __init__(self, per_minute: int | None, clock: Callable[[], float], sleep: Sleep) -> None:
        self._gap_s = 60.0 / per_minute if per_minute else 0.0
        self._clock = clock
        self._sleep = sleep
        self._next = self._rest_until = clock()

    def rest(self, wait_s: float) -> None:
        self._rest_until = max(self._rest_until, self._clock() + wait_s)

    async def turn(self) -> None:
        now = self._clock()
        begin = max(now, self._next)
        self._next = begin + self._gap_s
        while (wait_s := max(begin, self._rest_until) - now) > 0:
            await self._sleep(wait_s)
            now = self._clock()


def _check(answer: httpx.Response) -> None:
    """Raise _Passing or _Refusal unless it is a success; its body must have been read."""
    status = answer.status_code
    if answer.is_success:
        return
    if status in _PASSING or status >= 500:
        wait_s = _retry_after(answer.headers.get("Retry-After"))
        busy = status in (429, 503)
        raise _Passing(f"it is busy or in trouble (HTTP {status})", wait_s=wait_s, is_for_all=busy)
    raise _Refusal(status, _words(answer))


def _back_off(attempt: int) -> float:
    longest = min(BACK_OFF_S[1], BACK_OFF_S[0] * 2 ** (attempt - 1))
    return float(longest * random.uniform(0.5, 1.0))  # noqa: S311 - only spreads requests


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds them or a date; None where it holds neither."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())


def _words(answer: httpx.Response) -> str:
    """What the server says is wrong, in whichever shape it says so."""
    try:
        held = answer.json()
        said = held.get("error") or held.get("detail") or held.get("message") or ""
        return " ".join(str(said.get("message", "") if isinstance(said, dict) else said).split())
    except (ValueError, AttributeError):
        return "no reason given"


def _whole(held: Mapping[str, Any]) -> Answer:
    choice = held["choices"][0]
    text = choice["message"].get("content") or ""
    if not isinstance(text, str):
        raise TypeError("content is no text")
    return Answer(text, _finish(choice.get("finish_reason")), held.get("model"))


def _finish(reason: str | None) -> Finish:
    return "length" if reason == "length" else "stop"


async def _events(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The JSON of each server-sent event; an error that comes as one is raised."""
    async for line in answer.aiter_lines():
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data == "[DONE]":
            continue
        event = json.loads(data)
        if event.get("error"):
            raise _Passing("its answer broke off with an error")
        yield event
