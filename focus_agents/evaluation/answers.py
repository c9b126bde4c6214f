"""How well a policy localizes: one greedy answer to each episode, by the same path as training rollouts.

Every evaluation of the package asks here, so that all of them cut batches and choose seeds alike: the seed of an
episode is its index. A policy that draws then answers an episode the same in any batch, order or process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium

from focus_agents.rollout.collect import collect_groups
from focus_agents.rollout.records import MAX_COMPLETION_TOKENS, Policy, RolloutGroup, Sampling
from focus_env.metrics import ScoredAnswer

BATCH_SIZE = 32
"""Episodes per call of a policy where a caller says nothing."""


def evaluate(
    env: gymnasium.Env[Any, Any],
    policy: Policy,
    episode_indices: Sequence[int],
    *,
    max_completion_tokens: int = MAX_COMPLETION_TOKENS,
    batch_size: int = BATCH_SIZE,
    on_batch: Callable[[int], None] = lambda num_done: None,
) -> list[ScoredAnswer]:
    """Answer each episode once, greedily, and score the answers.

    Args:
        env: `focus_env/InContextLocalization-v0` with text actions.
        policy: What is measured.
        episode_indices: Which episodes, in the order of the result.
        max_completion_tokens: Where an answer is cut.
        batch_size: Episodes per call of the policy.
        on_batch: Called after each batch with the number of episodes done, for progress bars.
    """
    answers: list[ScoredAnswer] = []
    for groups in answer_episodes(
        env, policy, episode_indices, max_completion_tokens=max_completion_tokens, batch_size=batch_size
    ):
        answers += [group.answers[0] for group in groups]
        on_batch(len(answers))
    return answers


def answer_episodes(
    env: gymnasium.Env[Any, Any],
    policy: Policy,
    episode_indices: Sequence[int],
    *,
    max_completion_tokens: int = MAX_COMPLETION_TOKENS,
    batch_size: int = BATCH_SIZE,
) -> Iterator[list[RolloutGroup]]:
    """Yield the greedy answers to episodes batch by batch, as groups of one, with their texts and errors.

    Args:
        env: As in `evaluate`.
        policy: Likewise.
        episode_indices: Likewise.
        max_completion_tokens: Likewise.
        batch_size: Likewise; the last batch may be smaller.
    """
    sampling = Sampling(temperature=0.0, max_completion_tokens=max_completion_tokens)
    for start in range(0, len(episode_indices), batch_size):
        batch = list(episode_indices[start : start + batch_size])
        yield collect_groups(env, policy, batch, group_size=1, sampling=sampling, seeds=batch)
