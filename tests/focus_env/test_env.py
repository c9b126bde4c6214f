"""The environment, as Gymnasium and a user see it."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from focus_env import (
    ENV_ID,
    TEMPLATES,
    AnswerBatch,
    CoordinateFrame,
    RewardError,
    WeightedReward,
)
from focus_env.datasets import SyntheticDataset
from tests.fakes import FakeDataset
from tests.focus_env.environments import ACTION_TYPES, GOLD, make_env


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


def test_a_vector_environment_that_resets_in_the_same_step_pays_for_every_answer() -> None:
    """Gymnasium's default spends every second step on a reset."""
    modes = gymnasium.vector.AutoresetMode
    paid = {}
    for mode in (modes.NEXT_STEP, modes.SAME_STEP):
        dataset = FakeDataset(1)
        envs = gymnasium.make_vec(ENV_ID, num_envs=2, vector_kwargs={"autoreset_mode": mode}, dataset=dataset)
        envs.reset(seed=0)
        paid[mode] = [envs.step((GOLD, GOLD))[1].tolist() for _ in range(3)]
        envs.close()
    assert paid[modes.NEXT_STEP][1] == [0, 0]
    assert all(reward > 1 for rewards in paid[modes.SAME_STEP] for reward in rewards)


def test_a_data_set_by_name() -> None:
    env = gymnasium.make(
        ENV_ID, dataset_options={"split": "test", "num_episodes": 3, "shots": 2, "image_size": 56, "seed": 5}
    )
    observation, info = env.reset(seed=0)
    assert len(observation["support_images"]) == 2
    assert observation["query_image"].shape == (56, 56, 3)
    assert 0 <= info["episode_index"] < 3
    assert env.step("")[1] == 0.0


def double(image_wh: tuple[int, int]) -> tuple[int, int]:
    return 2 * image_wh[0], 2 * image_wh[1]


@pytest.mark.parametrize("name", TEMPLATES)
def test_gold_scores_the_most_on_a_real_data_set(name: str) -> None:
    dataset = SyntheticDataset(split="test", num_episodes=8, shots=2, absent_fraction=0.5, seed=0)
    template = dataclasses.replace(TEMPLATES[name], image_to_input_wh=double)
    env = make_env(dataset=dataset, template=template)
    are_absent = set()
    for index in range(len(dataset)):
        env.reset(options={"episode_index": index})
        episode = dataset[index]
        *_, info = env.step(env.template.answer(episode.target_box, episode.query_frame.image_wh))
        assert info["reward_terms"]["format"] == 1.0
        assert info["reward_terms"]["iou"] > 0.95
        are_absent.add(episode.target_box is None)
    assert are_absent == {True, False}
