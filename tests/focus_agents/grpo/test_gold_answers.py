"""The right answer as one more column of a group: its reward, its advantage, its gradient, and its way to learners."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from focus_agents.grpo.budget import learner_memory
from focus_agents.grpo.selection import make_training_groups, split_by_signal
from focus_agents.grpo.settings import GRPOSettings
from focus_agents.grpo.steps import GroupTrainingData, TrainingGroup, plan_steps
from focus_agents.models.budget import PromptSize
from focus_agents.models.inputs import EncodedPrompt
from focus_agents.models.loading import load_config
from focus_agents.models.settings import FinetuningSettings
from focus_agents.models.shape import shape_of
from focus_agents.rollout.records import Completion, Generation, GoldAnswer, RolloutGroup
from tests.focus_agents.grpo.learners import assert_same, build_learner, gradient_of, sample_groups, update

PROMPT = EncodedPrompt(np.arange(5), np.zeros((0, 2), dtype=np.int64), {})


def rollout(rewards: list[float], gold: float | None) -> RolloutGroup:
    completions = tuple(
        Completion("", np.arange(3), np.zeros(3, dtype=np.float32), is_finished=g > 0) for g in range(len(rewards))
    )
    answer = None if gold is None else GoldAnswer(np.arange(7, 12), gold)
    return RolloutGroup(0, Generation(completions, PROMPT), np.array(rewards), (), (), gold=answer)


def test_it_is_compared_with_the_others_like_one_of_them() -> None:
    """By hand: rewards 0, 0.3 and, of the right answer, 1.5 have the mean 0.6."""
    settings = GRPOSettings(advantage_scale="none", truncation_penalty=0.3, truncated="mask")
    (group,) = make_training_groups([rollout([0.3, 0.3], 1.5)], settings, num_learners=0)
    np.testing.assert_allclose(group.advantages, [-0.6, -0.3, 0.9])
    assert group.counts.tolist() == [False, True, True]  # the first was cut, the right answer never is
    assert [ids.tolist() for ids in group.token_ids] == [[0, 1, 2], [0, 1, 2], [7, 8, 9, 10, 11]]
    assert [len(logprobs) for logprobs in group.sampler_logprobs] == [3, 3, 5]
    assert group.has_gold
    assert group.num_tokens == 8


def test_a_group_of_failures_has_a_signal_by_it() -> None:
    settings = GRPOSettings()
    assert split_by_signal([rollout([0.0, 0.0], None)], settings)[0] == []
    assert len(split_by_signal([rollout([0.0, 0.0], 1.5)], settings)[0]) == 1


def test_without_it_a_group_is_as_before() -> None:
    (group,) = make_training_groups([rollout([0.0, 1.0], None)], GRPOSettings(), num_learners=0)
    assert not group.has_gold
    assert len(group.token_ids) == len(group.sampler_logprobs) == len(group.advantages) == len(group.counts) == 2


@pytest.fixture(scope="module")
def groups() -> list[TrainingGroup]:
    return sample_groups(build_learner())


def as_gold(groups: list[TrainingGroup]) -> list[TrainingGroup]:
    """The same groups, whose last answers nobody has sampled."""
    return [
        dataclasses.replace(
            group,
            sampler_logprobs=(*group.sampler_logprobs[:-1], np.zeros_like(group.sampler_logprobs[-1])),
            has_gold=True,
        )
        for group in groups
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loss": "gspo", "shared_prefix": "off"},
        {"rollout_correction": "token_tis", "kl_coeff": 0.1, "micro_batch_groups": 3},
    ],
    ids=str,
)
def test_its_gradient_is_that_of_a_sampled_answer_with_the_same_tokens(
    groups: list[TrainingGroup], settings: dict[str, Any]
) -> None:
    assert_same(gradient_of(as_gold(groups), **settings), gradient_of(groups, **settings))


@pytest.mark.parametrize("settings", [{}, {"rollout_correction": "seq_mask"}], ids=str)
def test_later_steps_compare_it_with_the_policy_before_the_first(
    groups: list[TrainingGroup], settings: dict[str, Any]
) -> None:
    given, sampled = build_learner(num_passes=2, **settings), build_learner(num_passes=2, **settings)
    metrics = [update(given, as_gold(groups), num_passes=2), update(sampled, groups, num_passes=2)]
    assert len(given.gradients) == len(sampled.gradients) == 2
    for ours, expected in zip(given.gradients, sampled.gradients, strict=True):
        assert_same(ours, expected, 1e-3)  # the samplers' rounding, and what AdamW makes of it
    ratios = [float(found["ratio_mean"]) for found in metrics]
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-5)
    assert abs(ratios[0] - 1) > 1e-4


def test_two_learners_share_the_gradient_of_one(groups: list[TrainingGroup]) -> None:
    gold = as_gold(groups)
    steps = plan_steps(gold, num_learners=2)
    parcels = GroupTrainingData(groups=dict(enumerate(gold)), steps=steps).shard(2)
    shares = []
    for parcel, _ in parcels:
        learner = build_learner()
        learner.update(training_data=pickle.loads(pickle.dumps(parcel)))  # as it travels
        shares.append(learner.gradients[0])
    total = {key: torch.stack([share[key] for share in shares]).sum(0) for key in shares[0]}
    assert_same(total, gradient_of(gold))


def test_what_is_sampled_ahead_keeps_it_through_a_checkpoint() -> None:
    group = pickle.loads(pickle.dumps(rollout([0.0, 1.0], 1.5)))
    assert group.gold.reward == 1.5
    assert group.gold.token_ids.tolist() == [7, 8, 9, 10, 11]


def test_the_grammar_and_it_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="gold_answer: expected False with constrained=True"):
        GRPOSettings(gold_answer=True, constrained=True)


def test_a_learners_memory_counts_it() -> None:
    shape = shape_of(load_config("tiny"))
    prompt = PromptSize(tokens=100, visual_tokens=64, num_pictures=2, patches=256, pixel_bytes=0)
    eight, nine, with_gold = (
        learner_memory(shape, FinetuningSettings(), GRPOSettings(**settings), prompt=prompt)
        for settings in ({"group_size": 8}, {"group_size": 9}, {"group_size": 8, "gold_answer": True})
    )
    assert with_gold == nine != eight
