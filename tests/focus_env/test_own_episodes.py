"""Episodes as somebody might make them: whatever functions take is taken, and what is no episode is named."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from focus_env import Box, Episode, Exemplar, Frame, SingleImageObservation, score_answers
from focus_env.env import InContextLocalizationEnv
from focus_env.errors import DatasetError, RewardError
from focus_env.prompts import TEMPLATES
from focus_env.rendering import write_picture
from focus_env.rewards.weighted import WeightedReward
from tests.fakes import make_episode
from tests.focus_env.environments import make_env
from tests.focus_env.pictures import as_file

PICTURE = np.full((24, 32, 3), 7, np.uint8)


def own_episode(**parts: Any) -> Episode:
    """An episode as somebody might make it, of a grey picture of 32 x 24 pixels."""
    frame, box = parts.pop("frame", Frame("a", (32, 24), PICTURE)), parts.pop("box", Box(2, 2, 10, 10))
    given = {"episode_id": "own/0", "support": (Exemplar(frame, box),), "query_frame": Frame("q", (32, 24), PICTURE)}
    return Episode(**(given | {"target_box": Box(2, 2, 10, 10), "identity": "mug"} | parts))


@pytest.mark.parametrize(
    "box", [(2, 2, 10, 10), [2, 2, 10, 10], np.array([2, 2, 10, 10]), np.array([2, 2, 10, 10], "O")]
)
def test_boxes_of_an_episode_may_be_any_four_numbers(box: Any) -> None:
    frame = Frame("a", (32, 24), PICTURE)
    env = make_env(dataset=[own_episode(support=[(frame, box)], target_box=box)], render_mode="rgb_array")
    observation, _ = env.reset()
    assert observation["support_boxes"].tolist() == [[2, 2, 10, 10]]
    *_, info = env.step("<answer>[62, 83, 312, 417]</answer>")
    assert info["target_box"] == (2, 2, 10, 10)
    assert info["iou"] > 0.95
    assert env.render() is not None


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(PICTURE[..., 0], id="grey"),
        pytest.param(PICTURE[..., :1], id="one channel"),
        pytest.param(PICTURE / 255, id="shares"),
        pytest.param(PICTURE.astype(int), id="int64"),
        pytest.param(PICTURE.tolist(), id="lists"),
        pytest.param(Image.fromarray(PICTURE), id="Pillow"),
        pytest.param(as_file(Image.fromarray(PICTURE), "PNG"), id="bytes"),
        pytest.param(io.BytesIO(as_file(Image.fromarray(PICTURE), "PNG")), id="a stream"),
        pytest.param(bytearray(as_file(Image.fromarray(PICTURE), "PNG")), id="bytearray"),
    ],
)
def test_pictures_of_an_episode_may_be_any_that_functions_take(source: Any) -> None:
    frame = Frame("a", (32, 24), source)
    env = make_env(dataset=[own_episode(frame=frame, query_frame=frame)], render_mode="rgb_array")
    for _ in range(2):
        observation, _ = env.reset()
        for picture in (observation["query_image"], *observation["support_images"]):
            np.testing.assert_array_equal(picture, PICTURE)
    assert env.render() is not None
    assert frame.shrunk(100).image().shape == (8, 11, 3)


def test_the_path_of_a_picture_may_be_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(as_file(Image.fromarray(PICTURE), "PNG"))
    frame = Frame("a", (32, 24), str(tmp_path / "a.png"))
    frame.check()
    np.testing.assert_array_equal(frame.image(), PICTURE)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"support": ()}, "expected at least one support, got none"),
        ({"support": None}, "expected supports, as in .*, got NoneType"),
        ({"support": ["x"]}, "the support 1: expected an Exemplar"),
        ({"query_frame": PICTURE}, "query_frame: expected a Frame.*, got ndarray"),
        ({"query_frame": Frame("q", (32, 24), None)}, "picture 'q': expected a path, .* got NoneType"),
        ({"query_frame": Frame("q", (32, 24), "http://a/b.png")}, "got the address 'http://a/b.png'; fetch the file"),
        ({"query_frame": Frame("q", (24, 32), PICTURE)}, "picture 'q': expected 24 x 32 pixels, got 32 x 24"),
        ({"frame": Frame("a", (32, 20), PICTURE)}, "picture 'a': expected 32 x 20 pixels, got 32 x 24"),
        ({"frame": Frame("a", (math.nan, 24), PICTURE)}, "frame of support 1: image_wh must be .*, both positive"),
        ({"frame": Frame("a", None, PICTURE)}, "frame of support 1: image_wh must be .*, both positive, got None"),
        ({"frame": Frame("a", (32,), PICTURE)}, "both positive"),
        ({"target_box": Box(0.1, 0.1, 0.5, 0.5)}, "target_box must be in pixels .* shares of it; multiply"),
        ({"box": Box(0.1, 0.1, 0.5, 0.5)}, "box of support 1 must be in pixels .* shares of it; multiply"),
        ({"box": None}, "box of support 1 must be four finite numbers"),
        ({"target_box": Box(1j, 2, 3, 4)}, "target_box: expected four numbers"),
    ],
    ids=str,
)
def test_an_episode_that_is_none_is_named(parts: dict[str, Any], message: str) -> None:
    env = make_env(dataset=[own_episode(**parts)])
    with pytest.raises(DatasetError, match=message):
        env.reset()


@pytest.mark.parametrize("episode", [None, {"support": ()}, ("a", "b"), 3], ids=repr)
def test_what_a_data_set_gives_must_be_an_episode(episode: Any) -> None:
    with pytest.raises(DatasetError, match="expected an Episode of the data set, got"):
        make_env(dataset=[episode]).reset()


@pytest.mark.parametrize("dataset", [None, 3, {"a": 1}, {1, 2}, iter(())], ids=lambda value: type(value).__name__)
def test_what_is_no_data_set_is_named(dataset: Any) -> None:
    with pytest.raises(ValueError, match="dataset: expected a name, or a list or other sequence of episodes, got"):
        InContextLocalizationEnv(dataset=dataset)


@pytest.mark.parametrize("reward", [lambda answers: 1, {"iou": 1}, 3])
def test_what_is_no_reward_is_named(reward: Any) -> None:
    with pytest.raises(ValueError, match="reward: expected a WeightedReward, or a text"):
        make_env(reward=reward)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episode_index": "0"}, "episode_index must be a whole number, got '0'"),
        ({"episode_index": 1.0}, "episode_index must be a whole number, got 1.0"),
        ({"progress": None}, "progress must be from 0 .*, got None"),
        ({"progress": "x"}, "progress must be from 0 .*, got 'x'"),
        ([1], "options must be a mapping"),
    ],
)
def test_options_of_reset_that_are_none(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_env().reset(options=options)


@pytest.mark.parametrize("action", [None, "[.1,.1,.5,.5]", [".1", ".1", ".5", ".5"], [True] * 4, [0.1, 0.1, 0.5, 1j]])
def test_box_actions_are_numbers(action: Any) -> None:
    env = make_env(action_type="box")
    env.reset()
    with pytest.raises(ValueError, match=r"a box action must have the shape \[4\]"):
        env.step(action)


@pytest.mark.parametrize("box", [Box(60, 40, 20, 10), Box(900, 900, 990, 990)])
def test_a_target_that_nothing_can_hit_is_not_scored(box: Box) -> None:
    episode = dataclasses.replace(make_episode(0), target_box=box)
    with pytest.raises(ValueError, match="episode 'fake/0': target_box must"):
        score_answers(episode, ["none"], template=TEMPLATES["default"], reward=WeightedReward.default())


def test_a_reward_that_ends_the_process_is_named() -> None:
    def leaves(answers: Any) -> Any:
        raise SystemExit(0)

    env = make_env(reward=WeightedReward({"mine": (leaves, 1.0)}))
    env.reset()
    with pytest.raises(RewardError, match="reward term 'mine' raised SystemExit"):
        env.step("none")


@pytest.mark.parametrize(
    "terms", [3, [("a", (len, 1.0))], {"a": len}, {"a": (len,)}, {"a": (3, 1.0)}, {"a": (len, "1_0")}]
)
def test_what_are_no_terms_of_a_reward(terms: Any) -> None:
    with pytest.raises(ValueError, match=r"expected a mapping from names to terms|expected \(function, weight\)"):
        WeightedReward(terms)


@pytest.mark.parametrize("name", ["x", "x.fli", "x.png.txt"])
def test_a_picture_is_written_in_a_format_that_there_is(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected an ending such as \.png"):
        write_picture(tmp_path / name, PICTURE)
    assert list(tmp_path.iterdir()) == []
    assert write_picture(str(tmp_path / "x.png"), PICTURE[..., 0]).is_file()


def test_an_image_of_an_environment_that_stacks_none_is_named() -> None:
    with pytest.raises(ValueError, match="SingleImageObservation: expected an environment in FixedSizeObservation"):
        SingleImageObservation(make_env())  # type: ignore[arg-type]
