"""The loss of a few tokens, in float64."""

from __future__ import annotations

from typing import Any, get_args

import torch

from focus_agents.grpo.loss import StepTotals, policy_loss
from focus_agents.grpo.settings import GRPOSettings, KLEstimator, LossName

LOSSES: list[LossName] = list(get_args(LossName))
CLIPPED: list[LossName] = ["grpo", "dapo", "dr_grpo", "bnpo", "gspo"]
ESTIMATORS: list[KLEstimator] = list(get_args(KLEstimator))
Result = tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]


def settings_of(**options: Any) -> GRPOSettings:
    return GRPOSettings(**{"clip_low": 0.2, "clip_high": 0.3, "max_completion_tokens": 1} | options)


def totals_of(mask: torch.Tensor, num_micro_batches: int = 1) -> StepTotals:
    return StepTotals(int(mask.sum()), len(mask), num_micro_batches)


def float64(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def loss_of(
    ratios: list[list[float]],
    advantages: list[float],
    mask: list[list[int]] | None = None,
    *,
    tensors: dict[str, torch.Tensor] | None = None,
    **options: Any,
) -> Result:
    """The loss of given probability ratios, its sums, and its gradient in the log-probabilities.

    The policy's log-probabilities are -1; `tensors` go to `policy_loss`, `options` to its settings.
    """
    logprobs = torch.full((len(ratios), len(ratios[0])), -1.0, dtype=torch.float64, requires_grad=True)
    old = logprobs.detach() - float64(ratios).log()
    loss_mask = torch.ones_like(old) if mask is None else torch.tensor(mask)
    loss, sums = policy_loss(
        logprobs,
        old,
        float64(advantages),
        loss_mask,
        settings=settings_of(**options),
        totals=totals_of(loss_mask),
        **(tensors or {}),
    )
    (gradient,) = torch.autograd.grad(loss, logprobs)
    return loss.detach(), sums, gradient
