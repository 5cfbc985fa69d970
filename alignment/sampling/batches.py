"""How a batch is drawn: left-padded, each row with the adapter it asks for, never a global switch.

Knows one model in memory and its rows. Which weights those are, and the seed, is the caller's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from alignment.sampling.loaded_model import LoadedModel
from alignment.sampling.token_feed import FeedPart
from annotation.schema import Sampling

MAX_ROWS = 64
MAX_BATCH_TOKENS = 32_768


@dataclass(frozen=True, slots=True)
class Row:
    """One answer to draw: its place in the request, the prompt's ids, PEFT's adapter name."""

    place: int
    ids: list[int]
    adapter: str


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
