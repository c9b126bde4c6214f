"""The environment and its spaces and wrapper, as Gymnasium and a user see them."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import pickle
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence

from focus_env import (
    ENV_ID,
    TEMPLATES,
    AnswerBatch,
    Box,
    CompletionSpace,
    CoordinateFrame,
    Episode,
    Exemplar,
    Frame,
    ImageSpace,
    Observation,
    RewardError,
    WeightedReward,
    score_answers,
)
from focus_env.datasets import SyntheticDataset
from focus_env.env import InContextLocalizationEnv
from focus_env.spaces import box_action_space, observation_space
from focus_env.wrappers import FixedObservation, FixedSizeObservation, SingleImageObservation
from tests.fakes import FakeDataset, make_episode

ACTION_TYPES = ["text", "box"]
GOLD = "<answer>[250, 167, 750, 667]</answer>"  # of the fake episode 0: (20, 10, 60, 40) in 80 x 60


def make_env(**options: Any) -> InContextLocalizationEnv:
    return InContextLocalizationEnv(**{"dataset": FakeDataset(), **options})


def arrays(observation: Observation) -> list[np.ndarray[Any, Any]]:
    return [*observation["support_images"], observation["support_boxes"], observation["query_image"]]


def answer(action: Any, *, index: int = 0, **options: Any) -> tuple[float, dict[str, Any]]:
    """Answer one episode of a fresh environment; the reward and the info."""
    env = make_env(**options)
    env.reset(options={"episode_index": index})
    _, reward, terminated, truncated, info = env.step(action)
    assert (terminated, truncated) == (True, False)
    return reward, info


@pytest.mark.parametrize("action_type", ACTION_TYPES)
def test_check_env_has_nothing_to_say(action_type: str) -> None:
    env = gymnasium.make(ENV_ID, dataset=FakeDataset(), action_type=action_type, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


@pytest.mark.parametrize("action_type", ACTION_TYPES)
def test_check_env_has_nothing_to_say_about_the_wrapper(action_type: str) -> None:
    env = gymnasium.make(ENV_ID, dataset=FakeDataset(), action_type=action_type)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Gymnasium warns about every wrapped environment, whatever the wrapper.
        warnings.filterwarnings("ignore", message=".*is different from the unwrapped version")
        check_env(FixedSizeObservation(env, shots=2, image_size=16), skip_render_check=True)


@pytest.mark.parametrize("action_type", ACTION_TYPES)
def test_passes_gymnasiums_own_checks_in_use(action_type: str) -> None:
    env = gymnasium.make(ENV_ID, dataset=FakeDataset(), action_type=action_type)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            observation, _ = env.reset()
            assert observation in env.observation_space
            env.step(env.action_space.sample())


class TestScoring:
    """What an action earns, and what is said about it."""

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "\x00",
            "\ud800",
            "a" * 100_000,
            "[nan, 0, 1, 1]",
            "<answer>[9, 9, 9, 9]",
            "[1e999, 0, 1, 1]",
            "<|im_end|>",
        ],
        ids=ascii,
    )
    def test_malformed_text_is_scored_not_raised(self, text: str) -> None:
        reward, info = answer(text)
        assert reward == 0.0
        assert info["box"] is None
        assert info["parse_status"] not in ("ok", "absent")

    def test_gold_scores_the_most(self) -> None:
        reward, info = answer(GOLD)
        assert reward == pytest.approx(1.5, abs=0.01)
        assert info == {
            "episode_index": 0,
            "episode_id": "fake/0",
            "reward_terms": {"iou": info["iou"], "format": 1.0},
            "parse_status": "ok",
            "is_strict": True,
            "iou": pytest.approx(1.0, abs=0.01),
            "box": pytest.approx((20, 10, 60, 40), abs=0.05),
            "target_box": (20, 10, 60, 40),
        }
        assert type(info["parse_status"]) is str
        assert type(info["box"]) is type(info["target_box"]) is tuple

    def test_a_good_box_in_bad_format_earns_its_iou_alone(self) -> None:
        reward, info = answer("It is at [250, 167, 750, 667].")
        assert reward == info["iou"] == pytest.approx(1.0, abs=0.01)

    def test_absent(self) -> None:
        options = {"dataset": FakeDataset(with_absent=True), "index": 3}
        reward, info = answer("<answer>none</answer>", **options)
        assert (reward, info["parse_status"], info["iou"], info["target_box"]) == (1.5, "absent", 0.0, None)
        assert answer(GOLD, **options)[0] == 0.5
        assert answer("<answer>none</answer>")[0] == 0.5

    @pytest.mark.parametrize(
        ("action", "status", "reward"),
        [
            pytest.param([0.75, 0.5, 0.25, 0.25], "reversed", 0.0, id="reversed"),
            pytest.param([0.5, 0.5, 0.5, 0.5], "degenerate", 0.0, id="a point"),
            pytest.param([0.0, 0.0, 1.5, 1.0], "out_of_range", 0.0, id="outside the space"),
            pytest.param([np.nan, 0.0, 1.0, 1.0], "bad_numbers", 0.0, id="nan"),
            pytest.param([0.25, 1 / 6, 0.75, 2 / 3], "ok", 1.5, id="gold"),
        ],
    )
    def test_box_action(self, action: list[float], status: str, reward: float) -> None:
        got, info = answer(np.array(action, dtype=np.float32), action_type="box")
        assert info["parse_status"] == status
        assert info["is_strict"] == (status == "ok")
        assert got == pytest.approx(reward, abs=1e-5)

    def test_the_template_says_how_numbers_are_read(self) -> None:
        template = dataclasses.replace(TEMPLATES["compact"], frame=CoordinateFrame.PIXEL)
        assert answer("<answer>[20, 10, 60, 40]</answer>", template=template)[0] == 1.5
        assert answer("<answer>[20, 10, 60, 40]</answer>", template="compact")[0] == 0.5

    def test_the_reward_can_be_chosen(self) -> None:
        assert answer(GOLD, reward="format:2")[0] == 2.0
        reward, info = answer(GOLD, reward=WeightedReward.from_spec("iou:3"))
        assert reward == 3 * info["iou"]
        assert info["reward_terms"] == {"iou": info["iou"]}
        assert type(reward) is type(info["reward_terms"]["iou"]) is float

    @pytest.mark.parametrize(("progress", "reward"), [(0.0, 0.5), (0.25, 0.5), (0.5, 0.0), (1.0, 0.0), (None, 0.0)])
    def test_a_curriculum_follows_the_training(self, progress: float | None, reward: float) -> None:
        """An answer of IoU 0.5, good enough in the first half. What one question was told is forgotten by the next."""
        env = make_env(reward="piecewise", action_type="box")
        env.reset(options={"episode_index": 0, "progress": 0.0 if progress is None else 1.0 - progress})
        env.reset(options={"episode_index": 0} if progress is None else {"episode_index": 0, "progress": progress})
        assert env.step(np.array([0.25, 1 / 6, 0.75, 5 / 12]))[1] == pytest.approx(reward)

    def test_terms_see_the_text_the_target_and_the_supports(self) -> None:
        seen: list[AnswerBatch] = []

        def spy(answers: AnswerBatch) -> np.ndarray[Any, Any]:
            seen.append(answers)
            return np.zeros(len(answers))

        answer(GOLD, reward=WeightedReward({"spy": (spy, 1.0)}))
        answer(np.zeros(4), reward=WeightedReward({"spy": (spy, 1.0)}), action_type="box")
        text, box = seen
        assert (text.texts, box.texts) == ((GOLD,), (None,))
        assert text.episode_ids == ("fake/0",)
        np.testing.assert_array_equal(text.target_boxes, [[20, 10, 60, 40]])
        np.testing.assert_array_equal(text.image_wh, [[80, 60]])
        assert text.support_boxes.shape == (1, 2, 4)
        assert (text.progress, box.has_box.tolist()) == (1.0, [False])

    def test_a_term_that_fails_is_named_and_leaves_the_question_open(self) -> None:
        env = make_env(reward=WeightedReward({"mine": (lambda answers: np.full(1, np.nan), 1.0)}))
        env.reset(options={"episode_index": 1})
        with pytest.raises(RewardError, match=r"term 'mine' .* got nan, for episode 'fake/1', completion 'Here.'"):
            env.step("Here.")
        env.reward = WeightedReward.default()
        assert env.step("Here.")[1] == 0.0


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
            ({"index": 1}, r"reset knows the options 'episode_index' and 'progress', got \['index'\]"),
            ({"episode": 1}, r"reset knows the options 'episode_index' and 'progress', got \['episode'\]"),
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action_type": "token"}, "action_type must be 'text' or 'box', got 'token'"),
        ({"render_mode": "human"}, "render_mode must be None or 'rgb_array', got 'human'"),
        ({"template": "short"}, "unknown prompt template 'short'"),
        ({"reward": "iuo"}, "unknown term 'iuo', did you mean 'iou'"),
        ({"dataset": FakeDataset(0)}, "at least one episode, got none"),
        ({"dataset_options": {"shots": 2}}, "dataset_options are for a data set given by name"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_env(**options)


def test_render_shows_the_answer_once_there_is_one() -> None:
    env = make_env(render_mode="rgb_array")
    with pytest.raises(ResetNeeded, match="render was called before reset"):
        env.render()
    env.reset(options={"episode_index": 0})
    before = env.render()
    env.step(GOLD)
    after = env.render()
    assert before is not None
    assert after is not None
    assert before.dtype == np.uint8
    assert not np.array_equal(before, after)
    env.reset(options={"episode_index": 0})
    assert np.array_equal(env.render(), before)


def test_render_without_a_mode_warns() -> None:
    env = make_env()
    env.reset()
    with pytest.warns(UserWarning, match="without a render mode"):
        assert env.render() is None


@pytest.mark.parametrize("action_type", ACTION_TYPES)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vector_environments(mode: str, action_type: str) -> None:
    options = {"vector_kwargs": {"shared_memory": False}} if mode == "async" else {}
    envs = gymnasium.make_vec(
        ENV_ID, num_envs=2, vectorization_mode=mode, dataset=FakeDataset(), action_type=action_type, **options
    )
    try:
        observation, info = envs.reset(seed=0)
        assert observation in envs.observation_space
        singles = [make_env(action_type=action_type) for _ in range(2)]
        expected = [env.reset(seed=seed)[1]["episode_index"] for seed, env in enumerate(singles)]
        assert info["episode_index"].tolist() == expected
        actions = (GOLD, "?") if action_type == "text" else np.array([[0.25, 1 / 6, 0.75, 2 / 3], [1, 1, 0, 0]])
        _, rewards, terminated, _, info = envs.step(actions)
        assert terminated.all()
        assert rewards[0] > 1
        assert rewards[1] == 0
        assert info["parse_status"][0] == "ok"
        assert info["box"][1] is None
    finally:
        envs.close()


def test_a_data_set_by_name() -> None:
    env = gymnasium.make(
        ENV_ID, dataset_options={"split": "test", "num_episodes": 3, "shots": 2, "image_size": 56, "seed": 5}
    )
    observation, info = env.reset(seed=0)
    assert len(observation["support_images"]) == 2
    assert observation["query_image"].shape == (56, 56, 3)
    assert 0 <= info["episode_index"] < 3
    assert env.step("")[1] == 0.0


@pytest.mark.parametrize("name", TEMPLATES)
def test_gold_scores_the_most_on_a_real_data_set(name: str) -> None:
    dataset = SyntheticDataset(split="test", num_episodes=8, shots=2, absent_fraction=0.5, seed=0)
    env = make_env(dataset=dataset, template=name)
    are_absent = set()
    for index in range(len(dataset)):
        env.reset(options={"episode_index": index})
        episode = dataset[index]
        *_, info = env.step(env.template.answer(episode.target_box, episode.query_frame.image_wh))
        assert info["reward_terms"]["format"] == 1.0
        assert info["reward_terms"]["iou"] > 0.95
        are_absent.add(episode.target_box is None)
    assert are_absent == {True, False}


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
