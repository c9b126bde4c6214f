"""Group advantages: groups that teach nothing, hand-computed values, and what is refused."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from focus_agents.grpo.advantage import AdvantageScale, group_advantages, has_signal

SCALES: list[AdvantageScale] = list(get_args(AdvantageScale))
rewards_of_groups = arrays(
    np.float64, array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=8), elements=st.floats(-10, 10)
)


@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    "row",
    [
        [0.1] * 8,
        [0.1] * 3,  # the mean of these is not 0.1
        [1 / 3] * 7,
        [-0.7] * 10,
        [1e150] * 4,
        [5e-324] * 2,
        [0.0, -0.0],
        [0.0] * 5,
        [1.5] * 16,
    ],
)
def test_equal_rewards_get_exactly_zero(row: list[float], scale: AdvantageScale, leave_one_out: bool) -> None:
    other = [1.0, *[0.0] * (len(row) - 1)]
    advantages = group_advantages(np.array([row, other]), scale=scale, leave_one_out=leave_one_out)
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


def test_the_batch_scale_divides_all_groups_by_the_deviation_of_all_rewards() -> None:
    """Rewards 0, 1, 1, 4 with mean 1.5: squares 2.25 + 0.25 + 0.25 + 6.25 = 9 over 3. An equal group counts as well."""
    rewards = np.array([[0.0, 1.0], [1.0, 4.0]])
    expected = np.array([[-0.5, 0.5], [-1.5, 1.5]]) / (math.sqrt(3) + 1e-4)
    np.testing.assert_allclose(group_advantages(rewards, scale="batch"), expected, rtol=1e-12)
    # 0, 1, 1, 1 with mean 0.75: 0.5625 + 3 x 0.0625 = 0.75 over 3
    rewards = np.array([[0.0, 1.0], [1.0, 1.0]])
    expected = np.array([[-0.5, 0.5], [0.0, 0.0]]) / (0.5 + 1e-4)
    np.testing.assert_allclose(group_advantages(rewards, scale="batch"), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("row", "differences"),
    [
        ([1.0, 0.0], [1.0, -1.0]),
        ([2.0, 0.0, 1.0], [1.5, -1.5, 0.0]),
        ([3.0, 0.0, 0.0, 0.0], [3.0, -1.0, -1.0, -1.0]),
    ],
)
def test_leave_one_out_compares_with_the_mean_of_the_others(row: list[float], differences: list[float]) -> None:
    rewards = np.array([row])
    by_hand = group_advantages(rewards, scale="none", leave_one_out=True)
    np.testing.assert_allclose(by_hand, [differences], rtol=1e-12)
    deviation = np.std(row, ddof=1) + 1e-4  # of the rewards, not of the differences
    for scale in ("group", "batch"):
        scaled = group_advantages(rewards, scale=scale, leave_one_out=True)
        np.testing.assert_allclose(scaled, np.array([differences]) / deviation, rtol=1e-12)


@pytest.mark.parametrize(
    ("row", "tolerance", "expected"),
    [
        ([0.0, 0.5, 0.25], 0.0, True),
        ([0.0, 0.5, 0.25], 0.25, True),
        ([0.0, 0.5, 0.25], 0.5, False),  # the range itself is within the tolerance
        ([-1.0, -0.5], 0.5, False),
        ([0.1, 0.1, 0.1], 0.0, False),
        ([0.0, 1e-12], 0.0, True),
    ],
)
@pytest.mark.parametrize("scale", SCALES)
def test_groups_within_the_tolerance_teach_nothing(
    row: list[float], tolerance: float, expected: bool, scale: AdvantageScale
) -> None:
    rewards = np.array([row, [9.0, *[0.0] * (len(row) - 1)]])
    signal = has_signal(rewards, tolerance=tolerance)
    assert signal.dtype == np.bool_
    assert signal.tolist() == [expected, True]
    advantages = group_advantages(rewards, scale=scale, tolerance=tolerance)
    assert (advantages != 0).any(axis=1).tolist() == [expected, True]
    np.testing.assert_array_equal(advantages[1], group_advantages(rewards, scale=scale)[1])


@given(rewards_of_groups, st.booleans())
def test_rows_sum_to_zero_keep_their_order_and_do_not_mix(rewards: np.ndarray[Any, Any], leave_one_out: bool) -> None:
    for scale in SCALES:
        advantages = group_advantages(rewards, scale=scale, leave_one_out=leave_one_out)
        np.testing.assert_allclose(advantages.sum(axis=1), 0.0, atol=1e-9)
        for row, reward_row in zip(advantages, rewards, strict=True):
            order = np.argsort(reward_row, kind="stable")
            assert (np.diff(row[order]) >= 0).all()
            if scale != "batch":
                alone = group_advantages(reward_row[None], scale=scale, leave_one_out=leave_one_out)
                np.testing.assert_array_equal(alone[0], row)


def test_the_rewards_are_left_as_they_were() -> None:
    rewards = np.array([[1.0, 0.0], [0.1, 0.1]])
    for scale in SCALES:
        group_advantages(rewards, scale=scale, leave_one_out=True, tolerance=0.5)
    assert rewards.tolist() == [[1.0, 0.0], [0.1, 0.1]]


@pytest.mark.parametrize("function", [group_advantages, has_signal])
@pytest.mark.parametrize("shape", [(), (4,), (3, 1), (3, 0), (0,), (2, 2, 2)])
def test_other_shapes_are_refused(shape: tuple[int, ...], function: Any) -> None:
    with pytest.raises(ValueError, match=r"rewards: expected shape \[N, G\] with G >= 2, got \("):
        function(np.zeros(shape))


@pytest.mark.parametrize("function", [group_advantages, has_signal])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_rewards_that_are_not_finite_are_refused(value: float, function: Any) -> None:
    with pytest.raises(ValueError, match=f"expected finite values, got {value}; check the reward"):
        function(np.array([[0.0, 1.0], [0.5, value]]))


@pytest.mark.parametrize("function", [group_advantages, has_signal])
@pytest.mark.parametrize("tolerance", [-1e-9, math.nan])
def test_a_negative_tolerance_is_refused(tolerance: float, function: Any) -> None:
    with pytest.raises(ValueError, match=f"tolerance: expected 0 or more, got {tolerance}"):
        function(np.array([[0.0, 1.0]]), tolerance=tolerance)


@pytest.mark.parametrize("scale", ["std", "Group", None, True])
def test_unknown_scales_are_refused(scale: Any) -> None:
    with pytest.raises(ValueError, match=f"scale: expected one of group, batch, none, got {scale!r}"):
        group_advantages(np.array([[0.0, 1.0]]), scale=scale)
