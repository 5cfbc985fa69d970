"""One token for each column of logits: the best, or one drawn at a temperature within top_p.

Owns that the draw is exact: a token's chance is its softmax, cut to the smallest set of best tokens
that reaches `top_p`, and nothing else. Uses torch's random state of now.
"""

import torch
from torch import Tensor

from annotation.schema import Sampling

BLOCK = 512
"""About so many tokens a block: the block is drawn first, then the token within it."""
BROKEN = "the model's logits are not numbers: its weights are broken"


def draw_tokens(logits: Tensor, sampling: Sampling) -> Tensor:
    """A token id for each column of `logits` (vocabulary, columns).

    Raises ValueError for settings that mean no draw, and for logits that are no numbers.
    """
    if not (sampling.temperature >= 0 and 0 < sampling.top_p <= 1):
        raise ValueError(
            f"temperature {sampling.temperature} and top_p {sampling.top_p} draw nothing: "
            "temperature is at least 0, top_p above 0 and at most 1"
        )
    if sampling.temperature == 0:
        best = logits.argmax(0)
        if not logits.gather(0, best[None]).isfinite().all():
            raise ValueError(BROKEN)
        return best
    # Below the least normal number of fp32 it would divide by 0.
    temperature = max(sampling.temperature, torch.finfo(torch.float32).tiny)
    wide = logits.float()
    weights = wide.sub_(wide.amax(0)).div_(temperature).exp_()
    tokens = _draw(weights)
    if sampling.top_p < 1:
        _redraw_outside(weights, tokens, sampling.top_p)
    return tokens


def _draw(weights: Tensor) -> Tensor:
    """A row for each column, with chances in proportion to its `weights`.

    Sums of blocks first: a running sum over a whole vocabulary is slow, and coarse at its end.
    """
    rows, columns = weights.shape
    size = next(size for size in range(min(BLOCK, rows), 0, -1) if rows % size == 0)
    blocks = weights.view(rows // size, size, columns)
    sums = blocks.sum(1).cumsum(0)
    if not sums[-1].isfinite().all():
        raise ValueError(BROKEN)
    at = _below(torch.rand(columns) * sums[-1], sums[-1])
    block = (sums <= at).sum(0)
    each = torch.arange(columns)
    inner = blocks[block, :, each].t().cumsum(0)
    before = torch.where(block > 0, sums[block - 1, each], 0)
    return block * size + (inner <= _below(at - before, inner[-1])).sum(0)


def _below(at: Tensor, total: Tensor) -> Tensor:
    # Rounding up to the total would find a row behind all that have a weight.
    return torch.minimum(at, torch.nextafter(total, torch.zeros(())))


def _redraw_outside(weights: Tensor, tokens: Tensor, top_p: float) -> None:
    """Draw again, in place, whatever is not among the best tokens that reach `top_p`.

    Exact without sorting the vocabulary: a token is among them if those ahead of it weigh less
    than `top_p` of all. Where one is refused, so is all behind it, and what is left is drawn from.
    """
    rows = torch.arange(weights.shape[0])[:, None]
    needed = top_p * weights.sum(0)
    pending = torch.arange(weights.shape[1])
    left = weights
    while len(pending):
        drawn = tokens[pending]
        weight = left.gather(0, drawn[None])
        ahead = (left > weight) | ((left == weight) & (rows < drawn))
        left = torch.where(ahead, left, 0)
        # The best token stays, however small top_p is.
        refused = (left.sum(0) >= needed[pending]) & ahead.any(0)
        pending, left = pending[refused], left[:, refused]
        if len(pending):
            tokens[pending] = _draw(left)
