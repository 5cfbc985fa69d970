"""The LM head on the tokens that a loss reads, a few at a time: log-probs without all the logits.

Owns the arithmetic of the head and its gradient. Where the head is frozen, as under LoRA, a token's
gradient is known when its log-prob is, so that backward multiplies no matrix; otherwise the logits
are taken twice and never kept. Knows no model, no loss and no trainer.
"""

from dataclasses import dataclass
from typing import Any

import torch

LOGITS_AT_ONCE = 1 << 23
"""Logits that are held at a time: 170 tokens of a vocabulary of 49,152, 34 MB in fp32."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What the head says of each target, all (tokens,) and fp32; only `logps` has a gradient."""

    logps: torch.Tensor
    entropies: torch.Tensor
    mean_logits: torch.Tensor
    is_top1: torch.Tensor


def score_tokens(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
) -> TokenScores:
    """The log-prob of each of `targets` (tokens,) after `hidden` (tokens, width), and its like.

    `weight` (vocabulary, width) and `bias` (vocabulary,) are the head's. Products are taken in the
    dtype of autocast where that is on, all sums in fp32.
    """
    return TokenScores(*_TokenScores.apply(hidden, weight, bias, targets))  # type: ignore[no-untyped-call]


class _TokenScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        dtype = _product_dtype(hidden)
        head, room = weight.to(dtype), _Room(weight, dtype, tokens=len(targets))
        # ∂ log p(target)/∂ hidden = w[target] - Σ p w.
        keeps_slope = ctx.needs_input_grad[0] and not any(ctx.needs_input_grad[1:3])
        slope = torch.empty_like(hidden, dtype=torch.float32) if keeps_slope else None
        logps, entropies, mean_logits, log_totals = hidden.new_empty(
            (4, len(targets)), dtype=torch.float32
        )
        is_top1 = torch.empty_like(targets, dtype=torch.bool)
        for rows in _portions(len(targets), len(weight)):
            inputs, wanted = hidden[rows].to(dtype), targets[rows, None]
            logits = room.logits(inputs, head, bias)
            top, index = logits.max(-1, keepdim=True)
            at_target = logits.gather(-1, wanted)
            mean_logits[rows], is_top1[rows] = logits.mean(-1), (index == wanted)[:, 0]
            if slope is None:
                plain = room.copy(logits)
            weights = logits.sub_(top).exp_()
            total = weights.sum(-1, keepdim=True)
            log_total = top + total.log()
            if slope is not None:
                # Σ p w, which times the hidden state is also the mean logit under p.
                mixed = (room.for_product(weights) @ head).float() / total
                slope[rows] = head[wanted[:, 0]].float() - mixed
                expected = (mixed * inputs).sum(-1)
                if bias is not None:
                    expected += weights @ bias.float() / total[:, 0]
            else:
                expected = torch.einsum("nv,nv->n", weights, plain) / total[:, 0]
            logps[rows] = (at_target - log_total)[:, 0]
            entropies[rows], log_totals[rows] = log_total[:, 0] - expected, log_total[:, 0]
        ctx.save_for_backward(hidden, weight, bias, targets, log_totals[:, None], slope)
        ctx.dtype = dtype
        ctx.mark_non_differentiable(entropies, mean_logits, is_top1)
        return logps, entropies, mean_logits, is_top1

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, targets, log_total, slope = ctx.saved_tensors
        if slope is not None:
            return (grad[:, None] * slope).to(hidden.dtype), None, None, None
        head, room = weight.to(ctx.dtype), _Room(weight, ctx.dtype, tokens=len(targets))
        wants = ctx.needs_input_grad
        grads = [
            torch.zeros_like(tensor, dtype=torch.float32) if want else None
            for tensor, want in zip((hidden, weight, bias), wants, strict=False)
        ]
        for rows in _portions(len(targets), len(weight)):
            inputs = hidden[rows].to(ctx.dtype)
            logits = room.logits(inputs, head, bias)
            # ∂ log p(target)/∂ logits = 1[target] - p.
            by_logit = logits.sub_(log_total[rows]).exp_().mul_(-grad[rows, None])
            by_logit.scatter_add_(-1, targets[rows, None], grad[rows, None])
            if grads[0] is not None:
                grads[0][rows] = (room.for_product(by_logit) @ head).float()
            if grads[1] is not None:
                grads[1].addmm_(by_logit.t(), inputs.float())
            if grads[2] is not None:
                grads[2] += by_logit.sum(0)
        dtypes = [tensor.dtype if tensor is not None else None for tensor in (hidden, weight, bias)]
        return (
            *(g if g is None else g.to(t) for g, t in zip(grads, dtypes, strict=True)),
            None,
        )


class _Room:
    """Room for one portion's logits, taken once: what is freed between portions is soon broken up
    by small tensors, and every portion would take new room.
    """

    def __init__(self, weight: torch.Tensor, dtype: torch.dtype, *, tokens: int) -> None:
        shape = (min(tokens, _at_once(len(weight))), len(weight))
        self._products = torch.empty(shape, dtype=dtype, device=weight.device)
        exact = dtype == torch.float32
        self._logits = (
            self._products if exact else self._products.new_empty(shape, dtype=torch.float32)
        )
        self._copy: torch.Tensor | None = None

    def logits(
        self, hidden: torch.Tensor, head: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """(tokens, vocabulary) in fp32, valid until the next portion's are asked for."""
        products, logits = self._products[: len(hidden)], self._logits[: len(hidden)]
        torch.mm(hidden, head.t(), out=products)
        if logits.dtype != products.dtype:
            logits.copy_(products)
        return logits if bias is None else logits.add_(bias.float())

    def copy(self, values: torch.Tensor) -> torch.Tensor:
        """A second portion's room, with `values` in it."""
        if self._copy is None:
            self._copy = torch.empty_like(self._logits)
        return self._copy[: len(values)].copy_(values)

    def for_product(self, values: torch.Tensor) -> torch.Tensor:
        """`values`, a portion's in fp32, in the dtype of products."""
        if values.dtype == self._products.dtype:
            return values
        return self._products[: len(values)].copy_(values)


def _portions(tokens: int, vocabulary: int) -> list[slice]:
    size = _at_once(vocabulary)
    return [slice(start, start + size) for start in range(0, max(1, tokens), size)]


def _at_once(vocabulary: int) -> int:
    return max(1, LOGITS_AT_ONCE // vocabulary)


def _product_dtype(hidden: torch.Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
