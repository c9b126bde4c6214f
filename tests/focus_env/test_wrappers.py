"""Wrappers that make arrays of one shape of an observation."""

from __future__ import annotations

import functools
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from focus_env import ENV_ID, Box
from focus_env.wrappers import FixedObservation, FixedSizeObservation, SingleImageObservation
from tests.fakes import FakeDataset
from tests.focus_env.environments import ACTION_TYPES, make_env


@pytest.mark.parametrize("action_type", ACTION_TYPES)
def test_check_env_has_nothing_to_say_about_the_wrapper(action_type: str) -> None:
    env = gymnasium.make(ENV_ID, dataset=FakeDataset(), action_type=action_type)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Gymnasium warns about every wrapped environment, whatever the wrapper.
        warnings.filterwarnings("ignore", message=".*is different from the unwrapped version")
        check_env(FixedSizeObservation(env, shots=2, image_size=16), skip_render_check=True)


class TestFixedSizeObservation:
    """Arrays of one shape, with boxes that fit them."""

    def test_by_hand(self) -> None:
        env = FixedSizeObservation(make_env(), shots=2, image_size=10)
        observation, _ = env.reset(options={"episode_index": 0})
        assert observation["images"].shape == (3, 10, 10, 3)
        assert observation["images"].dtype == np.uint8
        assert observation["boxes"].dtype == np.float32
        expected = [[4 / 40, 6 / 32, 20 / 40, 22 / 32], [4 / 48, 6 / 32, 20 / 48, 23 / 32]]
        np.testing.assert_allclose(observation["boxes"], expected, rtol=1e-6)

    def test_a_box_still_frames_the_object(self) -> None:
        env = FixedSizeObservation(make_env(), shots=2, image_size=64)
        observation, _ = env.reset(options={"episode_index": 0})
        for image, box in zip(observation["images"], observation["boxes"], strict=False):
            x1, y1, x2, y2 = np.round(box * 64).astype(int)
            is_object = image[..., 0] > 160  # the fake object is bright, its ground dim
            assert is_object[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].all()
            is_object[y1 - 1 : y2 + 1, x1 - 1 : x2 + 1] = False
            assert not is_object.any()

    def test_the_number_of_supports_must_fit(self) -> None:
        env = FixedSizeObservation(make_env(), shots=3)
        with pytest.raises(ValueError, match="made for 3 supports per episode, got 2"):
            env.reset()

    def test_shares_memory_between_processes(self) -> None:
        wrappers = [functools.partial(FixedSizeObservation, shots=2, image_size=16)]
        envs = gymnasium.make_vec(
            ENV_ID, num_envs=2, vectorization_mode="async", dataset=FakeDataset(), wrappers=wrappers
        )
        try:
            observation, _ = envs.reset(seed=0)
            assert observation["images"].shape == (2, 3, 16, 16, 3)
            assert observation["images"].std() > 0
        finally:
            envs.close()

    @pytest.mark.parametrize("sizes", [{"shots": 0}, {"shots": 1, "image_size": 0}])
    def test_sizes_are_positive(self, sizes: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="must be at least 1"):
            FixedSizeObservation(make_env(), **sizes)

    def test_keeps_what_the_box_action_means(self) -> None:
        env = FixedSizeObservation(make_env(action_type="box"), shots=2)
        env.reset(options={"episode_index": 0})
        *_, info = env.step(np.array([0.25, 1 / 6, 0.75, 2 / 3], dtype=np.float32))
        assert Box(*info["box"]) == pytest.approx(Box(20, 10, 60, 40), abs=1e-4)


class TestSingleImageObservation:
    """All pictures and boxes as channels of one."""

    def test_by_hand(self) -> None:
        fixed = FixedSizeObservation(make_env(), shots=2, image_size=10)
        env = SingleImageObservation(fixed)
        image, _ = env.reset(options={"episode_index": 0})
        observation, _ = fixed.reset(options={"episode_index": 0})
        assert image in env.observation_space
        assert image.shape == (10, 10, 11)
        for start, picture in zip((0, 4, 8), observation["images"], strict=True):
            np.testing.assert_array_equal(image[..., start : start + 3], picture)
        # x from 4 / 40 to 20 / 40, y from 6 / 32 to 22 / 32, in tenths: columns 1 to 4, rows 1.875 to 6.875
        expected = np.zeros((10, 10))
        expected[1:7, 1:5] = 255
        expected[1, 1:5], expected[6, 1:5] = 255 * 0.125, 255 * 0.875
        np.testing.assert_allclose(image[..., 3], expected, atol=0.5)

    @pytest.mark.parametrize(
        "box",
        [
            pytest.param((0, 0, 1, 1), id="all"),
            pytest.param((0.31, 0.52, 0.37, 0.58), id="inside one pixel"),
            pytest.param((0.9, 0.05, 1.0, 0.97), id="at the edge"),
        ],
    )
    def test_no_part_of_a_box_is_lost(self, box: tuple[float, ...]) -> None:
        fixed = FixedSizeObservation(make_env(), shots=1, image_size=10)
        images = np.zeros((2, 10, 10, 3), np.uint8)
        observation = FixedObservation(images=images, boxes=np.array([box], np.float32))
        share = SingleImageObservation(fixed).observation(observation)[..., 3] / 255
        area = (box[2] - box[0]) * (box[3] - box[1])
        assert share.sum() == pytest.approx(100 * area, abs=0.1)

    def test_check_env_has_nothing_to_say(self) -> None:
        env = gymnasium.make(ENV_ID, dataset=FakeDataset(), action_type="box")
        env = SingleImageObservation(FixedSizeObservation(env, shots=2, image_size=16))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message=".*is different from the unwrapped version")
            check_env(env, skip_render_check=True)
