"""Sampling from a chat server: a Generator whose weights are somebody else's business.

Owns which name of the server's answers as which of our models, that each answer has a seed of its
own, and the watch for a server that does not sample. What is asked and how often it is tried is
`chat_server`'s. Its own thread runs one event loop, so that a stop interrupts what is in flight.
"""

import asyncio
import threading
from collections.abc import Coroutine, Generator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeVar

from alignment.chat import GenerationError, UnaskablePrompt
from alignment.sampling.chat_server import Answer, ChatServer, Question
from alignment.sampling.token_feed import Count, count_nothing
from alignment.settings import AlignmentSettings
from annotation.schema import Completion, Finish, ModelRef, Prompt, Sampling

SEEDS = 1 << 31
SAME_AT_MOST = 8
"""Prompts in a row, each answered twice the same, before the server is said not to sample."""
SAME_AT_MOST_ONCE_SAMPLED = 64
"""So many where it was seen to sample: some prompts have one answer only."""
SAMPLES = 0.5
"""The least temperature at which two answers should differ."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RemoteSettings:
    """Where to sample: `names` are the server's for our aligned models, where they differ."""

    url: str
    base_name: str
    names: Mapping[str, str]
    key: str | None = field(repr=False)
    at_once: int
    per_minute: int | None


def remote_settings(settings: AlignmentSettings, base: ModelRef) -> RemoteSettings | None:
    """Where GENERATION_URL says to sample, None where it says nothing."""
    if settings.generation_url is None:
        return None
    names, key = settings.served_names, settings.generation_api_key
    return RemoteSettings(
        url=settings.generation_url,
        base_name=names.pop("base", base.base),
        names=names,
        key=key.get_secret_value() if key else None,
        at_once=settings.generation_at_once,
        per_minute=settings.generation_per_minute,
    )


class RemoteGenerator:
    """Samples and streams from the chat server that `settings` names; `base` is what it speaks.

    The base answers under `base_name`. An aligned model answers under its name in `names`, else
    under our own name for it (a run's id, owner/name), if the server lists that. A model that the
    server lacks, or answers for in another's name, is refused: nobody is to compare a model with
    itself. Any number of threads may ask at once.
    """

    def __init__(
        self, base: ModelRef, settings: RemoteSettings, *, server: ChatServer | None = None
    ) -> None:
        self._base = base
        self._settings = settings
        self._server = server
        self._listed: frozenset[str] = frozenset()
        self._watch = _SampleWatch()
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = False

    def start(self) -> None:
        """Run the event loop unless it runs; raises GenerationError after `stop`."""
        self._running_loop()

    def sample(
        self, prompts: Sequence[Prompt], *, model: ModelRef, sampling: Sampling, per_prompt: int
    ) -> list[list[Completion]]:
        """As LocalGenerator.sample, asked of the server. Raises GenerationError."""
        return self.sample_each(prompts, models=[model] * per_prompt, sampling=sampling)

    def sample_each(
        self, prompts: Sequence[Prompt], *, models: Sequence[ModelRef], sampling: Sampling
    ) -> list[list[Completion]]:
        """As LocalGenerator.sample_each. Raises GenerationError.

        Also where the server keeps giving the same answer twice, as one that ignores the
        temperature does: no pair can be made of that.
        """
        drawn = self._wait(self._draw_all(prompts, models, sampling))
        self._watch.see(prompts, models, sampling, [[a.text for a in some] for some in drawn])
        return [
            [
                Completion(answer.text, model, sampling, answer.finish)
                for model, answer in zip(models, answers, strict=False)
            ]
            for answers in drawn
        ]

    def stream(
        self,
        prompt: Prompt,
        models: Sequence[ModelRef],
        sampling: Sampling,
        _count: Count = count_nothing,
    ) -> Generator[tuple[str, ...], None, tuple[Finish, ...]]:
        """As LocalGenerator.stream: the answers so far, last the whole ones, then their ends.

        Tokens are the server's, and not counted. Closing the iterator hangs up. A text may begin
        anew, where the server's stream was torn.
        """
        texts = [""] * len(models)
        news: SimpleQueue[tuple[int, str] | Future[list[Answer]]] = SimpleQueue()
        task = self._submit(self._follow_all(prompt, models, sampling, news))
        task.add_done_callback(news.put)
        try:
            while not isinstance(new := news.get(), Future):
                texts[new[0]] = new[1]
                if news.empty():
                    yield tuple(texts)
        finally:
            task.cancel()
        answers = self._result(task)
        whole = [answer.text for answer in answers]
        self._watch.see([prompt], models, sampling, [whole])
        yield tuple(whole)
        return tuple(answer.finish for answer in answers)

    def stop(self) -> None:
        """Hang up: requests in flight fail. Harmless when called again."""
        with self._starting:
            self._stopped = True
            loop, self._loop = self._loop, None
        if loop is not None:
            asyncio.run_coroutine_threadsafe(_end_all(self._server), loop).result(10.0)
            loop.call_soon_threadsafe(loop.stop)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._stopped:
                raise GenerationError("Sampling is stopped: start the app again.")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=_run, args=(self._loop,), name="remote-sampling", daemon=True
                ).start()
            return self._loop

    def _submit(self, asked: Coroutine[Any, Any, T]) -> "Future[T]":
        try:
            return asyncio.run_coroutine_threadsafe(asked, self._running_loop())
        except GenerationError:
            asked.close()
            raise

    def _wait(self, asked: Coroutine[Any, Any, T]) -> T:
        return self._result(self._submit(asked))

    def _result(self, task: "Future[T]") -> T:
        try:
            return task.result()
        except CancelledError:
            raise GenerationError("Sampling is stopped: start the app again.") from None

    def _chat(self) -> ChatServer:
        # Made within its loop, and once.
        if self._server is None:
            its = self._settings
            self._server = ChatServer(
                its.url, key=its.key, at_once=its.at_once, per_minute=its.per_minute
            )
        return self._server

    async def _draw_all(
        self, prompts: Sequence[Prompt], models: Sequence[ModelRef], sampling: Sampling
    ) -> list[list[Answer]]:
        names = [await self._name(model) for model in models]

        async def draw(index: int, prompt: Prompt) -> list[Answer]:
            questions = self._questions(prompt, names, sampling, index)
            try:
                answers = await _together([self._chat().ask(q) for q in questions])
            except UnaskablePrompt:
                return []
            self._check_who(names, answers)
            return answers

        return await _together([draw(index, prompt) for index, prompt in enumerate(prompts)])

    async def _follow_all(
        self,
        prompt: Prompt,
        models: Sequence[ModelRef],
        sampling: Sampling,
        news: "SimpleQueue[Any]",
    ) -> list[Answer]:
        names = [await self._name(model) for model in models]

        async def follow(place: int, question: Question) -> Answer:
            return await self._chat().follow(question, lambda text: news.put((place, text)))

        questions = self._questions(prompt, names, sampling, 0)
        answers = await _together([follow(place, q) for place, q in enumerate(questions)])
        self._check_who(names, answers)
        return answers

    @staticmethod
    def _questions(
        prompt: Prompt, names: Sequence[str], sampling: Sampling, index: int
    ) -> list[Question]:
        """A seed for each answer: with one for all, a careful server answers twice the same."""
        first = sampling.seed * 0x9E3779B1 + index * len(names)
        return [
            Question(prompt, name, sampling, (first + place) % SEEDS)
            for place, name in enumerate(names)
        ]

    async def _name(self, model: ModelRef) -> str:
        """What the server calls `model`. Raises GenerationError where it has no such model."""
        base = self._base
        if (model.base, model.base_revision) != (base.base, base.base_revision):
            raise GenerationError(
                f"Model {model.label} belongs to base {model.base}@{model.base_revision[:8]} and "
                f"this app speaks {base.label}: choose a model of this base."
            )
        if model.adapter is None:
            return self._settings.base_name
        if known := self._settings.names.get(model.adapter):
            return known
        if model.adapter not in self._listed:
            self._listed = await self._chat().models()
        if model.adapter not in self._listed:
            raise GenerationError(
                f"The generation server lists no model {model.adapter}: serve its weights there "
                f"under that name, or add {model.adapter}=NAME to GENERATION_MODEL."
            )
        return model.adapter

    def _check_who(self, names: Sequence[str], answers: Sequence[Answer]) -> None:
        """Refuse an answer that says it is the base's where an aligned model was asked."""
        base = self._settings.base_name
        for name, answer in zip(names, answers, strict=True):
            if name != base and answer.model is not None and _bare(answer.model) == _bare(base):
                raise GenerationError(
                    f"The generation server answers as {base} where {name} was asked: serve "
                    "the aligned model's weights under a name of their own."
                )


class _SampleWatch:
    """Whether the server samples: two answers of one model should mostly differ."""

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._same: set[str] = set()
        self._has_sampled = False

    def see(
        self,
        prompts: Sequence[Prompt],
        models: Sequence[ModelRef],
        sampling: Sampling,
        texts: Sequence[Sequence[str]],
    ) -> None:
        """Take note of what was drawn. Raises GenerationError once nothing ever differs."""
        if len(models) < 2 or models[0] != models[1] or sampling.temperature < SAMPLES:
            return
        pairs = {p.id: some for p, some in zip(prompts, texts, strict=True) if some and some[0]}
        same = {key for key, some in pairs.items() if some[0] == some[1]}
        with self._gate:
            if len(same) < len(pairs):
                self._same, self._has_sampled = set(), True
                return
            self._same |= same
            enough = SAME_AT_MOST_ONCE_SAMPLED if self._has_sampled else SAME_AT_MOST
            if len(self._same) < enough:
                return
        raise GenerationError(
            "The generation server seems to ignore temperature: it answered "
            f"{len(self._same)} prompts in a row twice the same, so there is nothing to vote on. "
            "Make it sample (`transformers serve` needs do_sample in the model's "
            "generation_config.json)."
        )


def _bare(name: str) -> str:
    # transformers serve adds the revision.
    return name.split("@", maxsplit=1)[0].lower()


async def _together(asked: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order; the first failure ends the others and is raised alone."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in asked]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


async def _end_all(server: ChatServer | None) -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    if server is not None:
        await server.close()
