"""Rewards that say nothing of how good an answer is."""

from __future__ import annotations

import re

import numpy as np
import pytest

from focus_env.rewards.answers import AnswerBatch
from focus_env.rewards.controls import RandomReward, area_reward
from focus_env.rewards.weighted import WeightedReward
from focus_env.types import Box, ParseResult, ParseStatus
from tests.fakes import make_episode
from tests.focus_env.rewards.batches import HALF, TARGET, WH, batch, boxed


def test_the_area_by_hand() -> None:
    """In a picture of 80 x 60; where the object is does not matter, nor whether it is there."""
    boxes = (TARGET, HALF, Box(0, 0, *WH), Box(0, 0, 8, 6))
    for target in (TARGET, None):
        assert area_reward(boxed(*boxes, target=target)).tolist() == pytest.approx([0.25, 0.125, 1.0, 0.01])
    assert area_reward(batch("?", "<answer>none</answer>")).tolist() == [0.0, 0.0]


PINNED = 0.02021984682681055
TEXTS = [f"<answer>[{n}, {n}, 900, 950]</answer>" for n in range(800)]


class TestRandom:
    def test_it_is_the_same_wherever_it_is_asked(self) -> None:
        """A figure that another process, machine or release must give again."""
        assert RandomReward(0)(batch(TEXTS[3])).tolist() == [PINNED]
        assert RandomReward(0)(batch(TEXTS[5], TEXTS[3], TEXTS[3])).tolist()[1:] == [PINNED, PINNED]

    def test_seed_episode_and_answer_decide(self) -> None:
        parses = [ParseResult(ParseStatus.OK, TARGET, True)] * 2
        episodes = [make_episode(0), make_episode(1)]
        one, other = RandomReward(0)(AnswerBatch.from_parses(episodes, parses, TEXTS[:1] * 2)).tolist()
        assert one != other
        assert RandomReward(1)(batch(TEXTS[0])) != RandomReward(0)(batch(TEXTS[0]))
        actions = RandomReward(0)(boxed(TARGET, HALF, TARGET)).tolist()
        assert actions[0] == actions[2] != actions[1]

    def test_it_is_even_and_tells_nothing_of_the_answer(self) -> None:
        values = np.stack([RandomReward(seed)(batch(*TEXTS)) for seed in range(4)])
        assert ((values >= 0) & (values < 1)).all()
        assert np.abs(values.mean(1) - 0.5).max() < 0.05
        assert np.abs(np.histogram(values, 10, (0, 1))[0] - 320).max() < 80
        correlations = np.corrcoef([*values, values[0, ::-1], np.arange(800)])
        assert np.abs(correlations - np.eye(6)).max() < 0.15
        neighbours = np.corrcoef(values[0, 1:], values[0, :-1])[0, 1]
        assert abs(neighbours) < 0.15

    def test_any_text_has_one(self) -> None:
        assert np.isfinite(RandomReward(0)(batch("", "\x00\ud800", "é" * 1000))).all()

    @pytest.mark.parametrize("seed", [-1, 0.5, 2**32, float("nan"), float("inf")])
    def test_a_seed_that_is_none(self, seed: float) -> None:
        with pytest.raises(ValueError, match="random: expected a whole number from 0 to 4294967295"):
            RandomReward(seed)

    def test_by_name(self) -> None:
        assert WeightedReward.from_spec("random(12)").spec == "random(12):1"
        with pytest.raises(ValueError, match=re.escape("'random' needs numbers: random(seed)")):
            WeightedReward.from_spec("random")
