"""A batch of pairs as one row of tokens: no padding, and what two answers begin with only once.

Owns where each token of a batch lies in that row, and who attends to whom: every token to those
before it in its own sequence, as if the sequences lay apart. Knows no model.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

ONE_MASK_TOKENS = 256
"""Up to here one masked product over the whole row beats several small ones."""


@dataclass(frozen=True, slots=True)
class Branch:
    """A rejected answer, `start` to `end` of the row, after the `shared` tokens from `pair` on.

    The chosen sequence ends where the answer starts. `mask` (answer, shared + answer) says what its
    tokens attend to; None where the chosen sequence holds all of it.
    """

    pair: int
    shared: int
    start: int
    end: int
    mask: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class PairRow:
    """`ids` and `positions` (1, tokens); `places` (2 × pairs, length) is where each token lies.

    Either `mask` (1, 1, tokens, tokens) is True where one attends to another, or `branches` say it.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    places: torch.Tensor
    mask: torch.Tensor | None
    branches: tuple[Branch, ...]


def to_row(
    ids: torch.Tensor, attended: torch.Tensor, *, one_mask_tokens: int | None = None
) -> PairRow:
    """One row of `ids` (2 × pairs, length): all chosen sequences, then all rejected, padded right.

    `attended` is 1 on tokens and 0 on padding. A longer row than `one_mask_tokens`
    (ONE_MASK_TOKENS where None) has branches.
    """
    most = ONE_MASK_TOKENS if one_mask_tokens is None else one_mask_tokens
    pairs, length = len(ids) // 2, ids.shape[1]
    token = attended.bool()
    both = token[:pairs] & token[pairs:] & (ids[:pairs] == ids[pairs:])
    shared = both.long().cumprod(-1).sum(-1)
    chosen, rejected = token.sum(-1).chunk(2)
    sizes = chosen + rejected - shared
    starts = sizes.cumsum(0) - sizes
    steps = torch.arange(length, device=ids.device).expand_as(ids)
    places = steps + torch.cat([starts, starts + chosen - shared])[:, None]
    # What a rejected sequence shares lies in the chosen one.
    places[pairs:] = torch.where(steps[pairs:] < shared[:, None], places[:pairs], places[pairs:])
    places = torch.where(token, places, 0)
    row, positions = ids.new_empty((2, int(sizes.sum())))
    row[places[token]] = ids[token]
    positions[places[token]] = steps[token]
    corners: list[tuple[int, int, int, int]] = list(
        zip(*(t.tolist() for t in (starts, shared, starts + chosen, starts + sizes)), strict=True)
    )
    one_mask = len(row) <= most
    return PairRow(
        ids=row[None],
        positions=positions[None],
        places=places,
        mask=_whole_mask(len(row), corners).to(ids.device) if one_mask else None,
        branches=() if one_mask else tuple(_branch(*c, ids.device) for c in corners),
    )


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    branches: tuple[Branch, ...],
    **more: Any,
) -> torch.Tensor:
    """Attention within each sequence of a row; all (1, heads, tokens, width).

    In fp32: a processor's kernel takes a third longer in bf16, most of it on the way back.
    """
    query, key, value = query.float(), key.float(), value.float()
    parts = []
    for branch in branches:
        q, k, v = (t[:, :, branch.pair : branch.start] for t in (query, key, value))
        parts.append(scaled_dot_product_attention(q, k, v, is_causal=True, **more))
        if branch.mask is None:
            continue
        shared = slice(branch.pair, branch.pair + branch.shared)
        own = slice(branch.start, branch.end)
        k, v = (torch.cat([t[:, :, shared], t[:, :, own]], 2) for t in (key, value))
        q = query[:, :, own]
        parts.append(scaled_dot_product_attention(q, k, v, attn_mask=branch.mask, **more))
    return torch.cat(parts, 2)


def _branch(pair: int, shared: int, start: int, end: int, device: torch.device) -> Branch:
    size = end - start
    sees = torch.ones(size, shared + size, dtype=torch.bool, device=device).tril_(shared)
    return Branch(pair, shared, start, end, sees if size else None)


def _whole_mask(tokens: int, corners: list[tuple[int, int, int, int]]) -> torch.Tensor:
    sees = torch.zeros(tokens, tokens, dtype=torch.bool)
    for pair, shared, start, end in corners:
        sees[pair:end, pair:end] = True
        sees[start:end, pair + shared : start] = False
    return sees.tril_()[None, None]
