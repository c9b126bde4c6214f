"""The losses: each branch by hand in value and gradient, and how parts add up.

`test_trl_parity.py` compares the same functions with another implementation.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Any

import pytest
import torch

from focus_agents.grpo.loss import StepTotals, policy_loss
from focus_agents.grpo.settings import LossName
from tests.focus_agents.grpo.losses import CLIPPED, LOSSES, Result, float64, loss_of, settings_of, totals_of

# ---- tokens


@pytest.mark.parametrize("name", CLIPPED)
@pytest.mark.parametrize(
    ("ratio", "advantage", "delta", "loss", "gradient", "is_clipped"),
    [
        # A < 0: the ratio is bounded from below, and a rise must cost without bound
        (10.0, -2.0, None, 20.0, 20.0, False),
        (1.0, -2.0, None, 2.0, 2.0, False),
        (0.5, -2.0, None, 1.6, 0.0, True),
        # unless there is a delta
        (10.0, -2.0, 3.0, 6.0, 0.0, True),
        (2.5, -2.0, 3.0, 5.0, 5.0, False),
        (0.5, -2.0, 3.0, 1.6, 0.0, True),
        # A > 0: bounded from above, and a fall must cost down to nothing
        (10.0, 2.0, None, -2.6, 0.0, True),
        (1.0, 2.0, None, -2.0, -2.0, False),
        (0.5, 2.0, None, -1.0, -1.0, False),
        (1.25, 2.0, None, -2.5, -2.5, False),  # inside clip_high, outside clip_low
        (10.0, 2.0, 3.0, -2.6, 0.0, True),
        (1.25, 2.0, 3.0, -2.5, -2.5, False),
        (10.0, 0.0, None, 0.0, 0.0, False),
        (0.5, 0.0, 3.0, 0.0, 0.0, False),
    ],
)
def test_clip_branches_by_hand(
    name: LossName,
    ratio: float,
    advantage: float,
    delta: float | None,
    loss: float,
    gradient: float,
    is_clipped: bool,
) -> None:
    value, sums, slope = loss_of([[ratio]], [advantage], loss=name, delta=delta)
    assert value.item() == pytest.approx(loss, abs=1e-12)
    assert slope.item() == pytest.approx(gradient, abs=1e-12)
    assert sums["clipped_tokens"].item() == is_clipped
    assert sums["clipped_low"].item() == (is_clipped and ratio < 1)
    assert sums["ratio_sum"].item() == pytest.approx(ratio)
    assert sums["num_tokens"].item() == 1
    assert sums["kl_sum"].item() == 0


@pytest.mark.parametrize(
    ("ratios", "advantage", "loss", "gradient", "num_clipped"),
    [
        # The geometric mean is 1, so nothing is clipped although each token alone would be
        ([2.0, 0.5], 2.0, -2.0, -1.0, 0),
        ([2.0, 0.5], -2.0, 2.0, 1.0, 0),
        # sqrt(2 x 0.72) = 1.2
        ([2.0, 0.72], 2.0, -2.4, -1.2, 0),
        ([2.0, 0.72], -2.0, 2.4, 1.2, 0),
        # sqrt(4 x 1) = 2 and sqrt(0.25 x 1) = 0.5: clipped with the tokens whose own ratio is 1
        ([4.0, 1.0], 2.0, -2.6, 0.0, 2),
        ([0.25, 1.0], -2.0, 1.6, 0.0, 2),
        ([4.0, 1.0], -2.0, 4.0, 2.0, 0),
    ],
)
def test_gspo_clips_a_completion_by_its_mean_ratio(
    ratios: list[float], advantage: float, loss: float, gradient: float, num_clipped: int
) -> None:
    # A padded token with a ratio of its own, and a second completion that must not matter to the first
    value, sums, slope = loss_of([[*ratios, 9.0], [1.0] * 3], [advantage, 0.0], [[1, 1, 0], [1, 1, 1]], loss="gspo")
    assert value.item() == pytest.approx(loss / 2, abs=1e-12)
    assert slope[0].tolist() == pytest.approx([gradient / 2, gradient / 2, 0.0], abs=1e-12)
    assert slope[1].tolist() == [0.0] * 3
    assert sums["clipped_tokens"].item() == num_clipped
    assert sums["clipped_low"].item() == num_clipped * (ratios[0] < 1)
    assert sums["ratio_sum"].item() == pytest.approx(2 * math.sqrt(ratios[0] * ratios[1]) + 3)


@pytest.mark.parametrize("clip_low", [0.2, 0.9])
@pytest.mark.parametrize(
    ("ratio", "advantage", "weight", "is_clipped"),
    [
        (1.0, 2.0, 1.0, False),
        (1.25, 2.0, 1.25, False),
        (10.0, 2.0, 1.3, True),
        (0.1, 2.0, 0.1, False),
        (1.25, -2.0, 1.25, False),
        (10.0, -2.0, 1.3, True),
        (0.1, -2.0, 0.1, False),  # no lower bound
    ],
)
def test_cispo_caps_a_weight_and_never_takes_the_gradient_away(
    ratio: float, advantage: float, weight: float, is_clipped: bool, clip_low: float
) -> None:
    value, sums, slope = loss_of([[ratio]], [advantage], loss="cispo", clip_low=clip_low)
    assert value.item() == pytest.approx(weight * advantage, abs=1e-12)  # the log-probability is -1
    assert slope.item() == pytest.approx(-weight * advantage, abs=1e-12)
    assert sums["clipped_tokens"].item() == is_clipped
    assert sums["ratio_sum"].item() == pytest.approx(ratio)


@pytest.mark.parametrize(("advantage", "tau"), [(2.0, 1.0), (-2.0, 1.05), (0.0, 1.05)])
@pytest.mark.parametrize(
    ("gate", "log_odds"), [(0.5, 0.0), (0.75, math.log(3)), (0.9, math.log(9)), (0.3, math.log(3 / 7))]
)
def test_sapo_by_hand(gate: float, log_odds: float, advantage: float, tau: float) -> None:
    """The ratio is chosen so that the sigmoid is `gate`, whose slope is gate (1 - gate)."""
    ratio = 1 + log_odds / tau
    value, sums, slope = loss_of([[ratio]], [advantage], loss="sapo")
    assert value.item() == pytest.approx(-4 / tau * gate * advantage, abs=1e-12)
    assert slope.item() == pytest.approx(-4 * gate * (1 - gate) * ratio * advantage, abs=1e-12)
    assert sums["clipped_tokens"].item() == 0
    assert sums["ratio_sum"].item() == pytest.approx(ratio)


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_down_the_gradient_makes_good_answers_likelier_and_bad_ones_less(name: LossName) -> None:
    _, _, gradient = loss_of([[1.0, 1.0], [1.0, 1.0]], [1.0, -1.0], loss=name)
    assert (gradient[0] < 0).all()
    assert (gradient[1] > 0).all()


def test_on_policy_the_gradient_is_that_of_minus_advantage_times_logprob() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 4, 7, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]])
    advantages = float64([0.7, -1.2, 0.5])
    logprobs = logits.log_softmax(-1)[..., 2]
    loss, _ = policy_loss(logprobs, logprobs.detach(), advantages, mask, settings=settings_of(), totals=totals_of(mask))
    plain = -(advantages[:, None] * logprobs * mask).sum() / 7
    (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (expected,) = torch.autograd.grad(plain, logits)
    torch.testing.assert_close(gradient, expected)
    assert loss.item() == pytest.approx(-(0.7 * 4 - 1.2 * 1 + 0.5 * 2) / 7)


# ---- from tokens to a scalar


@pytest.mark.parametrize(
    ("name", "long", "short"),  # what one token of the completion weighs
    [
        ("dapo", 1 / 5, 1 / 5),
        ("cispo", 1 / 5, 1 / 5),
        ("bnpo", 1 / 5, 1 / 5),
        ("grpo", 1 / 12, 1 / 3),
        ("sapo", 1 / 12, 1 / 3),
        ("gspo", 1 / 12, 1 / 3),
        ("dr_grpo", 1 / 30, 1 / 30),
    ],
)
def test_what_a_token_weighs(name: LossName, long: float, short: float) -> None:
    """On policy, where the gradient is -A for all losses; the third completion has no token but counts."""
    mask = [[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]]
    loss, sums, gradient = loss_of([[1.0] * 4] * 3, [1.0, -2.0, 5.0], mask, loss=name, max_completion_tokens=10)
    assert gradient.tolist() == [pytest.approx(row) for row in ([-long] * 4, [2 * short, 0, 0, 0], [0.0] * 4)]
    # A token's loss: -A for the clipped losses, A for cispo whose log-probability is -1, -2 A / tau for sapo
    up, down = {"cispo": (-1, -1), "sapo": (2, 2 / 1.05)}.get(name, (1, 1))
    assert loss.item() == pytest.approx(-up * 4 * long + 2 * down * short)
    assert sums["num_tokens"].item() == 5
    assert sums["ratio_sum"].item() == 5


def whole_and_parts(
    name: LossName, parts: list[int], kl_coeff: float, weight_shape: str
) -> tuple[Result, list[Result]]:
    """The loss of five completions at once, and in micro-batches of the given sizes."""
    torch.manual_seed(1)
    logprobs = (-torch.rand(5, 6, dtype=torch.float64)).requires_grad_()
    old, ref = -torch.rand(2, 5, 6, dtype=torch.float64)
    advantages = float64([1.0, -1.0, 2.0, -0.3, 0.0])
    mask = torch.arange(6) < torch.tensor([[6], [1], [3], [0], [2]])
    weights = {"none": None, "tokens": torch.rand(5, 6).double(), "completions": torch.rand(5, 1).double()}[
        weight_shape
    ]
    settings = settings_of(loss=name, kl_coeff=kl_coeff, max_completion_tokens=6)

    def part(rows: torch.Tensor, totals: StepTotals) -> Result:
        loss, sums = policy_loss(
            logprobs[rows],
            old[rows],
            advantages[rows],
            mask[rows],
            settings=settings,
            totals=totals,
            ref_logprobs=ref[rows],
            rollout_weights=None if weights is None else weights[rows],
        )
        return loss.detach(), sums, torch.autograd.grad(loss, logprobs)[0]

    rows = torch.split(torch.arange(5), parts)
    totals = totals_of(mask, len(parts))
    return part(torch.arange(5), dataclasses.replace(totals, num_micro_batches=1)), [part(r, totals) for r in rows]


@pytest.mark.parametrize("weight_shape", ["none", "tokens", "completions"])
@pytest.mark.parametrize("kl_coeff", [0.0, 0.3])
@pytest.mark.parametrize("parts", [[1, 1, 1, 1, 1], [3, 2], [1, 4], [2, 1, 2], [5]])
@pytest.mark.parametrize("name", [name for name in LOSSES if name != "bnpo"])
def test_micro_batches_sum_to_the_whole(name: LossName, parts: list[int], kl_coeff: float, weight_shape: str) -> None:
    (loss, sums, gradient), pieces = whole_and_parts(name, parts, kl_coeff, weight_shape)
    torch.testing.assert_close(sum(p[0] for p in pieces), loss, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(sum(p[2] for p in pieces), gradient, rtol=1e-13, atol=1e-15)
    for key, value in sums.items():
        torch.testing.assert_close(sum(p[1][key] for p in pieces), value)


def test_bnpo_averages_the_means_of_its_micro_batches() -> None:
    """Three completions with 3, 1 and 1 tokens, of losses -1, 2 and -4 each."""
    ratios, advantages = torch.ones(3, 3), float64([1.0, -2.0, 4.0])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 0, 0]])
    zeros = ratios.log().double()

    def step(*parts: list[int]) -> float:
        totals = totals_of(mask, len(parts))
        settings = settings_of(loss="bnpo")
        return sum(
            policy_loss(zeros[p], zeros[p], advantages[p], mask[p], settings=settings, totals=totals)[0].item()
            for p in parts
        )

    assert step([0, 1, 2]) == pytest.approx((-3 + 2 - 4) / 5)
    assert step([0, 1], [2]) == pytest.approx(((-3 + 2) / 4 - 4) / 2)
    assert step([0], [1, 2]) == pytest.approx((-1 + (2 - 4) / 2) / 2)


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_without_tokens_is_zero(name: LossName) -> None:
    loss, sums, gradient = loss_of([[1.0, 2.0]], [1.0], [[0, 0]], loss=name)
    assert loss.item() == 0
    assert gradient.tolist() == [[0.0, 0.0]]
    assert {key: value.item() for key, value in sums.items()} == dict.fromkeys(sums, 0)


# ---- settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "ppo"}, r"loss: expected one of grpo, dapo, dr_grpo, bnpo, gspo, cispo, sapo, got 'ppo'"),
        ({"clip_low": 0.0}, r"clip_low: expected more than 0 and at most 1, got 0\.0"),
        ({"clip_low": 1.1}, r"clip_low: expected more than 0 and at most 1, got 1\.1"),
        ({"clip_low": math.nan}, r"clip_low: expected more than 0 and at most 1, got nan"),
        ({"clip_high": 0.0}, r"clip_high: expected more than 0, got 0\.0"),
        ({"clip_high": math.nan}, r"clip_high: expected more than 0, got nan"),
        ({"delta": 1.3}, r"delta: expected None or more than 1 \+ clip_high = 1\.3, got 1\.3"),
        ({"delta": math.nan}, r"delta: expected None or more than 1 \+ clip_high = 1\.3, got nan"),
        ({"delta": 3.0, "loss": "cispo"}, r"delta: expected None because cispo bounds no ratio there, got 3\.0"),
        ({"delta": 3.0, "loss": "sapo"}, r"delta: expected None because sapo bounds no ratio there, got 3\.0"),
        ({"kl_estimator": "k4"}, r"kl_estimator: expected one of k1, k2, k3, got 'k4'"),
        ({"kl_coeff": -0.1}, r"kl_coeff: expected 0 or more, got -0\.1"),
        ({"kl_coeff": math.inf}, r"kl_coeff: expected 0 or more, and finite, got inf"),
        ({"kl_coeff": math.nan}, r"kl_coeff: expected 0 or more, got nan"),
        ({"max_completion_tokens": 0}, r"max_completion_tokens: expected 1 or more, got 0"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        settings_of(**options)


@pytest.mark.parametrize("name", LOSSES)
def test_settings_at_the_edge_are_accepted_and_travel(name: LossName) -> None:
    settings = settings_of(loss=name, clip_low=1.0, delta=1.31 if name in CLIPPED else None)
    assert pickle.loads(pickle.dumps(settings)) == settings
