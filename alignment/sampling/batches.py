"""How rows are drawn: each with the adapter it asks for, by a loop of our own or by `generate`.

Knows one model in memory and its rows. Which weights those are, and the seed, is the caller's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignment.sampling.loaded_model import LoadedModel
from alignment.sampling.token_feed import FeedPart
from annotation.schema import Sampling

if TYPE_CHECKING:
    from alignment.sampling.llama import Llama, Lora

MAX_ROWS = 64
MAX_BATCH_TOKENS = 32_768


@dataclass(frozen=True, slots=True)
class Row:
    """One answer to draw: its place in the request, the prompt's ids, PEFT's adapter name."""

    place: int
    ids: list[int]
    adapter: str


def draw_rows(
    loaded: LoadedModel, rows: Sequence[Row], sampling: Sampling, feed: FeedPart | None = None
) -> Iterator[tuple[Row, list[int]]]:
    """Each of `rows` with its new ids: its end of turn among them, perhaps padding behind it.

    A `feed` is told the tokens of all rows at each step, so they are drawn at once.
    """
    if loaded.llama is not None and (loras := _loras(loaded, loaded.llama, rows)) is not None:
        yield from zip(rows, _decode_rows(loaded, rows, sampling, loras, feed), strict=True)
        return
    batches = [rows] if feed is not None else batches_of(rows, sampling.max_new_tokens)
    for batch in batches:
        yield from zip(batch, generate_rows(loaded, batch, sampling, feed), strict=True)


def _loras(loaded: LoadedModel, llama: "Llama", rows: Sequence[Row]) -> "dict[str, Lora] | None":
    """The adapters that `rows` ask for; None where one is not plain LoRA."""
    names = {row.adapter for row in rows} & set(loaded.adapters.values())
    loras = {name: llama.lora(loaded.model, name) for name in sorted(names)}
    found = {name: lora for name, lora in loras.items() if lora is not None}
    return found if len(found) == len(loras) else None


def _decode_rows(
    loaded: LoadedModel,
    rows: Sequence[Row],
    sampling: Sampling,
    loras: "dict[str, Lora]",
    feed: FeedPart | None,
) -> list[list[int]]:
    from alignment.sampling.decode import Decoding

    assert loaded.llama is not None
    longest = max(len(row.ids) for row in rows) + sampling.max_new_tokens
    slots = min(MAX_ROWS, max(1, MAX_BATCH_TOKENS // longest))
    decoding = Decoding(
        loaded.llama,
        rows,
        sampling,
        loras=loras,
        end_ids=loaded.end_ids,
        slots=slots if feed is None else len(rows),
    )
    return decoding.run(feed, loaded.pad_id)


def batches_of(rows: Sequence[Row], max_new_tokens: int) -> Iterator[list[Row]]:
    """`rows` by length, so that little is padding, in bounded batches."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        tokens = (len(batch) + 1) * (len(row.ids) + max_new_tokens)
        if batch and (len(batch) == MAX_ROWS or tokens > MAX_BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def generate_rows(
    loaded: LoadedModel, rows: Sequence[Row], sampling: Sampling, feed: FeedPart | None = None
) -> list[list[int]]:
    """New ids of each row, with its end of turn and the padding behind it: one padded batch."""
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
        *generate_rows(loaded, rows[:half], sampling),
        *generate_rows(loaded, rows[half:], sampling),
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


def _stop_with(feed: FeedPart) -> Any:
    import torch
    from transformers import StoppingCriteriaList

    def stopped(input_ids: torch.Tensor, _scores: object, **_: object) -> torch.Tensor:
        rows = input_ids.shape[0]
        return torch.full((rows,), feed.is_stopped, device=input_ids.device)

    return StoppingCriteriaList([stopped])
