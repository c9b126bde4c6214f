"""Beside the policy term: a penalty towards a reference, and weights where the sampler computes otherwise."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from focus_agents.grpo.loss import StepTotals, kl_penalty, policy_loss, rollout_weights
from focus_agents.grpo.settings import KLEstimator, LossName, RolloutCorrection
from tests.focus_agents.grpo.losses import ESTIMATORS, LOSSES, float64, loss_of, settings_of

# ---- the penalty


@pytest.mark.parametrize(
    ("estimator", "logprob", "ref_logprob", "expected", "slope"),
    [
        ("k1", -1.0, -1.0, 0.0, 1.0),
        ("k1", -1.0, -3.0, 2.0, 1.0),
        ("k1", -3.0, -1.0, -2.0, 1.0),
        ("k2", -1.0, -1.0, 0.0, 0.0),
        ("k2", -1.0, -3.0, 2.0, 2.0),
        ("k2", -3.0, -1.0, 2.0, -2.0),
        ("k3", -1.0, -1.0, 0.0, 0.0),
        ("k3", -1.0, -1.0 + math.log(2), 2 - math.log(2) - 1, 1 - 2),
        ("k3", -1.0, -1.0 - math.log(2), 0.5 + math.log(2) - 1, 1 - 0.5),
        ("k3", -0.5, -3.0, math.exp(-2.5) + 2.5 - 1, 1 - math.exp(-2.5)),
    ],
)
@pytest.mark.parametrize("name", LOSSES)
def test_kl_by_hand(
    name: LossName, estimator: KLEstimator, logprob: float, ref_logprob: float, expected: float, slope: float
) -> None:
    logprobs, reference = float64([[logprob]]).requires_grad_(), float64([[ref_logprob]])
    assert kl_penalty(logprobs.detach(), reference, estimator).item() == pytest.approx(expected, abs=1e-12)
    loss, sums = policy_loss(
        logprobs,
        logprobs.detach() - 1,  # a ratio of e, which must not weigh the penalty
        torch.zeros(1),
        torch.ones(1, 1),
        settings=settings_of(loss=name, kl_coeff=0.5, kl_estimator=estimator),
        totals=StepTotals(1, 1, 1),
        ref_logprobs=reference,
    )
    assert sums["kl_sum"].item() == pytest.approx(expected, abs=1e-12)
    assert loss.item() == pytest.approx(0.5 * expected, abs=1e-12)
    assert torch.autograd.grad(loss, logprobs)[0].item() == pytest.approx(0.5 * slope, abs=1e-12)


POLICY, REFERENCE = float64([0.1, 0.2, 0.7]), float64([0.3, 0.3, 0.4])


@pytest.mark.parametrize(("estimator", "is_unbiased"), [("k1", True), ("k2", False), ("k3", True)])
def test_which_estimates_of_the_kl_divergence_are_unbiased(estimator: KLEstimator, is_unbiased: bool) -> None:
    exact = (POLICY * (POLICY / REFERENCE).log()).sum()
    mean = (POLICY * kl_penalty(POLICY.log(), REFERENCE.log(), estimator)).sum()
    assert (abs(mean - exact) < 1e-12) == is_unbiased
    assert abs(mean - exact) < 0.1


def test_what_the_gradients_of_the_estimates_are_on_average() -> None:
    """What the docstring of `kl_penalty` says: nothing, that of KL(policy || reference), the reverse."""
    logits = POLICY.log().requires_grad_()
    logprobs = logits.log_softmax(0)
    forward = (logprobs.exp() * (logprobs - REFERENCE.log())).sum()
    backward = (REFERENCE * (REFERENCE.log() - logprobs)).sum()
    expected = {
        "k1": torch.zeros(3, dtype=torch.float64),
        "k2": torch.autograd.grad(forward, logits, retain_graph=True)[0],
        "k3": torch.autograd.grad(backward, logits, retain_graph=True)[0],
    }
    for estimator in ESTIMATORS:
        samples = (POLICY * kl_penalty(logprobs, REFERENCE.log(), estimator)).sum()  # POLICY: drawn, not differentiated
        (gradient,) = torch.autograd.grad(samples, logits, retain_graph=True)
        torch.testing.assert_close(gradient, expected[estimator], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_the_penalty_pulls_towards_the_reference(estimator: KLEstimator) -> None:
    reference = float64([[-2.0, -0.5]])
    _, _, gradient = loss_of(
        [[1.0, 1.0]], [0.0], tensors={"ref_logprobs": reference}, kl_coeff=1.0, kl_estimator=estimator
    )
    assert gradient[0, 0] > 0 > gradient[0, 1]


def test_a_penalty_without_a_reference_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ref_logprobs: expected a tensor because kl_coeff is 0\.1, got None"):
        loss_of([[1.0]], [1.0], kl_coeff=0.1)


def test_without_a_coefficient_no_penalty_is_computed() -> None:
    nothing = {"ref_logprobs": float64([[math.nan]])}
    loss, sums, gradient = loss_of([[1.0]], [1.0], tensors=nothing, kl_coeff=0.0)
    assert (loss.item(), gradient.item(), sums["kl_sum"].item()) == (-1, -1, 0)


# ---- weights of a sampler that computes otherwise


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weights", [[[0.5, 2.0, 0.0], [1.0, 1.0, 1.0]], [[0.25], [3.0]]])
def test_weights_multiply_the_policy_term_but_not_the_penalty(name: LossName, weights: list[list[float]]) -> None:
    """The weighted gradient, token by token, from the unweighted one; for gspo each token moves the whole ratio."""
    ratios, advantages, mask = [[1.1, 0.9, 1.2], [1.0, 1.15, 1.0]], [1.0, -2.0], [[1, 1, 1], [1, 1, 0]]
    reference = {"ref_logprobs": float64([[-1.5, -0.5, -1.0], [-2.0, -1.0, -0.1]])}
    weight = float64(weights).expand(2, 3)
    options: dict[str, Any] = {"loss": name, "max_completion_tokens": 4}
    plain = loss_of(ratios, advantages, mask, **options)
    penalty = loss_of(ratios, [0.0, 0.0], mask, tensors=reference, kl_coeff=0.5, **options)
    both = loss_of(
        ratios, advantages, mask, tensors=reference | {"rollout_weights": float64(weights)}, kl_coeff=0.5, **options
    )
    policy_gradient = both[2] - penalty[2]
    if name == "gspo":
        valid = torch.tensor(mask)
        weight = ((weight * valid).sum(1, keepdim=True) / valid.sum(1, keepdim=True)).expand(2, 3)
    torch.testing.assert_close(policy_gradient, weight * plain[2], rtol=1e-12, atol=1e-15)
    assert both[1]["kl_sum"].item() == pytest.approx(penalty[1]["kl_sum"].item())
    if len(weights[0]) == 1:
        rows = [
            loss_of(ratios, [a if i == j else 0.0 for j, a in enumerate(advantages)], mask, **options)[0].item()
            for i in range(2)
        ]
        expected = sum(w[0] * row for w, row in zip(weights, rows, strict=True)) + penalty[0].item()
        assert both[0].item() == pytest.approx(expected)


RATIOS = [[2.0, 0.5, 4.0], [0.5, 0.5, 9.0], [9.0, 9.0, 9.0]]  # of the policy to its sampler
WEIGHTS_MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("correction", "cap", "expected"),
    [
        ("token_tis", 3.0, [[2.0, 0.5, 3.0], [0.5, 0.5, 1.0], [1.0, 1.0, 1.0]]),
        ("token_tis", 1.0, [[1.0, 0.5, 1.0], [0.5, 0.5, 1.0], [1.0, 1.0, 1.0]]),
        ("seq_mask", 5.0, [[4.0], [0.25], [1.0]]),
        ("seq_mask", 3.0, [[0.0], [0.25], [1.0]]),
    ],
)
@pytest.mark.parametrize("garbage", [-1.0, math.nan, math.inf, -math.inf])
def test_rollout_weights_by_hand(
    correction: RolloutCorrection, cap: float, expected: list[list[float]], garbage: float
) -> None:
    sampler = torch.full((3, 3), -1.0, dtype=torch.float64)
    old = (sampler + float64(RATIOS).log()).masked_fill(WEIGHTS_MASK == 0, garbage).requires_grad_()
    sampler = sampler.masked_fill(WEIGHTS_MASK == 0, garbage).requires_grad_()
    weights = rollout_weights(old, sampler, WEIGHTS_MASK, correction=correction, cap=cap)
    assert weights is not None
    assert not weights.requires_grad
    torch.testing.assert_close(weights, float64(expected), rtol=1e-12, atol=0)


def test_a_completion_at_the_cap_is_kept() -> None:
    zeros = torch.zeros(1, 2)
    weights = rollout_weights(zeros, zeros, torch.ones(1, 2), correction="seq_mask", cap=1.0)
    assert weights is not None
    assert weights.tolist() == [[1.0]]


def test_no_correction_weighs_nothing() -> None:
    assert rollout_weights(torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1, 1), correction="none", cap=2.0) is None


@pytest.mark.parametrize(
    ("correction", "cap", "message"),
    [
        ("tis", 2.0, r"correction: expected one of none, token_tis, seq_mask, got 'tis'"),
        ("token_tis", 0.0, r"cap: expected more than 0, got 0\.0"),
        ("seq_mask", -1.0, r"cap: expected more than 0, got -1\.0"),
        ("seq_mask", math.nan, r"cap: expected more than 0, got nan"),
    ],
)
def test_wrong_corrections_are_refused(correction: Any, cap: float, message: str) -> None:
    zeros = torch.zeros(1, 1)
    with pytest.raises(ValueError, match=message):
        rollout_weights(zeros, zeros, torch.ones(1, 1), correction=correction, cap=cap)
