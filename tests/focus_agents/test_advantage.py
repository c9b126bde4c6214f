"""Group advantages: groups that teach nothing, hand-computed values, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from focus_agents.grpo.advantage import AdvantageScale, group_advantages

SCALES: list[AdvantageScale] = ["group", "none"]
rewards_of_groups = arrays(
    np.float64, array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=8), elements=st.floats(-10, 10)
)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    "row",
    [
        [0.1] * 8,
        [0.1] * 3,  # the mean of these is not 0.1
        [1 / 3] * 7,
        [-0.7] * 10,
        [1e300] * 4,
        [5e-324] * 2,
        [0.0, -0.0],
        [0.0] * 5,
        [1.5] * 16,
    ],
)
def test_equal_rewards_get_exactly_zero(row: list[float], scale: AdvantageScale) -> None:
    other = [1.0, *[0.0] * (len(row) - 1)]
    advantages = group_advantages(np.array([row, other]), scale=scale)
    assert advantages[0].tolist() == [0.0] * len(row)
    assert advantages[1, 0] > 0 > advantages[1, 1]


def test_an_equal_group_whose_mean_is_rounded_is_in_the_table() -> None:
    assert np.array([0.1] * 3).mean() != 0.1


@pytest.mark.parametrize(
    ("row", "centred", "deviation"),
    [
        ([1e-6, 0.0], [5e-7, -5e-7], 1e-6 * math.sqrt(0.5)),  # so small that eps decides
        ([-1.0, -3.0], [1.0, -1.0], math.sqrt(2)),
        ([1.0, 0.0], [0.5, -0.5], math.sqrt(0.5)),
        ([2.0, 0.0, 1.0, 1.0], [1.0, -1.0, 0.0, 0.0], math.sqrt(2 / 3)),
        ([0.0, 1.0, 2.0, 3.0, 4.0], [-2.0, -1.0, 0.0, 1.0, 2.0], math.sqrt(10 / 4)),
    ],
)
def test_values_by_hand(row: list[float], centred: list[float], deviation: float) -> None:
    rewards = np.array([row])
    np.testing.assert_allclose(group_advantages(rewards, scale="none"), [centred], rtol=1e-12)
    np.testing.assert_allclose(group_advantages(rewards), np.array([centred]) / (deviation + 1e-4), rtol=1e-12)
    np.testing.assert_allclose(group_advantages(rewards, eps=1.0), np.array([centred]) / (deviation + 1), rtol=1e-12)


@given(rewards_of_groups)
def test_rows_sum_to_zero_keep_their_order_and_do_not_mix(rewards: np.ndarray[Any, Any]) -> None:
    for scale in SCALES:
        advantages = group_advantages(rewards, scale=scale)
        np.testing.assert_allclose(advantages.sum(axis=1), 0.0, atol=1e-9)
        for row, reward_row in zip(advantages, rewards, strict=True):
            order = np.argsort(reward_row, kind="stable")
            assert (np.diff(row[order]) >= 0).all()
            np.testing.assert_array_equal(group_advantages(reward_row[None], scale=scale)[0], row)


def test_the_rewards_are_left_as_they_were() -> None:
    rewards = np.array([[1.0, 0.0], [0.1, 0.1]])
    group_advantages(rewards)
    assert rewards.tolist() == [[1.0, 0.0], [0.1, 0.1]]


@pytest.mark.parametrize("shape", [(), (4,), (3, 1), (3, 0), (0,), (2, 2, 2)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"rewards: expected shape \[N, G\] with G >= 2, got \("):
        group_advantages(np.zeros(shape))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_rewards_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"expected finite values, got {value}; check the reward"):
        group_advantages(np.array([[0.0, 1.0], [0.5, value]]))
