"""The formulas of stage 1: L = L_LM + beta * L_bbox. Pure functions of tensors.

Axis letters: B examples, N tokens, V vocabulary, Q query-image tokens, M support tokens, L layers.

Each function returns sums or one value per example; `sft/step.py` divides by counts of the whole batch, over
micro-batches and workers alike, so that neither changes what is trained.
"""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint

from focus_agents.models.inputs import IGNORED


def lm_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum of the negative log-likelihoods of labelled tokens, in float32 or wider (scalar).

    Args:
        logits: [B, N, V], of which position n predicts label n + 1.
        labels: [B, N] int64, `IGNORED` where a token is not trained.
    """
    wide = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))
    return torch.nn.functional.cross_entropy(
        wide.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )


def chunked_lm_loss(head: torch.nn.Module, states: torch.Tensor, labels: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Compute `lm_loss` of a head's logits, which are in memory a chunk at a time; backward makes them again.

    Args:
        head: Linear, [..., H] to [..., V].
        states: [B, N, H], of which position n predicts label n + 1.
        labels: [B, N] int64, as in `lm_loss`.
        num_rows: Logits of so many tokens are a chunk.
    """
    is_labelled = labels[:, 1:] != IGNORED
    rows, targets = states[:, :-1][is_labelled], labels[:, 1:][is_labelled]

    def loss(states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = head(states)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return torch.nn.functional.cross_entropy(wide, targets, reduction="sum")

    chunks = zip(torch.split(rows, num_rows), torch.split(targets, num_rows), strict=True)
    return torch.stack([checkpoint(loss, *chunk, use_reentrant=False) for chunk in chunks]).sum()


def support_delta(mass: torch.Tensor, num_support: torch.Tensor, num_tokens: torch.Tensor) -> torch.Tensor:
    """Return [..., B, Q] by how much a row's mean attention to a support token exceeds that to any other token.

    FOCUS (arXiv:2605.31145) eq. 7 and 8. Since a row's attention adds up to 1, the mass S on the M support tokens is
    enough: delta = S / M - (1 - S) / (N - M), at most 1 / M. The other tokens are all unpadded tokens of the sequence,
    those after the row included, as in the authors' code.

    Args:
        mass: [..., B, Q] in 0 to 1.
        num_support: [B] M.
        num_tokens: [B] N without padding.
    """
    num_support = num_support[:, None].clamp(min=1)
    return mass / num_support - (1 - mass) / (num_tokens[:, None] - num_support)


def contrast_delta(
    mass: torch.Tensor, contrast_mass: torch.Tensor, num_support: torch.Tensor, num_contrast: torch.Tensor
) -> torch.Tensor:
    """Return [..., B, Q] by how much a row's mean attention to a support token exceeds that to a token of the contrast.

    With masses S and D, delta = S / M - D / C: like `support_delta`, but attention to other tokens costs nothing. Ours;
    FOCUS compares with all other tokens.

    Args:
        mass: [..., B, Q] S, in 0 to 1.
        contrast_mass: [..., B, Q] D, likewise.
        num_support: [B] M.
        num_contrast: [B] C; where it is 0, nothing is taken off.
    """
    return mass / num_support[:, None].clamp(min=1) - contrast_mass / num_contrast[:, None].clamp(min=1)


def margin_unit(num_support: torch.Tensor, *, is_relative: bool, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return [B] what a margin is a multiple of: 1, or 1 / M, the most that delta can reach; in the dtype of delta."""
    count = num_support.clamp(min=1).to(dtype)
    return 1 / count if is_relative else torch.ones_like(count)


def attention_loss(delta: torch.Tensor, row_mask: torch.Tensor, margin: float, unit: torch.Tensor) -> torch.Tensor:
    """Return [B] mean over an example's rows of max(0, margin - delta / unit)^2.

    With unit 1 this is FOCUS eq. 9, and margin its mu. In units of 1 / M it is ours: in absolute ones the loss is
    about mu^2, a few 1e-4, and its weight would have to grow with the square of the support tokens.

    Args:
        delta: [B, Q] from masses averaged over heads and layers.
        row_mask: [B, Q] bool, the rows that count; at least one in each example.
        margin: Where the pull ends, in units.
        unit: [B] from `margin_unit`.
    """
    shortfall = (margin - delta / unit[:, None]).clamp(min=0).square()
    return (shortfall * row_mask).sum(1) / row_mask.sum(1)


def share_past_margin(delta: torch.Tensor, row_mask: torch.Tensor, margin: float, unit: torch.Tensor) -> torch.Tensor:
    """Return [..., B] share of an example's rows whose delta, [..., B, Q], has reached the margin."""
    reached = (delta >= margin * unit[:, None]) & row_mask
    return reached.sum(-1) / row_mask.sum(-1)
