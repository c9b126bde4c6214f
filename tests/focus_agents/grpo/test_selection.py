"""Which groups the learners get, and with what advantages."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from focus_agents.grpo.selection import learning_rewards, make_training_groups, split_by_signal, training_group
from focus_agents.grpo.settings import GRPOSettings
from focus_agents.models.inputs import EncodedPrompt
from focus_agents.rollout.records import Completion, Generation, RolloutGroup

PROMPT = EncodedPrompt(np.arange(5), np.zeros((0, 2), dtype=np.int64), {})


def group(rewards: list[float], *, cut: tuple[int, ...] = (), index: int = 0) -> RolloutGroup:
    """A group of which `cut` names the answers that ran into the limit."""
    completions = tuple(
        Completion("", np.arange(3), np.zeros(3, dtype=np.float32), is_finished=g not in cut)
        for g in range(len(rewards))
    )
    return RolloutGroup(index, Generation(completions, PROMPT), np.array(rewards), (), ())


def config(**settings: object) -> GRPOSettings:
    return GRPOSettings(**settings)


def test_a_cut_answer_pays_the_penalty() -> None:
    groups = [group([1.0, 0.5], cut=(1,)), group([0.0, 0.2])]
    assert learning_rewards(groups, config(truncation_penalty=0.25)).tolist() == [[1.0, 0.25], [0.0, 0.2]]
    assert learning_rewards(groups, config()).tolist() == [[1.0, 0.5], [0.0, 0.2]]


@pytest.mark.parametrize(
    ("settings", "with_signal"),
    [({}, [1, 2]), ({"signal_tolerance": 0.1}, [2]), ({"truncation_penalty": 0.5}, [0, 1, 2])],
)
def test_signal(settings: dict[str, float], with_signal: list[int]) -> None:
    groups = [group([0.5, 0.5], cut=(0,), index=0), group([0.5, 0.55], index=1), group([0.0, 1.0], index=2)]
    has, has_not = split_by_signal(groups, config(**settings))
    assert [g.episode_index for g in has] == with_signal
    assert [g.episode_index for g in has_not] == [n for n in range(3) if n not in with_signal]


def test_advantages_by_hand() -> None:
    groups = [group([0.0, 1.0]), group([0.5, 0.5])]
    plain = make_training_groups(groups, config(advantage_scale="none"), num_learners=0)
    assert [g.advantages.tolist() for g in plain] == [[-0.5, 0.5], [0.0, 0.0]]
    alone = make_training_groups(groups, config(advantage_scale="none", leave_one_out=True), num_learners=0)
    assert alone[0].advantages.tolist() == [-1.0, 1.0]
    batch = make_training_groups(groups, config(advantage_scale="batch"), num_learners=0)
    deviation = np.std([0.0, 1.0, 0.5, 0.5], ddof=1)
    np.testing.assert_allclose(batch[0].advantages, np.array([-0.5, 0.5]) / (deviation + 1e-4))
    penalised = make_training_groups(
        [group([1.0, 1.0], cut=(0,))], config(advantage_scale="none", truncation_penalty=1.0), num_learners=0
    )
    assert penalised[0].advantages.tolist() == [-0.5, 0.5]


def test_cut_answers_count_or_not() -> None:
    groups = [group([0.0, 1.0], cut=(0,))]
    assert make_training_groups(groups, config(), num_learners=0)[0].counts.tolist() == [True, True]
    assert make_training_groups(groups, config(truncated="mask"), num_learners=0)[0].counts.tolist() == [False, True]


@pytest.mark.parametrize(
    ("rewards", "num_learners", "kept"),
    [
        ([[0, 1], [1, 1], [0, 2]], 0, 2),
        ([[0, 1], [1, 1], [0, 2]], 3, 3),
        ([[1, 1], [1, 1], [1, 1]], 2, 2),  # nothing to learn, but each learner takes part in the step
        ([[1, 1], [1, 1], [1, 1]], 0, 1),
    ],
)
def test_dropping(rewards: list[list[float]], num_learners: int, kept: int) -> None:
    groups = [group(row) for row in rewards]
    assert len(make_training_groups(groups, config(zero_variance="drop"), num_learners=num_learners)) == kept
    assert len(make_training_groups(groups, config(), num_learners=num_learners)) == 3


def rollout(prompt: EncodedPrompt | None) -> RolloutGroup:
    completions = tuple(
        Completion("text", np.arange(3 + g), np.full(3 + g, -0.5, dtype=np.float32), is_finished=True) for g in range(2)
    )
    return RolloutGroup(
        episode_index=41,
        generation=Generation(completions, prompt),
        rewards=np.array([0.0, 1.0]),
        reward_terms=({}, {}),
        answers=(),
    )


def test_a_training_group_keeps_what_the_loss_needs(prompts: list[EncodedPrompt]) -> None:
    group = rollout(prompts[0])
    kept = training_group(group, np.array([-1.0, 1.0]))
    assert kept.prompt is prompts[0]
    assert [ids.tolist() for ids in kept.token_ids] == [[0, 1, 2], [0, 1, 2, 3]]
    assert [len(logprobs) for logprobs in kept.sampler_logprobs] == [3, 4]
    assert kept.counts.tolist() == [True, True]
    assert kept.old_logprobs is kept.ref_logprobs is None
    assert kept.advantages.tolist() == [-1.0, 1.0]
    assert kept.num_tokens == 7


def test_truncated_completions_can_be_left_out_of_the_loss(prompts: list[EncodedPrompt]) -> None:
    group = rollout(prompts[0])
    first, second = group.generation.completions
    cut = dataclasses.replace(group.generation, completions=(first, dataclasses.replace(second, is_finished=False)))
    group = dataclasses.replace(group, generation=cut)
    assert training_group(group, np.zeros(2)).counts.tolist() == [True, True]
    assert training_group(group, np.zeros(2), counts_truncated=False).counts.tolist() == [True, False]


def test_a_policy_without_tokens_cannot_be_trained() -> None:
    with pytest.raises(ValueError, match="episode 41: a policy without tokens cannot be trained by GRPO"):
        training_group(rollout(None), np.zeros(2))
