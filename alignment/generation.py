"""Answers from local weights: one shared base, with LoRA adapters beside it.

Owns how a batch is drawn: left-padded, seeded, each row with the adapter it asks for and never a
global switch. Refuses an adapter made for another base, pickled weights and repository code.
Importing this module costs no torch; `alignment.sampler_process` runs it in a child process.
"""

import logging
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from alignment.base import ResolvedBase
from alignment.chat import GenerationError, end_of_turn_ids, render_chat
from alignment.loaded_model import LoadedModel
from alignment.sampler_process import SamplerProcess
from alignment.token_feed import TokenFeed
from annotation.prompts import one_line
from annotation.schema import Completion, ModelRef, Prompt, Sampling

__all__ = ["GenerationError", "LocalGenerator", "SamplerProcess", "render_chat"]

DType = Literal["bfloat16", "float32"]
BASE_ADAPTER = "__base__"
"""PEFT's own name for "no adapter" within a mixed batch."""

MAX_ADAPTERS = 4
MAX_ROWS = 64
MAX_BATCH_TOKENS = 32_768
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Row:
    """One answer to draw: the prompt's place in the request, its ids, PEFT's adapter name."""

    prompt: int
    ids: list[int]
    adapter: str


class LocalGenerator:
    """Samples and streams from the weights of `base`, loaded at first use, one batch at a time.

    `weights_path` gives the folder of a model's own weights. bf16 where this machine computes
    fast in it, else fp32; `device` and `dtype` override. At most MAX_ADAPTERS adapters are held;
    the one unused for longest makes room. Equal requests give equal answers on one machine.
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

    def load(self) -> None:
        """Load the base now; raises GenerationError."""
        with self._lock:
            self._load()

    def sample(
        self, prompts: Sequence[Prompt], *, model: ModelRef, sampling: Sampling, per_prompt: int
    ) -> list[list[Completion]]:
        """Draw `per_prompt` answers to each prompt; `sampling.seed` seeds the whole request.

        A prompt that cannot be asked (too long for the model's window, refused by its chat
        template) gets an empty list and a line in the log. Raises GenerationError.
        """
        self._check(model)
        answers: list[list[Completion]] = [[] for _ in prompts]
        with self._lock:
            loaded = self._load()
            adapter = self._adapter(loaded, model)
            rows: list[_Row] = []
            for index, prompt in enumerate(prompts):
                try:
                    row = _Row(index, loaded.prompt_ids(prompt, sampling), adapter)
                except GenerationError as error:
                    _log.warning("prompt %s is passed over: %s", prompt.id, error)
                else:
                    rows += [row] * per_prompt
            with _seeded(loaded, sampling.seed):
                for batch in _batches(rows, sampling.max_new_tokens):
                    for row, ids in zip(batch, _generate(loaded, batch, sampling), strict=True):
                        text, finish = loaded.answer(ids)
                        answers[row.prompt].append(Completion(text, model, sampling, finish))
        return answers

    def stream(
        self, prompt: Prompt, models: Sequence[ModelRef], sampling: Sampling
    ) -> Generator[tuple[str, ...], None, None]:
        """Yield the answers so far, one per model, all drawn in one batch; last the whole ones.

        Closing the iterator stops the generation. Raises GenerationError, also for a prompt
        that with `max_new_tokens` does not fit the model's window.
        """
        for model in models:
            self._check(model)
        return self._stream(prompt, models, sampling)

    def _stream(
        self, prompt: Prompt, models: Sequence[ModelRef], sampling: Sampling
    ) -> Generator[tuple[str, ...], None, None]:
        feed = TokenFeed()
        thread = threading.Thread(
            target=self._feed, args=(feed, prompt, models, sampling), name="stream", daemon=True
        )
        thread.start()
        try:
            yield from feed.texts()
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
            loaded = self._load()
            ids = loaded.prompt_ids(prompt, sampling)
            rows = [_Row(0, ids, self._adapter(loaded, model)) for model in models]
            feed.open(loaded.text)
            with _seeded(loaded, sampling.seed):
                drawn = _generate(loaded, rows, sampling, feed)
            feed.close(tuple(loaded.text(new_ids) for new_ids in drawn))
        except GenerationError as error:
            feed.fail(error)
        # A thread's boundary: whatever went wrong is raised again where the answers are read.
        except Exception as error:  # noqa: BLE001
            _log.exception("a stream failed")
            feed.fail(GenerationError(f"The answer failed ({one_line(error)}): ask again."))
        finally:
            self._lock.release()

    def _check(self, model: ModelRef) -> None:
        base = self._base.ref
        if (model.base, model.base_revision) != (base.base, base.base_revision):
            raise GenerationError(
                f"Model {model.label} belongs to base {model.base}@{model.base_revision[:8]} and "
                f"this app speaks {base.label}: choose a model of this base."
            )

    def _load(self) -> LoadedModel:
        if self._loaded is None:
            self._loaded = _load(self._base, self._device, self._dtype)
        return self._loaded

    def _adapter(self, loaded: LoadedModel, model: ModelRef) -> str:
        """PEFT's name for `model`, loaded if need be, with room made for it."""
        if model.adapter is None:
            return BASE_ADAPTER
        if model in loaded.adapters:
            loaded.adapters.move_to_end(model)
            return loaded.adapters[model]
        folder = self._weights_path(model)
        # PEFT would unpickle an adapter_model.bin instead.
        if folder is None or not (folder / "adapter_model.safetensors").is_file():
            raise GenerationError(
                f"Adapter {model.label} has no adapter_model.safetensors here: train or pull it."
            )
        loaded.adapters_ever += 1
        name = f"adapter{loaded.adapters_ever}"
        try:
            _load_adapter(loaded, name, folder)
        except _unloadable() as error:
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


def _batches(rows: Sequence[_Row], max_new_tokens: int) -> Iterator[list[_Row]]:
    """`rows` by length, so that little is padding, in bounded batches."""
    batch: list[_Row] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        tokens = (len(batch) + 1) * (len(row.ids) + max_new_tokens)
        if batch and (len(batch) == MAX_ROWS or tokens > MAX_BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _generate(
    loaded: LoadedModel, rows: Sequence[_Row], sampling: Sampling, feed: TokenFeed | None = None
) -> list[list[int]]:
    """New ids of each row, with its end of turn and the padding behind it."""
    import torch

    width = max(len(row.ids) for row in rows)
    padded = [[loaded.pad_id] * (width - len(row.ids)) + row.ids for row in rows]
    mask = [[0] * (width - len(row.ids)) + [1] * len(row.ids) for row in rows]
    options: dict[str, Any] = {"generation_config": _generation_config(loaded, sampling)}
    if loaded.adapters:
        options["adapter_names"] = [row.adapter for row in rows]
    if feed is not None:
        options |= {"streamer": feed, "stopping_criteria": _stop_with(feed)}
    try:
        with torch.inference_mode():
            drawn = loaded.model.generate(
                input_ids=torch.tensor(padded, device=loaded.device),
                attention_mask=torch.tensor(mask, device=loaded.device),
                **options,
            )
        new_ids: list[list[int]] = drawn[:, width:].tolist()
        return new_ids
    except torch.OutOfMemoryError:
        if len(rows) == 1 or feed is not None:
            raise
    # Out of the handler, which would keep the failed batch alive.
    torch.cuda.empty_cache()
    half = len(rows) // 2
    return [
        *_generate(loaded, rows[:half], sampling),
        *_generate(loaded, rows[half:], sampling),
    ]


def _generation_config(loaded: LoadedModel, sampling: Sampling) -> Any:
    from transformers import GenerationConfig

    # top_k 0: transformers would cut at 50 on its own. At temperature 0 the best token wins.
    drawing = (
        {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
        if sampling.temperature > 0
        else {"do_sample": False}
    )
    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        top_k=0,
        eos_token_id=sorted(loaded.end_ids) or None,
        pad_token_id=loaded.pad_id,
        **drawing,
    )


def _stop_with(feed: TokenFeed) -> Any:
    import torch
    from transformers import StoppingCriteriaList

    def stopped(input_ids: torch.Tensor, _scores: object, **_: object) -> torch.Tensor:
        rows = input_ids.shape[0]
        return torch.full((rows,), feed.stopped.is_set(), device=input_ids.device)

    return StoppingCriteriaList([stopped])


@contextmanager
def _seeded(loaded: LoadedModel, seed: int) -> Iterator[None]:
    """A random state of its own for what is drawn within, on the model's device too."""
    import torch

    devices = [torch.cuda.current_device()] if loaded.device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _load(base: ResolvedBase, device: str | None, dtype: DType | None) -> LoadedModel:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    wanted = dtype or ("bfloat16" if _fast_in_bf16(device) else "float32")
    safe = {"trust_remote_code": False, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(base.path, **safe)
        model = AutoModelForCausalLM.from_pretrained(
            base.path, dtype=getattr(torch, wanted), use_safetensors=True, **safe
        )
        end_ids = end_of_turn_ids(tokenizer, base.path)
    except _unloadable() as error:
        raise GenerationError(
            f"Base model {base.ref.label} can't be loaded from {base.path} ({one_line(error)}): "
            "choose another BASE_MODEL."
        ) from error
    # What a person set is what is drawn: no penalties or cuts from the repository's file.
    model.generation_config = GenerationConfig()
    return LoadedModel(
        tokenizer=tokenizer,
        model=model.to(device).eval(),
        device=device,
        window=int(getattr(model.config, "max_position_embeddings", None) or 1_000_000),
        end_ids=end_ids,
    )


def _load_adapter(loaded: LoadedModel, name: str, folder: Path) -> None:
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(str(folder))
    if str(config.peft_type.value) != "LORA":
        raise ValueError(f"its type is {config.peft_type.value}")
    config.inference_mode = True
    if not isinstance(loaded.model, PeftModel):
        loaded.model = PeftModel(loaded.model, config, adapter_name=name)
    found = loaded.model.load_adapter(str(folder), name, torch_device=loaded.device)
    # PEFT only warns where names differ, and the base would answer under the adapter's name.
    if strangers := [*found.missing_keys, *found.unexpected_keys]:
        raise ValueError(f"{len(strangers)} of its weights fit nowhere, such as {strangers[0]}")
    loaded.model.eval()


def _unloadable() -> tuple[type[Exception], ...]:
    """What loading a torn, foreign or unsupported folder raises."""
    from safetensors import SafetensorError

    return OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError, SafetensorError


def _fast_in_bf16(device: str) -> bool:
    if not device.startswith("cpu"):
        return True
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16"})
