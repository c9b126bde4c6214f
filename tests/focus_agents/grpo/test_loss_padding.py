"""What the losses do not depend on: padding, and the precision of all but the log-probabilities."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from focus_agents.grpo.loss import StepTotals, policy_loss
from focus_agents.grpo.settings import KLEstimator, LossName
from tests.focus_agents.grpo.losses import CLIPPED, ESTIMATORS, LOSSES, Result, settings_of, totals_of


@pytest.mark.parametrize("estimator", [None, *ESTIMATORS])
@pytest.mark.parametrize("name", LOSSES)
def test_what_stands_in_padding_does_not_matter(name: LossName, estimator: KLEstimator | None) -> None:
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    clean = {
        "logprobs": torch.tensor([[-1.0, -2.0, -0.3], [-0.5, -0.2, -0.1], [-0.4, -0.7, -0.9]]),
        "old_logprobs": torch.tensor([[-1.1, -1.0, -0.3], [-0.4, -0.2, -0.1], [-0.1, -0.6, -0.9]]),
        "ref_logprobs": torch.tensor([[-1.5, -2.5, -0.3], [-0.9, -0.2, -0.1], [-0.2, -0.7, -0.9]]),
        "rollout_weights": torch.tensor([[0.9, 1.1, 1.0], [1.2, 1.0, 1.0], [1.0, 1.0, 1.0]]),
    }
    options: dict[str, Any] = {} if estimator is None else {"kl_coeff": 0.4, "kl_estimator": estimator}
    settings = settings_of(loss=name, delta=3.0 if name in CLIPPED else None, **options)

    def result_of(tensors: dict[str, torch.Tensor]) -> Result:
        logprobs = tensors["logprobs"].clone().requires_grad_()
        loss, sums = policy_loss(
            advantages=torch.tensor([1.0, -0.5, 2.0]),
            loss_mask=mask,
            settings=settings,
            totals=totals_of(mask),
            **tensors | {"logprobs": logprobs},
        )
        return loss.detach(), sums, torch.autograd.grad(loss, logprobs)[0]

    expected = result_of(clean)
    assert expected[0].isfinite()
    assert expected[2][~mask].tolist() == [0.0] * 6
    for where in (*clean, "all"):
        for garbage in (math.nan, math.inf, -math.inf, 1e30, 0.0):
            dirty = {k: v.masked_fill(~mask, garbage) if where in (k, "all") else v for k, v in clean.items()}
            torch.testing.assert_close(
                result_of(dirty), expected, rtol=0, atol=0, msg=lambda m, w=where, g=garbage: f"{g} in {w}: {m}"
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_the_log_probabilities_decide_the_precision(name: LossName, dtype: torch.dtype) -> None:
    """Advantages of another dtype, here exact in both, change no bit."""
    logprobs = torch.tensor([[-0.1, -0.2, -0.7]], dtype=dtype)
    results = [
        policy_loss(
            logprobs,
            logprobs - 0.1,
            torch.tensor([-0.5], dtype=other),
            torch.ones(1, 3, dtype=torch.bool),
            settings=settings_of(loss=name, kl_coeff=0.1),
            totals=StepTotals(3, 1, 1),
            ref_logprobs=logprobs - 0.3,
        )[0]
        for other in (torch.float32, torch.float64)
    ]
    assert [r.dtype for r in results] == [dtype, dtype]
    assert results[0].item() == results[1].item()


def test_the_sums_carry_no_gradient() -> None:
    for name in LOSSES:
        logprobs = torch.zeros(1, 2, requires_grad=True)
        _, sums = policy_loss(
            logprobs,
            torch.zeros(1, 2),
            torch.ones(1),
            torch.ones(1, 2),
            settings=settings_of(loss=name, kl_coeff=0.1),
            totals=StepTotals(2, 1, 1),
            ref_logprobs=torch.zeros(1, 2),
        )
        assert sorted(sums) == ["clipped_low", "clipped_tokens", "kl_sum", "num_tokens", "ratio_sum"]
        assert not any(value.requires_grad for value in sums.values())
