"""The GRPO loss: each branch by hand, what padding must not do, and how parts add up."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from focus_agents.grpo.loss import grpo_loss, k3_kl

CLIP: dict[str, Any] = {"clip_low": 0.2, "clip_high": 0.3}


def loss_of(
    ratios: list[list[float]], advantages: list[float], mask: list[list[int]] | None = None, **options: Any
) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    """The loss of given probability ratios, its sums, and its gradient in the log-probabilities."""
    old = torch.linspace(-3, -1, len(ratios) * len(ratios[0]), dtype=torch.float64).reshape(len(ratios), -1)
    logprobs = (old + torch.tensor(ratios, dtype=torch.float64).log()).requires_grad_()
    loss_mask = torch.ones_like(old) if mask is None else torch.tensor(mask)
    count = {"num_valid_tokens": float(loss_mask.sum())} | CLIP | options
    loss, sums = grpo_loss(logprobs, old, torch.tensor(advantages, dtype=torch.float64), loss_mask, **count)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    return loss.detach(), sums, gradient


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "is_clipped"),
    [
        # A < 0: the ratio is bounded from below, and a rise must cost without bound
        (10.0, -2.0, 20.0, 20.0, False),
        (1.0, -2.0, 2.0, 2.0, False),
        (0.5, -2.0, 1.6, 0.0, True),
        # A > 0: bounded from above, and a fall must cost down to nothing
        (10.0, 2.0, -2.6, 0.0, True),
        (1.0, 2.0, -2.0, -2.0, False),
        (0.5, 2.0, -1.0, -1.0, False),
        (1.25, 2.0, -2.5, -2.5, False),  # inside clip_high, outside clip_low
        (10.0, 0.0, 0.0, 0.0, False),
        (0.5, 0.0, 0.0, 0.0, False),
    ],
)
def test_clip_branches_by_hand(ratio: float, advantage: float, loss: float, gradient: float, is_clipped: bool) -> None:
    value, sums, slope = loss_of([[ratio]], [advantage])
    assert value.item() == pytest.approx(loss, abs=1e-12)
    assert slope.item() == pytest.approx(gradient, abs=1e-12)
    assert sums["clipped_tokens"].item() == is_clipped
    assert sums["ratio_sum"].item() == pytest.approx(ratio)
    assert sums["num_tokens"].item() == 1
    assert sums["kl_sum"].item() == 0


def test_a_step_down_the_gradient_makes_good_answers_likelier_and_bad_ones_less() -> None:
    _, _, gradient = loss_of([[1.0, 1.0], [1.0, 1.0]], [1.0, -1.0])
    assert (gradient[0] < 0).all()
    assert (gradient[1] > 0).all()


def test_on_policy_the_gradient_is_that_of_minus_advantage_times_logprob() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 4, 7, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]])
    advantages = torch.tensor([0.7, -1.2, 0.5], dtype=torch.float64)
    logprobs = logits.log_softmax(-1)[..., 2]
    loss, _ = grpo_loss(logprobs, logprobs.detach(), advantages, mask, num_valid_tokens=7, **CLIP)
    plain = -(advantages[:, None] * logprobs * mask).sum() / 7
    (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (expected,) = torch.autograd.grad(plain, logits)
    torch.testing.assert_close(gradient, expected)
    assert loss.item() == pytest.approx(-(0.7 * 4 - 1.2 * 1 + 0.5 * 2) / 7)


def test_tokens_weigh_the_same_whatever_the_length_of_their_completion() -> None:
    mask = [[1, 1, 1, 1], [1, 0, 0, 0]]
    loss, _, gradient = loss_of([[1.0] * 4, [1.0] * 4], [1.0, -1.0], mask)
    assert loss.item() == pytest.approx(-(4 - 1) / 5)
    assert gradient[0].tolist() == pytest.approx([-1 / 5] * 4)
    assert gradient[1].tolist() == pytest.approx([1 / 5, 0, 0, 0])


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e30, 0.0])
@pytest.mark.parametrize("where", ["logprobs", "old_logprobs", "ref_logprobs", "all"])
@pytest.mark.parametrize("kl_coeff", [0.0, 0.4])
def test_what_stands_in_padding_does_not_matter(where: str, garbage: float, kl_coeff: float) -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    clean = {
        "logprobs": torch.tensor([[-1.0, -2.0, -0.3], [-0.5, -0.2, -0.1]]),
        "old_logprobs": torch.tensor([[-1.1, -1.0, -0.3], [-0.4, -0.2, -0.1]]),
        "ref_logprobs": torch.tensor([[-1.5, -2.5, -0.3], [-0.9, -0.2, -0.1]]),
    }
    dirty = {k: v.masked_fill(~mask, garbage) if where in (k, "all") else v for k, v in clean.items()}
    results = []
    for tensors in (clean, dirty):
        logprobs = tensors["logprobs"].clone().requires_grad_()
        loss, sums = grpo_loss(
            logprobs,
            tensors["old_logprobs"],
            torch.tensor([1.0, -0.5]),
            mask,
            num_valid_tokens=3,
            kl_coeff=kl_coeff,
            ref_logprobs=tensors["ref_logprobs"],
            **CLIP,
        )
        (gradient,) = torch.autograd.grad(loss, logprobs)
        results.append((loss.detach(), gradient, sums))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
    assert results[0][1][~mask].tolist() == [0.0] * 3


@pytest.mark.parametrize("kl_coeff", [0.0, 0.3])
@pytest.mark.parametrize("parts", [[1, 1, 1, 1], [3, 1], [2, 2], [4]])
def test_micro_batches_sum_to_the_whole(parts: list[int], kl_coeff: float) -> None:
    torch.manual_seed(1)
    logprobs = (-torch.rand(4, 5, dtype=torch.float64)).requires_grad_()
    old, ref = -torch.rand(2, 4, 5, dtype=torch.float64)
    advantages = torch.tensor([1.0, -1.0, 2.0, -0.3], dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor([[5], [1], [3], [2]])
    options: dict[str, Any] = {"num_valid_tokens": float(mask.sum()), "kl_coeff": kl_coeff, **CLIP}
    whole, sums = grpo_loss(logprobs, old, advantages, mask, ref_logprobs=ref, **options)
    rows = torch.split(torch.arange(4), parts)
    pieces = [grpo_loss(logprobs[r], old[r], advantages[r], mask[r], ref_logprobs=ref[r], **options) for r in rows]
    total = torch.stack([loss for loss, _ in pieces]).sum()
    torch.testing.assert_close(total, whole)
    gradients = [torch.autograd.grad(loss, logprobs, retain_graph=True)[0] for loss in (whole, total)]
    torch.testing.assert_close(*gradients)
    for name, value in sums.items():
        torch.testing.assert_close(torch.stack([s[name] for _, s in pieces]).sum(), value)


@pytest.mark.parametrize(
    ("logprob", "ref_logprob", "expected"),
    [
        (-1.0, -1.0, 0.0),
        (-1.0, -1.0 + math.log(2), 2 - math.log(2) - 1),
        (-1.0, -1.0 - math.log(2), 0.5 + math.log(2) - 1),
        (-0.5, -3.0, math.exp(-2.5) + 2.5 - 1),
    ],
)
def test_k3_by_hand(logprob: float, ref_logprob: float, expected: float) -> None:
    values = torch.tensor([[logprob], [ref_logprob]], dtype=torch.float64)
    assert k3_kl(values[0], values[1]).item() == pytest.approx(expected, abs=1e-12)
    loss, sums = grpo_loss(
        values[:1],
        values[:1],
        torch.zeros(1),
        torch.ones(1, 1),
        num_valid_tokens=1,
        kl_coeff=0.5,
        ref_logprobs=values[1:],
        **CLIP,
    )
    assert sums["kl_sum"].item() == pytest.approx(expected, abs=1e-12)
    assert loss.item() == pytest.approx(0.5 * expected, abs=1e-12)


def test_k3_is_an_unbiased_estimate_of_the_kl_divergence() -> None:
    policy = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)
    reference = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
    exact = (policy * (policy / reference).log()).sum()
    torch.testing.assert_close((policy * k3_kl(policy.log(), reference.log())).sum(), exact)


def test_the_penalty_pulls_towards_the_reference() -> None:
    logprobs = torch.tensor([[-1.0, -3.0]], requires_grad=True)
    reference = torch.tensor([[-2.0, -2.0]])
    loss, _ = grpo_loss(
        logprobs,
        logprobs.detach(),
        torch.zeros(1),
        torch.ones(1, 2),
        num_valid_tokens=2,
        kl_coeff=1.0,
        ref_logprobs=reference,
        **CLIP,
    )
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert gradient[0, 0] > 0 > gradient[0, 1]


def test_a_penalty_without_a_reference_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ref_logprobs: expected a tensor because kl_coeff is 0\.1, got None"):
        loss_of([[1.0]], [1.0], kl_coeff=0.1)


def test_the_sums_carry_no_gradient() -> None:
    logprobs = torch.zeros(1, 2, requires_grad=True)
    _, sums = grpo_loss(logprobs, torch.zeros(1, 2), torch.ones(1), torch.ones(1, 2), num_valid_tokens=2, **CLIP)
    assert not any(value.requires_grad for value in sums.values())
