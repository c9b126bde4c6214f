"""The environment's episodes: which is asked, and what a caller gets of it."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import data_equivalence

from focus_env import Box, Episode, Exemplar, Frame, Observation, score_answers
from focus_env.env import InContextLocalizationEnv
from focus_env.errors import DatasetError
from focus_env.prompts import TEMPLATES
from focus_env.rewards.weighted import WeightedReward
from tests.fakes import FakeDataset, make_episode
from tests.focus_env.environments import GOLD, make_env


def arrays(observation: Observation) -> list[np.ndarray[Any, Any]]:
    return [*observation["support_images"], observation["support_boxes"], observation["query_image"]]


class TestEpisodes:
    """Which episode is asked, and what a caller gets of it."""

    def test_reset_tells_which_episode(self) -> None:
        _, info = make_env().reset(options={"episode_index": np.int64(2)})
        assert info == {"episode_index": 2, "episode_id": "fake/2", "identity": "object-2"}

    def test_seeds_fix_the_episodes(self) -> None:
        def draw(seed: int) -> list[int]:
            env = make_env(dataset=FakeDataset(50))
            indices = [env.reset(seed=seed)[1]["episode_index"]]
            return indices + [env.reset()[1]["episode_index"] for _ in range(9)]

        assert draw(1) == draw(1) != draw(2)
        assert len(set(draw(1))) > 5
        assert {type(index) for index in draw(1)} == {int}

    def test_answers_to_one_question_load_it_once(self) -> None:
        dataset = FakeDataset()
        env = make_env(dataset=dataset)
        for _ in range(4):
            env.reset(options={"episode_index": 1})
            env.step(GOLD)
        assert dataset.num_loads == 1
        env.reset(options={"episode_index": 2})
        env.reset(options={"episode_index": 1})
        assert dataset.num_loads == 3

    @pytest.mark.parametrize("shots", [3, 1])
    def test_an_episode_that_is_at_hand_is_scored_as_it_is(self, shots: int) -> None:
        """Without asking for it: neither the data set nor a picture is touched, nor the question that stands."""
        dataset = FakeDataset()
        env = make_env(dataset=dataset, action_type="text")
        frame = Frame("missing", image_wh=(80, 60), source=Path("missing.jpg"))
        given = make_episode(1, shots=shots)
        support = tuple(dataclasses.replace(exemplar, frame=frame) for exemplar in given.support)
        episode = dataclasses.replace(given, support=support, query_frame=frame)
        scores = score_answers(episode, [GOLD, ""], template=env.template, reward=env.reward)
        assert scores.rewards.tolist() == pytest.approx([1.5, 0.0], abs=0.01)
        assert [scored.episode_id for scored in scores.answers] == ["fake/1"] * 2
        assert dataset.num_loads == 0

    def test_pictures_are_decoded_once_for_all_observations_of_a_question(self) -> None:
        env = make_env()
        first, _ = env.reset(options={"episode_index": 0})
        after_step = env.step(GOLD)[0]
        again, _ = env.reset(options={"episode_index": 0})
        other, _ = env.reset(options={"episode_index": 1})
        for observation in (after_step, again):
            for one, same in zip(arrays(first), arrays(observation), strict=True):
                assert one is same
        assert not any(one is another for one, another in zip(arrays(first), arrays(other), strict=True))

    def test_what_a_caller_does_to_an_observation_changes_no_other(self) -> None:
        env = make_env()
        first, _ = env.reset(options={"episode_index": 0})
        original = copy.deepcopy(first)

        def try_all(observation: Observation) -> None:
            for array in arrays(observation):
                assert not array.flags.writeable
                with pytest.raises(ValueError, match="assignment destination is read-only"):
                    array[:] = 0
                with pytest.raises(ValueError, match="cannot set WRITEABLE flag to True"):
                    array.flags.writeable = True
            observation["query_image"] = np.zeros((1, 1, 3), np.uint8)
            observation.clear()  # type: ignore[attr-defined]

        try_all(first)
        try_all(env.step(GOLD)[0])
        again, _ = env.reset(options={"episode_index": 0})
        assert data_equivalence(again, original, exact=True)

    def test_a_copy_is_the_callers_own(self) -> None:
        image = make_env().reset(options={"episode_index": 0})[0]["query_image"].copy()
        image[:] = 0
        assert image.max() == 0

    def test_a_users_own_arrays_stay_the_users(self) -> None:
        """A frame may be an array. It stays writeable; what is written is seen when the question is asked anew."""
        pixels = np.full((60, 80, 3), 7, np.uint8)
        shown = Exemplar(Frame("a", (80, 60), pixels), Box(1, 2, 30, 40))
        episodes = [
            Episode(f"mine/{number}", (shown,), Frame("b", (80, 60), pixels), Box(1, 2, 30, 40), "mine")
            for number in range(2)
        ]
        env = InContextLocalizationEnv(dataset=episodes)
        observation, _ = env.reset(options={"episode_index": 0})
        assert not any(np.shares_memory(array, pixels) for array in arrays(observation))
        assert pixels.flags.writeable
        pixels[:] = 8
        assert observation["query_image"].max() == 7
        assert env.step(GOLD)[0]["query_image"].max() == 7
        env.reset(options={"episode_index": 1})
        assert env.reset(options={"episode_index": 0})[0]["query_image"].min() == 8
        assert pixels.flags.writeable

    def test_the_observation_is_the_episodes(self) -> None:
        observation, _ = make_env().reset(options={"episode_index": 0})
        assert [image.shape for image in observation["support_images"]] == [(32, 40, 3), (32, 48, 3)]
        assert observation["support_boxes"].dtype == np.float64
        np.testing.assert_array_equal(observation["support_boxes"], [[4, 6, 20, 22], [4, 6, 20, 23]])
        assert observation["query_image"].shape == (60, 80, 3)

    def test_nothing_tells_the_category(self) -> None:
        env = make_env()
        observation, info = env.reset(options={"episode_index": 0})
        step_info = env.step("")[4]
        prompt = env.template.render(observation)
        assert "category" not in repr((info, step_info, prompt))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"episode_index": 4}, "episode_index must be in 0 to 3, got 4"),
            ({"episode_index": -1}, "episode_index must be in 0 to 3, got -1"),
            ({"index": 1}, r"reset knows the options 'episode_index', 'progress' and 'shots', got \['index'\]"),
            ({"episode": 1}, r"reset knows the options 'episode_index', 'progress' and 'shots', got \['episode'\]"),
            ({"progress": 1.5}, r"progress must be from 0 .* to 1 .*, got 1.5"),
            ({"progress": math.nan}, r"progress must be from 0 .* to 1 .*, got nan"),
        ],
    )
    def test_bad_options(self, options: dict[str, float], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make_env().reset(options=options)

    def test_one_step_per_question(self) -> None:
        env = make_env()
        with pytest.raises(ResetNeeded, match="step was called before reset"):
            env.step(GOLD)
        with pytest.raises(ResetNeeded, match="episode was asked for before reset"):
            _ = env.episode
        env.reset()
        env.step(GOLD)
        with pytest.raises(ResetNeeded, match="ended with its one step"):
            env.step(GOLD)

    def test_a_refused_action_leaves_the_question_open(self) -> None:
        env = make_env()
        env.reset(options={"episode_index": 0})
        with pytest.raises(TypeError, match="a text action must be a str, got ndarray"):
            env.step(np.zeros(4))
        assert env.step(GOLD)[1] > 1

    def test_box_actions_have_four_numbers(self) -> None:
        env = make_env(action_type="box")
        env.reset()
        with pytest.raises(ValueError, match=r"a box action must have the shape \[4\], got \[2, 2\]"):
            env.step(np.zeros((2, 2)))


BAD_BOXES = [
    pytest.param(Box(math.nan, 10, 60, 40), "four finite numbers", id="nan"),
    pytest.param(Box(20, 10, math.inf, 40), "four finite numbers", id="infinite"),
    pytest.param((20, 10, 60), "four finite numbers", id="three numbers"),
    pytest.param("box!", "real number", id="a text"),
    pytest.param(Box(39, 10, 20, 30), "xywh_to_xyxy", id="reversed"),
    pytest.param(Box(20, 10, 20, 30), "x1 < x2 and y1 < y2", id="no area"),
    pytest.param(Box(1000, 1000, 2000, 2000), "must lie inside the image", id="outside"),
    pytest.param(Box(0, 0, 90, 70), "must lie inside the image", id="too large"),
]


@pytest.mark.parametrize(("box", "message"), BAD_BOXES)
def test_a_box_of_an_episode_that_is_none_is_named(box: Any, message: str) -> None:
    """Where the episode comes in, before anything is answered or scored."""
    good = make_episode(0)
    bad_target = dataclasses.replace(make_episode(1), target_box=box)
    bad_support = dataclasses.replace(good, support=(good.support[0], Exemplar(good.support[1].frame, box)))
    for episode, name in ((bad_target, "episode 'fake/1': target_box"), (bad_support, "'fake/0': box of support 2")):
        env = make_env(dataset=[episode])
        with pytest.raises(DatasetError, match=f"{name} must.*{message}|{message}"):
            env.reset()


def test_a_box_that_leaves_the_picture_by_a_hair_is_taken() -> None:
    episode = dataclasses.replace(make_episode(0), target_box=Box(20, 10, 80.9, 60.9))
    env = make_env(dataset=[episode])
    env.reset()
    assert env.step("<answer>[250, 167, 1000, 1000]</answer>")[1] > 1.4


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_target_that_is_not_finite_does_not_count_as_absent(value: float) -> None:
    episode = dataclasses.replace(make_episode(0), target_box=Box(value, 10, 60, 40))
    with pytest.raises(ValueError, match="episode 'fake/0': target_box must be four finite numbers"):
        score_answers(episode, ["none"], template=TEMPLATES["default"], reward=WeightedReward.default())


class Torn:
    """A picture that cannot be had, and does not know its name."""

    def read(self) -> bytes:
        raise DatasetError("cut after 20 of 200 bytes")


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("dog/3.jpg", "{tmp}/dog/3.jpg", r"picture 'dog/3.jpg': expected the file {tmp}/dog/3.jpg, found none"),
        ("dog/3.jpg", Torn(), r"picture 'dog/3.jpg': cut after 20 of 200 bytes"),
    ],
)
@pytest.mark.parametrize("place", ["support 2", "query"])
def test_a_picture_that_cannot_be_read_is_named_with_its_episode(
    name: str, source: Any, message: str, place: str, tmp_path: Path
) -> None:
    episode = make_episode(0, shots=2)
    bad = Frame(name, (80, 60), source.format(tmp=tmp_path) if isinstance(source, str) else source)
    if place == "query":
        episode = dataclasses.replace(episode, query_frame=bad, target_box=Box(1, 2, 9, 9))
    else:
        support = (episode.support[0], Exemplar(bad, Box(1, 2, 9, 9)))
        episode = dataclasses.replace(episode, support=support)
    with pytest.raises(DatasetError, match=rf"^episode 'fake/0': {place}: {message.format(tmp=tmp_path)}"):
        make_env(dataset=[episode]).reset(options={"episode_index": 0})
