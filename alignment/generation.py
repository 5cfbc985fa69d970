"""Answers from local weights: one shared base with LoRA adapters, and whole models beside it.

Owns which weights answer, how many are held, and the seed of a request. Refuses what was tuned
from another base. Importing this module costs no torch; `sampler_process` runs it in a child.
"""

import gc
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from alignment.base import ResolvedBase
from alignment.chat import GenerationError, render_chat
from alignment.hub.tuned import WEIGHTS, tuning_of
from alignment.sampling.batches import Row, draw_rows
from alignment.sampling.loaded_model import LoadedModel
from alignment.sampling.loading import DType, load_adapter, load_errors, load_to_draw
from alignment.sampling.sampler_process import SamplerProcess
from alignment.sampling.token_feed import Count, TokenFeed, count_nothing
from alignment.sampling.turns import PassOn, draw_in_turns, seeded
from annotation.prompts import one_line
from annotation.schema import Completion, Finish, ModelRef, Prompt, Sampling

__all__ = ["GenerationError", "LocalGenerator", "SamplerProcess", "render_chat"]

BASE_ADAPTER = "__base__"
"""PEFT's own name for "no adapter" within a mixed batch."""

MAX_ADAPTERS = 4
MAX_WHOLE_MODELS = 2
"""Each takes as much memory as the base; two, so that one can be compared with the next."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Answers of a stream that come from the same weights."""

    loaded: LoadedModel
    rows: list[Row]


class LocalGenerator:
    """Samples and streams from the weights of `base`, loaded at first use, one batch at a time.

    `weights_path` gives the folder of a model's own weights. bf16 where this machine computes
    fast in it, else fp32; `device` and `dtype` override. At most MAX_ADAPTERS adapters and
    MAX_WHOLE_MODELS fine-tuned models are held; what is unused for longest makes room. Equal
    requests give equal answers on one machine.
    """

    def __init__(
        self,
        base: ResolvedBase,
        *,
        weights_path: Callable[[ModelRef], Path | None],
        device: str | None = None,
        dtype: DType | None = None,
    ) -> None:
        self._base = base
        self._weights_path = weights_path
        self._device = device
        self._dtype = dtype
        self._lock = threading.Lock()
        self._loaded: LoadedModel | None = None
        self._whole: OrderedDict[ModelRef, LoadedModel] = OrderedDict()

    def load(self) -> None:
        """Load the base now; raises GenerationError."""
        with self._lock:
            self._load()

    def sample(
        self, prompts: Sequence[Prompt], *, model: ModelRef, sampling: Sampling, per_prompt: int
    ) -> list[list[Completion]]:
        """Draw `per_prompt` answers to each prompt; else as `sample_each`."""
        return self.sample_each(prompts, models=[model] * per_prompt, sampling=sampling)

    def sample_each(
        self, prompts: Sequence[Prompt], *, models: Sequence[ModelRef], sampling: Sampling
    ) -> list[list[Completion]]:
        """Draw an answer of each of `models` to each prompt, in that order.

        Base and adapters answer in one batch, whole models in batches of their own.
        `sampling.seed` seeds the whole request. A prompt that cannot be asked (too long for a
        model's window, refused by its chat template) gets an empty list and a line in the log.
        Raises GenerationError.
        """
        self._check_all(models)
        drawn: dict[tuple[int, int], Completion] = {}
        with self._lock:
            weights = [self._weights(model) for model in models]
            batches, asked = self._rows(prompts, weights, sampling)
            with seeded(weights[0][0].device, sampling.seed):
                for loaded, rows in batches:
                    for row, ids in draw_rows(loaded, rows, sampling):
                        text, finish = loaded.answer(ids)
                        prompt, place = divmod(row.place, len(models))
                        drawn[prompt, place] = Completion(text, models[place], sampling, finish)
        return [
            [drawn[index, place] for place in range(len(models))] if index in asked else []
            for index in range(len(prompts))
        ]

    def _rows(
        self,
        prompts: Sequence[Prompt],
        weights: Sequence[tuple[LoadedModel, str]],
        sampling: Sampling,
    ) -> tuple[list[tuple[LoadedModel, list[Row]]], set[int]]:
        """Rows by the weights that they share, and the prompts that every model can be asked."""
        by_weights: dict[int, tuple[LoadedModel, list[Row]]] = {}
        asked = set()
        for index, prompt in enumerate(prompts):
            try:
                ids = [loaded.prompt_ids(prompt, sampling) for loaded, _ in weights]
            except GenerationError as error:
                _log.warning("prompt %s is passed over: %s", prompt.id, error)
                continue
            asked.add(index)
            for place, ((loaded, adapter), its) in enumerate(zip(weights, ids, strict=True)):
                row = Row(index * len(weights) + place, its, adapter)
                by_weights.setdefault(id(loaded), (loaded, []))[1].append(row)
        return list(by_weights.values()), asked

    def stream(
        self,
        prompt: Prompt,
        models: Sequence[ModelRef],
        sampling: Sampling,
        count: Count = count_nothing,
    ) -> Generator[tuple[str, ...], None, tuple[Finish, ...]]:
        """Yield the answers so far, one per model, last the whole ones; return how each ended.

        Base and adapters are drawn in one batch, each whole model in one of its own, and the
        batches take turns; each draws what `sample` would with the same seed. `count` is told
        their tokens. Closing the iterator stops them all. Raises GenerationError, also for a
        prompt that with `max_new_tokens` does not fit the model's window.
        """
        self._check_all(models)
        return self._stream(prompt, models, sampling, count)

    def _stream(
        self, prompt: Prompt, models: Sequence[ModelRef], sampling: Sampling, count: Count
    ) -> Generator[tuple[str, ...], None, tuple[Finish, ...]]:
        feed = TokenFeed(len(models))
        thread = threading.Thread(
            target=self._feed, args=(feed, prompt, models, sampling), name="stream", daemon=True
        )
        thread.start()
        try:
            return (yield from feed.texts(count))
        finally:
            feed.stopped.set()
            thread.join()

    def _feed(
        self, feed: TokenFeed, prompt: Prompt, models: Sequence[ModelRef], sampling: Sampling
    ) -> None:
        while not self._lock.acquire(timeout=0.1):
            if feed.stopped.is_set():
                return
        try:
            feed.close(_stream(self._stream_batches(prompt, models, sampling), sampling, feed))
        except GenerationError as error:
            feed.fail(error)
        # A thread's boundary: whatever went wrong is raised again where the answers are read.
        except Exception as error:  # noqa: BLE001
            _log.exception("a stream failed")
            feed.fail(GenerationError(f"The answer failed ({one_line(error)}): ask again."))
        finally:
            self._lock.release()

    def _stream_batches(
        self, prompt: Prompt, models: Sequence[ModelRef], sampling: Sampling
    ) -> list[_Batch]:
        """One batch for each set of weights, in the order in which `models` first needs it."""
        whole = sum(self._is_whole(model) for model in set(models))
        if whole > MAX_WHOLE_MODELS:
            raise GenerationError(
                f"{whole} fine-tuned models are asked at once and this app holds "
                f"{MAX_WHOLE_MODELS}: choose fewer."
            )
        batches: dict[int, _Batch] = {}
        for place, model in enumerate(models):
            loaded, adapter = self._weights(model)
            batch = batches.setdefault(id(loaded), _Batch(loaded, []))
            batch.rows.append(Row(place, loaded.prompt_ids(prompt, sampling), adapter))
        return list(batches.values())

    def _check_all(self, models: Sequence[ModelRef]) -> None:
        for model in models:
            self._check(model)
        # One more would push out the first of them, which would then answer as the base.
        adapters = {m for m in models if m.adapter is not None}
        if len(adapters) > MAX_ADAPTERS:
            adapters = {m for m in adapters if not self._is_whole(m)}
        if len(adapters) > MAX_ADAPTERS:
            raise GenerationError(
                f"{len(adapters)} adapters are asked at once and this app holds {MAX_ADAPTERS}: "
                "choose fewer."
            )

    def _check(self, model: ModelRef) -> None:
        base = self._base.ref
        if (model.base, model.base_revision) != (base.base, base.base_revision):
            raise GenerationError(
                f"Model {model.label} belongs to base {model.base}@{model.base_revision[:8]} and "
                f"this app speaks {base.label}: choose a model of this base."
            )

    def _load(self) -> LoadedModel:
        if self._loaded is None:
            base = self._base
            try:
                self._loaded = load_to_draw(base.path, device=self._device, dtype=self._dtype)
            except load_errors() as error:
                raise GenerationError(
                    f"Base model {base.ref.label} can't be loaded from {base.path} "
                    f"({one_line(error)}): choose another BASE_MODEL."
                ) from error
        return self._loaded

    def _weights(self, model: ModelRef) -> tuple[LoadedModel, str]:
        """What answers as `model`, loaded if need be, and PEFT's name for it there."""
        if model.adapter is None:
            return self._load(), BASE_ADAPTER
        if model in self._whole:
            self._whole.move_to_end(model)
            return self._whole[model], BASE_ADAPTER
        if self._loaded is not None and model in self._loaded.adapters:
            self._loaded.adapters.move_to_end(model)
            return self._loaded, self._loaded.adapters[model]
        folder = self._weights_path(model)
        if folder is not None and tuning_of(folder) == "full":
            return self._load_whole(model, folder), BASE_ADAPTER
        loaded = self._load()
        return loaded, self._load_adapter(loaded, model, folder)

    def _is_whole(self, model: ModelRef) -> bool:
        if model.adapter is None or model in self._whole:
            return model.adapter is not None
        folder = self._weights_path(model)
        return folder is not None and tuning_of(folder) == "full"

    def _load_whole(self, model: ModelRef, folder: Path) -> LoadedModel:
        while len(self._whole) >= MAX_WHOLE_MODELS:
            self._whole.popitem(last=False)
            # Modules refer to themselves in circles; their memory is needed now, not later.
            gc.collect()
        try:
            loaded = load_to_draw(folder, device=self._device, dtype=self._dtype)
        except load_errors() as error:
            raise GenerationError(
                f"Model {model.label} can't be loaded ({one_line(error)}): train or pull it again."
            ) from error
        self._whole[model] = loaded
        return loaded

    def _load_adapter(self, loaded: LoadedModel, model: ModelRef, folder: Path | None) -> str:
        """PEFT's name for `model`, with room made for it."""
        # PEFT would unpickle an adapter_model.bin instead.
        if folder is None or not (folder / WEIGHTS).is_file():
            raise GenerationError(f"Adapter {model.label} has no {WEIGHTS} here: train or pull it.")
        loaded.adapters_ever += 1
        name = f"adapter{loaded.adapters_ever}"
        try:
            load_adapter(loaded, name, folder)
        except load_errors() as error:
            # Half an adapter may hang in the base: the next request loads it all afresh.
            self._loaded = None
            raise GenerationError(
                f"Adapter {model.label} can't be loaded ({one_line(error)}): is it a LoRA "
                f"adapter of {self._base.ref.label}?"
            ) from error
        loaded.adapters[model] = name
        if len(loaded.adapters) > MAX_ADAPTERS:
            loaded.model.delete_adapter(loaded.adapters.popitem(last=False)[1])
        return name


def _stream(
    batches: Sequence[_Batch], sampling: Sampling, feed: TokenFeed
) -> list[tuple[str, Finish]]:
    """The whole answers in the order of the request; what they were so far went into `feed`."""

    def draw(batch: _Batch, pass_on: PassOn) -> list[tuple[int, tuple[str, Finish]]]:
        part = feed.part([row.place for row in batch.rows], batch.loaded, pass_on)
        drawn = draw_rows(batch.loaded, batch.rows, sampling, part)
        return [(row.place, batch.loaded.answer(ids)) for row, ids in drawn]

    first = batches[0].loaded
    with seeded(first.device, sampling.seed):
        drawn = draw_in_turns(
            [partial(draw, batch) for batch in batches],
            device=first.device,
            stop=feed.stopped.set,
        )
    return [whole for _, whole in sorted(answer for answers in drawn for answer in answers)]
