"""Ranks in place of rewards, and groups that count more than others."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from focus_agents.grpo.advantage import difficulty_weights, group_advantages, group_ranks, size_weights
from focus_agents.grpo.selection import advantages_of
from focus_agents.grpo.settings import GRPOSettings
from focus_agents.rollout.records import Completion, Generation, GoldAnswer, RolloutGroup
from focus_env.metrics import ScoredAnswer
from focus_env.types import Box, ParseStatus


def rollout(ious: list[float], *, side: float | None = 10.0, gold: float | None = None) -> RolloutGroup:
    """Answers to an episode whose target is a square in a picture of 100 x 100; with None it is absent."""
    target = None if side is None else Box(0.0, 0.0, side, side)
    answers = tuple(
        ScoredAnswer(
            episode_id="e",
            status=ParseStatus.OK,
            is_strict=True,
            box=target,
            target_box=target,
            iou=iou,
            is_whole_image=False,
            is_support_copy=False,
            image_wh=(100, 100),
        )
        for iou in ious
    )
    completion = Completion("", np.arange(3), np.zeros(3, dtype=np.float32), is_finished=True)
    return RolloutGroup(
        0,
        Generation((completion,) * len(ious)),
        np.array(ious),
        (),
        answers,
        gold=None if gold is None else GoldAnswer(np.arange(3), gold),
    )


def settings_of(**options: Any) -> GRPOSettings:
    return GRPOSettings(**{"advantage_scale": "none", **options})


class TestRanks:
    @pytest.mark.parametrize(
        ("row", "ranks"),
        [
            ([0.2, 0.2, 0.2], [0.5, 0.5, 0.5]),
            ([-1e9, 1e9], [0.0, 1.0]),
            ([0.9, 0.1, 0.9], [0.75, 0.0, 0.75]),
            ([3.0, 1.0, 2.0, 0.0, 2.0], [1.0, 0.25, 0.625, 0.0, 0.625]),
        ],
    )
    def test_by_hand(self, row: list[float], ranks: list[float]) -> None:
        assert group_ranks(np.array([row])).tolist() == [ranks]

    def test_a_group_within_the_tolerance_is_one_tie(self) -> None:
        assert group_ranks(np.array([[0.5, 0.51], [0.5, 0.6]]), tolerance=0.05).tolist() == [[0.5, 0.5], [0.0, 1.0]]
        groups = [rollout([0.5, 0.51]), rollout([0.5, 0.6])]
        found = advantages_of(groups, settings_of(rank_rewards=True, signal_tolerance=0.05))
        assert found.tolist() == [[0.0, 0.0], [-0.5, 0.5]]

    def test_any_rising_function_of_the_rewards_has_the_same(self) -> None:
        rewards = np.random.default_rng(0).normal(size=(5, 8))
        np.testing.assert_array_equal(group_ranks(rewards), group_ranks(np.exp(3 * rewards)))

    def test_the_right_answer_has_a_rank_as_well(self) -> None:
        found = advantages_of([rollout([0.1, 0.8], gold=0.99)], settings_of(rank_rewards=True))
        assert found.tolist() == [[-0.5, 0.0, 0.5]]

    def test_what_is_not_finite_is_refused(self) -> None:
        with pytest.raises(ValueError, match="rewards: expected finite values, got nan"):
            group_ranks(np.array([[0.0, math.nan]]))


class TestDifficulty:
    def test_by_hand(self) -> None:
        np.testing.assert_allclose(difficulty_weights(np.array([1.0, 0.5, 0.0])), [1.0, math.sqrt(math.e), math.e])

    def test_it_is_that_of_the_sampled_answers(self) -> None:
        """Mean IoU 0.5 and 0; of the absent object, which two boxes miss, the credit is 0 whatever the IoU."""
        groups = [
            rollout([0.2, 0.8], gold=1.0),
            rollout([0.0, 0.0], gold=1.0),
            rollout([0.2, 0.8], gold=1.0, side=None),
        ]
        found = advantages_of(groups, settings_of(group_weights="difficulty"))
        plain = advantages_of(groups, settings_of())
        np.testing.assert_allclose(found, plain * np.exp([[0.5], [1.0], [1.0]]))


class TestSize:
    def test_by_hand(self) -> None:
        """Squares 4 and 0, 1 and 1, 9 and 1: mean 16 / 6 in all, and 2, 1 and 5 in the bins."""
        advantages = np.array([[2.0, 0.0], [1.0, -1.0], [-3.0, 1.0]])
        weights = size_weights(advantages, np.array([0.5, 0.01, 0.1]))
        np.testing.assert_allclose(weights, np.sqrt(16 / 6 / np.array([2.0, 1.0, 5.0])))

    def test_each_bin_pushes_equally(self) -> None:
        rng = np.random.default_rng(0)
        shares = rng.uniform(size=30)
        advantages = rng.normal(size=(30, 8)) * (0.1 + shares[:, None])
        weighted = advantages * size_weights(advantages, shares)[:, None]
        thirds = np.argsort(shares).reshape(3, 10)
        means = [float(np.square(weighted[third]).mean()) for third in thirds]
        np.testing.assert_allclose(means, np.square(advantages).mean())

    @pytest.mark.parametrize("share", [0.2, math.nan])
    def test_objects_of_one_size_or_all_absent_change_nothing(self, share: float) -> None:
        advantages = np.array([[2.0, 0.0], [1.0, -1.0]])
        np.testing.assert_allclose(size_weights(advantages, np.full(2, share)), [1.0, 1.0])

    def test_a_bin_without_a_signal_stays_silent(self) -> None:
        weights = size_weights(np.array([[0.0, 0.0], [1.0, -1.0], [0.0, 0.0]]), np.array([0.1, 0.2, math.nan]))
        assert np.isfinite(weights).all()
        assert weights[[0, 2]].tolist() == [1.0, 1.0]

    def test_sizes_are_those_of_the_targets(self) -> None:
        groups = [rollout([0.0, 0.4], side=20), rollout([0.0, 0.2], side=5), rollout([0.0, 1.0], side=None)]
        found, plain = (advantages_of(groups, settings_of(group_weights=name)) for name in ("size", "equal"))
        np.testing.assert_allclose(found, plain * size_weights(plain, np.array([0.04, 0.0025, math.nan]))[:, None])
        assert np.abs(found[:, 0]).tolist() == pytest.approx([np.sqrt(np.square(plain).mean())] * 3)


def test_by_default_advantages_are_as_before() -> None:
    groups = [rollout([0.0, 0.3, 0.9]), rollout([0.5, 0.5, 0.5])]
    expected = group_advantages(np.array([[0.0, 0.3, 0.9], [0.5, 0.5, 0.5]]))
    np.testing.assert_array_equal(advantages_of(groups, GRPOSettings()), expected)
