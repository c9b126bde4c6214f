"""Rollouts: what a policy is asked, how its answers are scored, and in which order episodes come."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest

from focus_agents.rollout.collect import collect_groups
from focus_agents.rollout.records import Policy, RolloutGroup, Sampling
from focus_agents.rollout.scoring import score_texts
from focus_env.env import InContextLocalizationEnv, observe
from focus_env.prompts import get_template
from focus_env.rewards.answers import AnswerBatch
from focus_env.rewards.weighted import WeightedReward
from focus_env.types import Box, Frame, ImageArray, ImagePart, ParseStatus
from tests.fakes import FakeDataset
from tests.focus_agents.rollout.fakes import GOLD, GOLD_BOX, GOLD_IOU, ScriptedPolicy, make_env


def collect(policy: Policy, indices: Sequence[int], *, group_size: int, **options: Any) -> list[RolloutGroup]:
    seeds = list(range(100, 100 + len(indices)))
    env = make_env(**options)
    return collect_groups(env, policy, indices, group_size=group_size, sampling=Sampling(0.7, 9), seeds=seeds)


SCORES = [
    # text, reward, IoU, is strict, status
    ("", 0.0, 0.0, False, ParseStatus.NO_BOX),
    ("\x00\ud800", 0.0, 0.0, False, ParseStatus.NO_BOX),
    ("<answer>[250, 167, 750", 0.0, 0.0, False, ParseStatus.NO_BOX),
    ("<answer>[1, 2, x, 4]</answer>", 0.0, 0.0, False, ParseStatus.BAD_NUMBERS),
    ("<answer>[0, 0, 0, 1001]</answer>", 0.5, 0.0, True, ParseStatus.OUT_OF_RANGE),
    ("<answer>[750, 167, 250, 667]</answer>", 0.5, 0.0, True, ParseStatus.REVERSED),
    ("<answer>[250, 167, 250, 667]</answer>", 0.5, 0.0, True, ParseStatus.DEGENERATE),
    (f"{GOLD} {GOLD}", 0.0, 0.0, False, ParseStatus.MULTIPLE),
    ("<answer>none</answer>", 0.5, 0.0, True, ParseStatus.ABSENT),
    ("<answer>[0, 0, 1000, 1000]</answer>", 0.5 + 0.25, 0.25, True, ParseStatus.OK),
    (f"It is at {GOLD}.", GOLD_IOU, GOLD_IOU, False, ParseStatus.OK),
    (GOLD, 0.5 + GOLD_IOU, GOLD_IOU, True, ParseStatus.OK),
]


class TestScores:
    """The environment scores, the rollout carries its word."""

    @pytest.mark.parametrize(("text", "reward", "iou", "is_strict", "status"), SCORES)
    def test_one_answer(self, text: str, reward: float, iou: float, is_strict: bool, status: ParseStatus) -> None:
        (group,) = collect(ScriptedPolicy(text), [0], group_size=1)
        assert group.rewards.tolist() == [pytest.approx(reward, abs=1e-9)]
        assert group.reward_terms == ({"iou": pytest.approx(iou, abs=1e-9), "format": float(is_strict)},)
        (answer,) = group.answers
        assert (answer.status, answer.is_strict) == (status, is_strict)
        assert answer.iou == pytest.approx(iou, abs=1e-9)
        assert answer.target_box == Box(20.0, 10.0, 60.0, 40.0)
        assert answer.episode_id == "fake/0"
        assert (answer.box is not None) == (status is ParseStatus.OK)

    def test_a_group_keeps_the_order_of_its_answers(self) -> None:
        texts = [text for text, *_ in SCORES]
        (group,) = collect(ScriptedPolicy(*texts), [0], group_size=len(texts))
        assert group.rewards.dtype == np.float64
        np.testing.assert_allclose(group.rewards, [reward for _, reward, *_ in SCORES], atol=1e-9)
        assert [answer.status for answer in group.answers] == [status for *_, status in SCORES]
        assert [completion.text for completion in group.generation.completions] == texts
        assert group.answers[-1].box == pytest.approx(GOLD_BOX)

    def test_each_episode_is_scored_against_its_own_target(self) -> None:
        dataset, template = FakeDataset(with_absent=True), get_template("default")
        indices = [2, 0, 3, 1, 0]
        gold = [template.answer(dataset[i].target_box, dataset[i].query_frame.image_wh) for i in indices]
        groups = collect(
            ScriptedPolicy(by_prompt=[[text, "?"] for text in gold]), indices, group_size=2, dataset=dataset
        )
        assert [group.episode_index for group in groups] == indices
        assert [group.answers[0].episode_id for group in groups] == [f"fake/{i}" for i in indices]
        for group, index in zip(groups, indices, strict=True):
            assert group.rewards[0] > 1.49
            assert group.rewards[1] == 0
            assert group.answers[0].status is (ParseStatus.ABSENT if index == 3 else ParseStatus.OK)
            assert group.answers[0].credit > 0.99

    def test_each_episode_is_loaded_once(self) -> None:
        dataset = FakeDataset()
        collect(ScriptedPolicy("a", "b"), [2, 0, 3], group_size=2, dataset=dataset)
        assert dataset.num_loads == 3

    def test_a_group_is_scored_without_a_step_or_another_question(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each question is asked once for its pictures; nothing of them is decoded or copied to score."""
        steps: list[Any] = []
        decoded: list[str] = []
        image = Frame.image

        def counted(frame: Frame) -> ImageArray:
            decoded.append(frame.name)
            return image(frame)

        monkeypatch.setattr(InContextLocalizationEnv, "step", lambda env, action: steps.append(action))
        monkeypatch.setattr(Frame, "image", counted)
        groups = collect(ScriptedPolicy(*[GOLD] * 8), [2, 0], group_size=8)
        assert steps == []
        assert decoded == [f"{index}/{name}" for index in (2, 0) for name in ("support-0", "support-1", "query")]
        assert [len(group.rewards) for group in groups] == [8, 8]

    def test_a_term_sees_a_group_at_once(self) -> None:
        seen: list[AnswerBatch] = []

        def term(answers: AnswerBatch) -> np.ndarray[Any, Any]:
            seen.append(answers)
            return np.arange(len(answers), dtype=np.float64)

        reward = WeightedReward({"mine": (term, 1.0)})
        groups = collect(ScriptedPolicy("a", "b"), [1, 3], group_size=2, reward=reward)
        assert [(batch.texts, set(batch.episode_ids)) for batch in seen] == [
            (("a", "b"), {"fake/1"}),
            (("a", "b"), {"fake/3"}),
        ]
        for group in groups:
            assert group.rewards.tolist() == [0, 1]
            assert group.reward_terms == ({"mine": 0.0}, {"mine": 1.0})

    def test_the_environments_reward_counts(self) -> None:
        (group,) = collect(ScriptedPolicy(GOLD, "?"), [0], group_size=2, reward="format:3")
        assert group.rewards.tolist() == [3.0, 0.0]
        assert group.reward_terms == ({"format": 1.0}, {"format": 0.0})

    @pytest.mark.parametrize(("settings", "expected"), [({"progress": 0.2}, 0.5), ({"progress": 0.7}, 0.0), ({}, 0.0)])
    def test_a_curriculum_follows_the_training(self, settings: dict[str, float], expected: float) -> None:
        """By an answer with an IoU of little more than 0.5. Without a word about it the training is at its end."""
        env, policy = make_env(reward="piecewise"), ScriptedPolicy("<answer>[250, 167, 750, 420]</answer>", GOLD)
        (group,) = collect_groups(env, policy, [0], group_size=2, sampling=Sampling(), seeds=[0], **settings)
        assert group.rewards.tolist() == pytest.approx([expected, 1.0], abs=0.01)

    def test_wrapped_environments_serve_as_well(self) -> None:
        env = gymnasium.wrappers.RecordEpisodeStatistics(make_env())
        (group,) = collect_groups(env, ScriptedPolicy(GOLD), [0], group_size=1, sampling=Sampling(), seeds=[0])
        assert group.rewards[0] > 1.49

    def test_the_question_that_stands_stays(self) -> None:
        env = make_env()
        env.reset(options={"episode_index": 0})
        scores = score_texts(env, FakeDataset()[2], [GOLD, "?"])
        assert [answer.episode_id for answer in scores.answers] == ["fake/2"] * 2
        assert env.get_wrapper_attr("episode").episode_id == "fake/0"
        assert env.step(GOLD)[1] > 1.49

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda env: gymnasium.wrappers.TransformReward(env, lambda reward: 2 * reward),
            lambda env: gymnasium.wrappers.TransformAction(env, str.strip, env.action_space),
            lambda env: gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.wrappers.ClipReward(env, 0, 1)),
        ],
    )
    def test_wrappers_that_only_a_step_would_ask_are_refused(self, wrap: Any) -> None:
        env, policy = wrap(make_env()), ScriptedPolicy(GOLD)
        message = r"expected no wrapper that changes actions or rewards, got (Transform|Clip)(Action|Reward)"
        with pytest.raises(ValueError, match=message):
            collect_groups(env, policy, [0], group_size=1, sampling=Sampling(), seeds=[0])
        assert policy.calls == []
        with pytest.raises(ValueError, match=message):
            score_texts(env, FakeDataset()[0], [GOLD])

    def test_the_right_answer_comes_with_a_group_that_is_learned_from(self) -> None:
        """In the template's words, under the environment's reward; and nobody is told it unasked."""
        env, texts = make_env(FakeDataset(with_absent=True), reward="iou:1,format:3"), []

        def encode(text: str) -> list[int]:
            texts.append(text)
            return [len(text), 0]

        policy, options = ScriptedPolicy("?"), {"group_size": 1, "sampling": Sampling(), "seeds": [0, 0]}
        present, absent = collect_groups(env, policy, [0, 3], encode_answer=encode, **options)
        assert texts == [GOLD, "<answer>none</answer>"]
        assert present.gold.reward == pytest.approx(GOLD_IOU + 3)
        assert absent.gold.reward == pytest.approx(4.0)
        assert present.gold.token_ids.dtype == np.int64
        assert present.gold.token_ids.tolist() == [len(GOLD), 0]
        assert len(present.answers) == len(present.rewards) == 1
        assert [group.gold for group in collect_groups(env, policy, [0, 3], **options)] == [None, None]

    def test_an_episode_whose_right_answer_cannot_be_scored_has_failed(self) -> None:
        def term(answers: AnswerBatch) -> np.ndarray[Any, Any]:
            if GOLD in answers.texts:
                raise KeyError("no")
            return np.zeros(len(answers))

        env, options = make_env(reward=WeightedReward({"mine": (term, 1.0)})), {"sampling": Sampling(), "seeds": [0]}
        (group,) = collect_groups(
            env, ScriptedPolicy("?"), [0], group_size=1, encode_answer=lambda text: [1], **options
        )
        assert "reward term 'mine' raised KeyError" in str(group.error)

    def test_groups_travel_between_processes(self) -> None:
        (group,) = collect(ScriptedPolicy(GOLD, ""), [0], group_size=2)
        twin = pickle.loads(pickle.dumps(group))
        assert twin.answers == group.answers
        assert twin.rewards.tolist() == group.rewards.tolist()


class TestWhatThePolicyIsAsked:
    """All episodes in one call, worded by the environment's template."""

    @pytest.mark.parametrize("template", ["default", "compact"])
    def test_one_call_for_all(self, template: str) -> None:
        policy = ScriptedPolicy("a", "b", "c")
        collect(policy, [3, 1], group_size=3, template=template)
        (call,) = policy.calls
        assert (call["num_completions"], call["sampling"], list(call["seeds"])) == (3, Sampling(0.7, 9), [100, 101])
        dataset = FakeDataset()
        for messages, index in zip(call["prompts"], [3, 1], strict=True):
            expected = get_template(template).render(observe(dataset[index]))
            assert [m.role for m in messages] == [m.role for m in expected]
            for part, other in zip(messages[0].content, expected[0].content, strict=True):
                if isinstance(other, ImagePart):
                    np.testing.assert_array_equal(part.image, other.image)
                else:
                    assert part == other

    def test_no_episodes_no_groups(self) -> None:
        assert collect(ScriptedPolicy("a"), [], group_size=1) == []

    def test_an_unknown_episode_is_refused(self) -> None:
        with pytest.raises(ValueError, match="episode_index must be in 0 to 3, got 4"):
            collect(ScriptedPolicy("a"), [4], group_size=1)
