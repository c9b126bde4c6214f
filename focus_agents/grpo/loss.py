"""The GRPO loss as pure functions of tensors.

Axis letters: B completions, T completion tokens.
"""

from __future__ import annotations

import torch


def grpo_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    loss_mask: torch.Tensor,
    *,
    num_valid_tokens: float,
    clip_low: float,
    clip_high: float,
    kl_coeff: float = 0.0,
    ref_logprobs: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Clipped policy-gradient loss with a KL penalty, summed over tokens and divided by a count that the caller gives.

    With ratio r = exp(logprob - old_logprob) and advantage A of the completion, a token's loss is
    ``-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) + kl_coeff * k3``.

    Args:
        logprobs: [B, T] of the policy that is trained, with gradient.
        old_logprobs: [B, T] of the policy that sampled.
        advantages: [B].
        loss_mask: [B, T] 1 at completion tokens, 0 at padding; what stands in padding does not matter.
        num_valid_tokens: Tokens of the whole optimizer step, over all micro-batches and learners, so that the sum of
            the parts is the loss of the whole.
        clip_low: How far below 1 the ratio counts.
        clip_high: How far above 1.
        kl_coeff: Weight of the penalty; 0 needs no `ref_logprobs`.
        ref_logprobs: [B, T] of the frozen reference policy.

    Returns:
        The loss (scalar), and sums over valid tokens, detached: `clipped_tokens`, `kl_sum`, `ratio_sum`, `num_tokens`.

    Raises:
        ValueError: If `kl_coeff` is set and `ref_logprobs` is missing.

    Source: arXiv:2402.03300, equation 3; k3 from section 4.1.1. Departure: tokens weigh the same whatever the length
    of their completion (arXiv:2503.14476, equation 8), where the paper averages within completions first.
    """
    if kl_coeff != 0 and ref_logprobs is None:
        raise ValueError(f"ref_logprobs: expected a tensor because kl_coeff is {kl_coeff}, got None")
    mask = loss_mask.bool()
    ratio = torch.exp((logprobs - old_logprobs).masked_fill(~mask, 0.0))
    advantages = advantages[:, None]
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    token_loss = -torch.minimum(unclipped, clipped)
    kl = torch.zeros_like(token_loss)
    if kl_coeff != 0 and ref_logprobs is not None:
        # Masked before the exponential: behind it, garbage in the padding would make the gradient nan.
        kl = k3_kl(logprobs.masked_fill(~mask, 0.0), ref_logprobs.masked_fill(~mask, 0.0))
        token_loss = token_loss + kl_coeff * kl
    loss = token_loss.masked_fill(~mask, 0.0).sum() / num_valid_tokens
    with torch.no_grad():
        sums = {
            "clipped_tokens": (mask & (clipped < unclipped)).sum(),
            "kl_sum": kl.sum(),
            "ratio_sum": ratio[mask].sum(),
            "num_tokens": mask.sum(),
        }
    return loss, sums


def k3_kl(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """Estimate KL(policy || reference) per token: ``exp(d) - d - 1``, ``d = ref_logprob - logprob``; never negative.

    Source: J. Schulman, "Approximating KL divergence" (2020), estimator k3.
    """
    difference = ref_logprobs - logprobs
    return torch.exp(difference) - difference - 1
