"""The head on a few tokens at a time, against log_softmax over all the logits."""

import pytest
import torch

from alignment.training.forward import token_logps
from alignment.training.forward.token_logps import score_tokens

TOKENS, WIDTH, VOCABULARY = 13, 8, 31


def made(*, frozen: bool, biased: bool) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(*shape, generator=draw) * 0.7
        for shape in ((TOKENS, WIDTH), (VOCABULARY, WIDTH), (VOCABULARY,))
    )
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=draw)
    trained = (weight, bias) if biased else (weight,)
    for tensor in (hidden, *(() if frozen else trained)):
        tensor.requires_grad_(True)
    return hidden, weight, bias if biased else None, targets


@pytest.mark.parametrize("at_once", [1, 5 * VOCABULARY, 10**6])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_scores_and_gradients_are_those_of_all_logits(
    monkeypatch: pytest.MonkeyPatch, at_once: int, frozen: bool, biased: bool
) -> None:
    monkeypatch.setattr(token_logps, "LOGITS_AT_ONCE", at_once)
    hidden, weight, bias, targets = made(frozen=frozen, biased=biased)
    scores = score_tokens(hidden, weight, bias, targets)
    logits = hidden @ weight.t() + (0 if bias is None else bias)
    logps = torch.log_softmax(logits, -1)
    expected = logps.gather(-1, targets[:, None])[:, 0]
    assert torch.allclose(scores.logps, expected, atol=1e-5)
    assert torch.allclose(scores.entropies, -(logps.exp() * logps).sum(-1), atol=1e-5)
    assert torch.allclose(scores.mean_logits, logits.mean(-1), atol=1e-6)
    assert torch.equal(scores.is_top1, logits.argmax(-1) == targets)
    inputs = [t for t in (hidden, weight, bias) if t is not None and t.requires_grad]
    assert len(inputs) == (1 if frozen else 2 + biased)
    weights = torch.linspace(-1, 2, TOKENS)
    ours, theirs = (
        torch.autograd.grad((found * weights).sum(), inputs) for found in (scores.logps, expected)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_under_autocast_scores_are_near_those_in_fp32_and_kept_in_it() -> None:
    hidden, weight, bias, targets = made(frozen=True, biased=False)
    exact = score_tokens(hidden, weight, bias, targets)
    with torch.autocast("cpu", torch.bfloat16):
        near = score_tokens(hidden, weight, bias, targets)
    assert near.logps.dtype == torch.float32
    # 8 bits of each logit, which are up to about 5.
    assert torch.allclose(near.logps, exact.logps, atol=0.05)
    (grad,) = torch.autograd.grad(near.logps.sum(), hidden)
    (wanted,) = torch.autograd.grad(exact.logps.sum(), hidden)
    assert torch.allclose(grad, wanted, atol=0.05)


def test_no_token_has_no_scores() -> None:
    hidden, weight, bias, targets = made(frozen=True, biased=False)
    scores = score_tokens(hidden[:0], weight, bias, targets[:0])
    assert scores.logps.shape == scores.entropies.shape == (0,)
    scores.logps.sum().backward()
