"""Spaces of completions and pictures, as Gymnasium uses them."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence

from focus_env import CompletionSpace, ImageSpace
from focus_env.spaces import box_action_space, observation_space


@pytest.mark.parametrize("space", [CompletionSpace(), ImageSpace(), observation_space(), box_action_space()], ids=repr)
class TestSpaces:
    """What every space must do."""

    def test_holds_its_samples(self, space: spaces.Space[Any]) -> None:
        space.seed(0)
        assert all(space.sample() in space for _ in range(20))

    def test_a_seed_fixes_the_samples(self, space: spaces.Space[Any]) -> None:
        def draw(seed: int) -> list[Any]:
            space.seed(seed)
            return [space.sample() for _ in range(3)]

        assert data_equivalence(draw(1), draw(1), exact=True)
        assert not data_equivalence(draw(1), draw(2), exact=True)

    def test_travels_and_equals_its_copy(self, space: spaces.Space[Any]) -> None:
        clone = pickle.loads(pickle.dumps(space))
        assert clone == space == copy.deepcopy(space)
        assert repr(clone) == repr(space)
        assert space != spaces.Discrete(2)


@pytest.mark.parametrize(
    ("value", "is_member"),
    [("", True), ("é\x00\ud800", True), ("a" * 8, True), ("a" * 9, False), (b"a", False), (None, False)],
)
def test_completion_space_members(value: Any, is_member: bool) -> None:
    assert (value in CompletionSpace(8)) == is_member
    assert all(len(CompletionSpace(2, seed=seed).sample()) <= 2 for seed in range(20))


@pytest.mark.parametrize(
    ("value", "is_member"),
    [
        pytest.param(np.zeros((2, 3, 3), np.uint8), True, id="image"),
        pytest.param(np.zeros((2, 3, 3), np.float32), False, id="floats"),
        pytest.param(np.zeros((2, 3, 4), np.uint8), False, id="four channels"),
        pytest.param(np.zeros((2, 3), np.uint8), False, id="grey"),
        pytest.param(np.zeros((0, 3, 3), np.uint8), False, id="empty"),
        pytest.param([[[0, 0, 0]]], False, id="list"),
    ],
)
def test_image_space_members(value: Any, is_member: bool) -> None:
    assert (value in ImageSpace()) == is_member


def test_sampled_images_are_noise() -> None:
    image = ImageSpace(seed=0).sample()
    assert set(image.flatten().tolist()) >= {0, 255}


def test_spaces_refuse_what_they_cannot_do() -> None:
    assert CompletionSpace(3) != CompletionSpace(4)
    with pytest.raises(ValueError, match="0 or more, got -1"):
        CompletionSpace(-1)
    for space in (CompletionSpace(), ImageSpace()):
        with pytest.raises(ValueError, match="samples without mask"):
            space.sample(mask=1)  # type: ignore[arg-type]
