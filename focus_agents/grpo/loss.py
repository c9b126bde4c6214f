"""The GRPO family of losses as pure functions of tensors.

One optimizer step may be computed in micro-batches on several learners. Each part divides by what the *whole* step
holds, so the parts' losses, and their gradients, add up to the step's.

Axis letters: B completions, T completion tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch

from focus_agents.grpo.settings import GRPOSettings, KLEstimator, RolloutCorrection

SAPO_TAU_POSITIVE, SAPO_TAU_OTHERS = 1.0, 1.05  # by the advantage's sign: bad answers' updates fade sooner


@dataclass(frozen=True, slots=True)
class StepTotals:
    """The totals of one optimizer step, over all its micro-batches and learners.

    Attributes:
        num_tokens: Completion tokens, padding apart.
        num_completions: Completions, also those without a token to learn from.
        num_micro_batches: Calls of `policy_loss` that make up the step.
    """

    num_tokens: int
    num_completions: int
    num_micro_batches: int


def policy_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    loss_mask: torch.Tensor,
    *,
    settings: GRPOSettings,
    totals: StepTotals,
    ref_logprobs: torch.Tensor | None = None,
    rollout_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return this micro-batch's part of the optimizer step's loss; the parts add up to the whole.

    With the ratio r = exp(logprob - old_logprob) and the completion's advantage A, a token's loss is

    ========================= =========================================================================================
    grpo, dapo, dr_grpo, bnpo -min(min(r, delta) A, clip(r, 1 - clip_low, 1 + clip_high) A); no inner min if delta None
    gspo                      the same, r being exp(mean of the completion's log ratios) for each of its tokens
    cispo                     -stop_gradient(min(r, 1 + clip_high)) A logprob
    sapo                      -(4 / tau) sigmoid(tau (r - 1)) A; tau is 1 if A > 0, else 1.05
    ========================= =========================================================================================

    times the rollout weight, plus kl_coeff times `kl_penalty`, which no ratio weighs. The step's loss is

    ================ ==================================================================================================
    dapo, cispo      the sum over tokens / tokens of the step
    grpo, gspo, sapo the sum over completions of the mean over their tokens / completions of the step; a completion
                     without tokens adds 0 but counts
    dr_grpo          the sum over tokens / (completions of the step x max_completion_tokens)
    bnpo             the sum over tokens / tokens of this micro-batch / micro-batches of the step, so unlike the others
                     it depends on how the step is cut
    ================ ==================================================================================================

    Args:
        logprobs: [B, T] of the policy that is trained, with gradient.
        old_logprobs: [B, T] of the policy as it was when the step's data was made.
        advantages: [B].
        loss_mask: [B, T] 1 at completion tokens, 0 at padding; what stands in padding, here and below, does not matter.
        settings: Which loss.
        totals: Of the whole step.
        ref_logprobs: [B, T] of the frozen reference policy; needed if `settings.kl_coeff` is not 0.
        rollout_weights: [B, T] or [B, 1] from `rollout_weights`; None weighs all tokens by 1.

    Returns:
        The loss (scalar), and sums over this micro-batch's valid tokens, detached: `clipped_tokens` whose ratio a bound
        changed (none for sapo), `clipped_low` of them with a ratio below 1, `kl_sum`, `ratio_sum`, `num_tokens`. For
        gspo each token counts its completion's ratio.

    Raises:
        ValueError: If there is a `kl_coeff` but no `ref_logprobs`.

    Sources, and what TRL calls them (`loss_type` unless said otherwise):
        grpo: arXiv:2402.03300, equation 3; TRL "grpo".
        dapo: arXiv:2503.14476, equation 8; TRL "dapo". TRL spreads the tokens between two generations evenly over their
            steps; this divides by the step's own, the same where one step uses them all.
        dr_grpo: arXiv:2503.20783, which drops the length; a constant stands in its place. TRL "dr_grpo".
        bnpo: no paper; TRL "bnpo".
        gspo: arXiv:2507.18071, equation 5; TRL `importance_sampling_level="sequence"` with "grpo". Its
            clip metrics count completions where `clipped_tokens` counts their tokens.
        cispo: arXiv:2506.13585, section 3.1, without a lower bound, which the paper sets out of reach; TRL "cispo". Its
            clip metric leaves out negative advantages.
        sapo: arXiv:2511.20347; TRL "sapo".
        delta: arXiv:2505.07291 (two-sided clipping); TRL `delta`.
        KL term: arXiv:2402.03300, equation 3; TRL `beta` with `use_bias_correction_kl=False`.
    """
    if settings.kl_coeff != 0 and ref_logprobs is None:
        raise ValueError(f"ref_logprobs: expected a tensor because kl_coeff is {settings.kl_coeff}, got None")
    mask = loss_mask.bool()
    # Masked before any exponential: behind it, garbage in the padding would make the gradient nan.
    logprobs, old_logprobs = logprobs.masked_fill(~mask, 0.0), old_logprobs.masked_fill(~mask, 0.0)
    advantages = advantages.to(logprobs)[:, None]
    token_loss, ratio, is_clipped = _token_loss(logprobs, old_logprobs, advantages, mask, settings)
    if rollout_weights is not None:
        token_loss = token_loss * torch.where(mask, rollout_weights, 0.0)
    kl = torch.zeros_like(logprobs)
    if settings.kl_coeff != 0 and ref_logprobs is not None:
        kl = kl_penalty(logprobs, ref_logprobs.masked_fill(~mask, 0.0), settings.kl_estimator)
        token_loss = token_loss + settings.kl_coeff * kl
    loss = _aggregate(token_loss.masked_fill(~mask, 0.0), mask, settings, totals)
    with torch.no_grad():
        sums = {
            "clipped_tokens": (mask & is_clipped).sum(),
            "clipped_low": (mask & is_clipped & (ratio < 1)).sum(),
            "kl_sum": kl.detach().sum(),
            "ratio_sum": ratio.detach().masked_fill(~mask, 0.0).sum(),
            "num_tokens": mask.sum(),
        }
    return loss, sums


def _token_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    settings: GRPOSettings,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the first table of `policy_loss`: each token's loss, its ratio, whether a bound changed it, all [B, T].

    Log-probabilities are 0 in padding here; advantages are [B, 1].
    """
    log_ratio = logprobs - old_logprobs
    if settings.loss == "gspo":
        num_tokens = mask.sum(1, keepdim=True).clamp(min=1)
        log_ratio = (log_ratio.sum(1, keepdim=True) / num_tokens).expand_as(log_ratio)
    ratio = torch.exp(log_ratio)
    if settings.loss == "cispo":
        weight = ratio.detach().clamp(max=1 + settings.clip_high)
        return -weight * advantages * logprobs, ratio, weight != ratio
    if settings.loss == "sapo":
        temperature = torch.full_like(advantages, SAPO_TAU_OTHERS).masked_fill(advantages > 0, SAPO_TAU_POSITIVE)
        gate = 4 / temperature * torch.sigmoid(temperature * (ratio - 1))
        return -gate * advantages, ratio, torch.zeros_like(mask)
    plain = ratio * advantages
    bounded = plain if settings.delta is None else ratio.clamp(max=settings.delta) * advantages
    gain = torch.minimum(bounded, ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high) * advantages)
    return -gain, ratio, gain != plain


def _aggregate(
    token_loss: torch.Tensor, mask: torch.Tensor, settings: GRPOSettings, totals: StepTotals
) -> torch.Tensor:
    """Return the second table of `policy_loss`: from [B, T] token losses, 0 in padding, to this part's scalar."""
    per_completion, num_tokens = token_loss.sum(1), mask.sum(1)
    # The denominators are those of the whole step, so that parts of any size add up to its loss. A mean over each part
    # would weigh the tokens of a part with few of them more than the others.
    match settings.loss:
        case "dapo" | "cispo":
            # Each token weighs the same, so a long completion weighs more than a short one.
            return per_completion.sum() / max(totals.num_tokens, 1)
        case "grpo" | "gspo" | "sapo":
            # Each completion weighs the same. One without tokens is 0 / 1 here, but is counted in the totals.
            return (per_completion / num_tokens.clamp(min=1)).sum() / totals.num_completions
        case "dr_grpo":
            # A constant length: a completion's own would weigh the tokens of short ones more (the bias it removes).
            return per_completion.sum() / (totals.num_completions * settings.max_completion_tokens)
        case "bnpo":
            # The exception: the tokens of this part alone. Its weight is one of all parts, whatever their sizes.
            return per_completion.sum() / num_tokens.sum().clamp(min=1) / totals.num_micro_batches


def rollout_weights(
    old_logprobs: torch.Tensor,
    sampler_logprobs: torch.Tensor,
    loss_mask: torch.Tensor,
    *,
    correction: RolloutCorrection,
    cap: float,
) -> torch.Tensor | None:
    """Importance weights of completions whose sampler computes other probabilities than the learner's policy does.

    Args:
        old_logprobs: [B, T] of the policy at the time of sampling, computed as the learner does.
        sampler_logprobs: [B, T] of the same policy, as its sampler reported them.
        loss_mask: [B, T] 1 at completion tokens; what stands in padding does not matter.
        correction: "token_tis" weighs each token by its own ratio, at most `cap`; "seq_mask" weighs all tokens of a
            completion by the product of their ratios, and drops the completion if that is above `cap`; "none".
        cap: Above 0.

    Returns:
        [B, T] for "token_tis" (1 in padding), [B, 1] for "seq_mask", None for "none". Without gradient.

    Raises:
        ValueError: If `correction` is unknown or `cap` is not above 0.

    Sources: F. Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training" (2025), truncated
    importance sampling; J. Liu et al., "When Speed Kills Stability: Demystifying RL Collapse from the
    Training-Inference Mismatch" (2025), sequence-level masking. In TRL `vllm_importance_sampling_mode`
    "token_truncate" and "sequence_mask", with `vllm_importance_sampling_clip_max` for `cap`. Departure: a sampler's nan
    stays nan, where TRL weighs its token by 1.
    """
    if correction not in get_args(RolloutCorrection):
        raise ValueError(f"correction: expected one of {', '.join(get_args(RolloutCorrection))}, got {correction!r}")
    if correction == "none":
        return None
    if not cap > 0:
        raise ValueError(f"cap: expected more than 0, got {cap}")
    log_ratio = (old_logprobs.detach() - sampler_logprobs.detach()).masked_fill(~loss_mask.bool(), 0.0)
    if correction == "token_tis":
        return log_ratio.exp().clamp(max=cap).masked_fill(~loss_mask.bool(), 1.0)
    weights = log_ratio.sum(1, keepdim=True).exp()
    return weights.masked_fill(weights > cap, 0.0)


def kl_penalty(logprobs: torch.Tensor, ref_logprobs: torch.Tensor, estimator: KLEstimator) -> torch.Tensor:
    """Estimate KL(policy || reference) at each token that the policy sampled, from d = logprob - ref_logprob.

    k1 is d, k2 is d^2 / 2 (biased, never negative), k3 is exp(-d) - 1 + d (unbiased, never negative). The estimates
    say nothing of their gradients, and these are what a loss uses: on the policy's own samples k1's is zero on average
    (it adds noise and holds nothing back), k2's is that of KL(policy || reference), k3's that of
    KL(reference || policy).

    Args:
        logprobs: Of the policy, any shape.
        ref_logprobs: Of the reference, the same shape.
        estimator: Which.

    Returns:
        The same shape.

    Sources: J. Schulman, "Approximating KL divergence" (2020); arXiv:2506.09477 for the gradients. GRPO and TRL take k3
    (arXiv:2402.03300, equation 4).
    """
    difference = logprobs - ref_logprobs
    match estimator:
        case "k1":
            return difference
        case "k2":
            return difference.square() / 2
        case "k3":
            return torch.exp(-difference) - 1 + difference
