"""The losses that TRL lacks or takes otherwise, as functions of log-probs and lengths.

Owns the equations alone: no model, no trainer, no batch of token ids but their masks.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

IGNORED = -100
"""The label of a position that no loss looks at."""


def completion_nll(mean_logps: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
    """Mean negative log-likelihood per completion token over a batch; L_SFT of ORPO, eq. 6.

    `mean_logps` (batch,) are log-probs averaged over each row's labelled tokens; `labels`
    (batch, length) are -100 off the completion. Position 0 is never predicted.
    """
    tokens = (labels[:, 1:] != IGNORED).sum(-1).to(mean_logps.device)
    return -(mean_logps * tokens).sum() / tokens.sum()


def mean_logps(token_logps: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
    """(batch,) log-probs per labelled token, from `token_logps` (batch, length - 1).

    `token_logps` are 0 off the completion; `labels` (batch, length) are -100 there.
    """
    return token_logps.sum(-1) / (labels[:, 1:] != IGNORED).sum(-1).clamp(min=1)


def length_regularized_reference(
    reference_logps: "torch.Tensor", lengths: "torch.Tensor", *, penalty: float, beta: float
) -> "torch.Tensor":
    """(batch,) reference log-probs with which DPO's loss becomes R-DPO's (arXiv 2403.19159).

    R-DPO maximises r(x, y) - α|y| under the KL of DPO, so r is β log π/π_ref + α|y| and the loss
    -log σ(β Δ log π/π_ref + α(|y_w| - |y_l|)): a pair whose length alone explains the choice
    teaches less. α `penalty` and |y| `lengths` (batch,) are a token and tokens.
    """
    return reference_logps - penalty / beta * lengths
