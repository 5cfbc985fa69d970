"""A pair's prompt goes through the model once, and its head sees only what the loss reads.

Owns which models are given that way of computing, and the change to a model's forward that TRL's
trainers then find under the name they call. A model that says anything else of how it attends, or
whose log-probs come out otherwise on a trial, keeps TRL's own. Knows no loss and no trainer.
"""

import functools
import types
from collections.abc import Callable
from typing import Any

import torch

from alignment.training.forward.pair_rows import Branch, attend, to_row
from alignment.training.forward.token_logps import score_tokens

ATTENTION = "votetune_pairs"
_SAID_OTHERWISE = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
    "output_router_logits",
    "attn_logit_softcapping",
)
"""What scales logits or attention beyond a plain head and a plain softmax, by configs' names."""
_TRIAL_TOLERANCE = 1e-3
_READ = ("log_probs", "entropy", "mean_logits", "is_top1")


def share_prompts(model: Any, output: Callable[..., Any]) -> bool:
    """Give `model`, a causal language model with TRL's fused head, a forward for pairs.

    Called with `fused_lm_head=True`, `input_ids` and `labels` (2 × pairs, length) and the
    `attention_mask` that pads them right, it returns an `output` of what TRL's own returns. Any
    other call goes on as before. Returns whether it does so now; False leaves the model as it was.
    """
    if getattr(model, "shares_prompts", False):
        return True
    if not _attends_plainly(model):
        return False
    _register()
    before, config = model.forward, model.config
    implementation = config._attn_implementation

    # generate() reads the names of the arguments that it may pass.
    @functools.wraps(before)
    def forward(_self: Any, *args: Any, fused_lm_head: bool = False, **named: Any) -> Any:
        if not fused_lm_head:
            return before(*args, **named)
        return output(**_score(model, named["input_ids"], named["attention_mask"], named["labels"]))

    model.forward, config._attn_implementation = types.MethodType(forward, model), ATTENTION
    if not _agrees(model, before):
        model.forward, config._attn_implementation = before, implementation
        return False
    model.shares_prompts = True
    return True


def _score(
    model: Any, ids: torch.Tensor, attended: torch.Tensor, labels: torch.Tensor, **layout: int
) -> dict[str, torch.Tensor]:
    """TRL's fields (2 × pairs, length - 1), 0 where the label is -100."""
    row = to_row(ids, attended, **layout)
    # With branches a mask that hides nothing: it only keeps the model from making its own.
    mask = row.ids.new_ones(1, 1, 1, 1, dtype=torch.bool) if row.mask is None else row.mask
    more = {"pair_branches": row.branches} if row.branches else {}
    hidden = model.base_model(
        input_ids=row.ids, position_ids=row.positions, attention_mask=mask, use_cache=False, **more
    ).last_hidden_state[0]
    read = labels[:, 1:] != -100
    head = model.get_output_embeddings()
    scores = score_tokens(
        hidden[row.places[:, :-1][read]], head.weight, head.bias, labels[:, 1:][read]
    )
    found = (scores.logps, scores.entropies, scores.mean_logits, scores.is_top1)
    # masked_scatter keeps a batch without any label connected to the model.
    return {
        name: values.new_zeros(read.shape).masked_scatter(read, values)
        for name, values in zip(_READ, found, strict=True)
    }


def _attends_plainly(model: Any) -> bool:
    """Whether every layer attends to all earlier tokens, by torch's own product, on a processor.

    On a GPU TRL's head has kernels of its own, and nothing of this was measured there.
    """
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    slides = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return (
        model.device.type == "cpu"
        and model.config is config
        and config._attn_implementation == "sdpa"
        and bool(getattr(model, "_supports_attention_backend", False))
        and not config.is_encoder_decoder
        and set(kinds) == {"full_attention"}
        and not slides
        and all(getattr(config, name, None) in (None, False) for name in _SAID_OTHERWISE)
    )


def _agrees(model: Any, before: Callable[..., Any]) -> bool:
    """Whether the log-probs of two small pairs, of uneven lengths, are those of TRL's forward."""
    training = model.training
    vocabulary = model.get_output_embeddings().weight.shape[0]
    ids = torch.arange(4 * 12).mul_(7).remainder_(min(vocabulary, 997) - 1).add_(1).view(4, 12)
    ids[2:, :5] = ids[:2, :5]
    lengths = torch.tensor([12, 7, 9, 10])
    attended = (torch.arange(12) < lengths[:, None]).long()
    labels = ids.masked_fill((attended == 0) | (torch.arange(12) < 4), -100)
    model.eval()
    try:
        with torch.no_grad():
            theirs = before(
                input_ids=ids, attention_mask=attended, labels=labels, fused_lm_head=True
            ).log_probs
            ours = [
                _score(model, ids, attended, labels, one_mask_tokens=most)["log_probs"]
                for most in (0, ids.numel())
            ]
    except (TypeError, ValueError, AttributeError, RuntimeError, IndexError):
        return False
    finally:
        model.train(training)
    return all(
        torch.allclose(theirs, found, rtol=_TRIAL_TOLERANCE, atol=_TRIAL_TOLERANCE)
        for found in ours
    )


@functools.cache
def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def pairs_attention(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        pair_branches: tuple[Branch, ...] = (),
        **more: Any,
    ) -> Any:
        if not pair_branches:
            return sdpa_attention_forward(module, query, key, value, attention_mask, **more)
        groups = query.shape[1] // key.shape[1]
        with torch.autocast(query.device.type, enabled=False):
            found = attend(
                query,
                repeat_kv(key, groups),
                repeat_kv(value, groups),
                pair_branches,
                dropout_p=more.get("dropout", 0.0),
                scale=more.get("scaling"),
            )
        return found.transpose(1, 2).contiguous(), None

    AttentionInterface.register(ATTENTION, pairs_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
