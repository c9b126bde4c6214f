"""How well a policy localizes: one greedy answer for each episode, by the same path as training rollouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium

from focus_agents.rollout.collect import collect_groups
from focus_agents.rollout.records import Policy, Sampling
from focus_env.metrics import ScoredAnswer


def evaluate(
    env: gymnasium.Env[Any, Any],
    policy: Policy,
    episode_indices: Sequence[int],
    *,
    max_completion_tokens: int,
    batch_size: int = 32,
    on_batch: Callable[[int], None] = lambda num_done: None,
) -> list[ScoredAnswer]:
    """Answer each episode once, greedily.

    Args:
        env: `focus_env/InContextLocalization-v0` with text actions.
        policy: What is measured.
        episode_indices: Which episodes, in the order of the result.
        max_completion_tokens: Where an answer is cut.
        batch_size: Episodes per call of the policy.
        on_batch: Called after each batch with the number of episodes done, for progress bars.
    """
    sampling = Sampling(temperature=0.0, max_completion_tokens=max_completion_tokens)
    answers: list[ScoredAnswer] = []
    for start in range(0, len(episode_indices), batch_size):
        batch = episode_indices[start : start + batch_size]
        groups = collect_groups(env, policy, batch, group_size=1, sampling=sampling, seeds=[0] * len(batch))
        answers += [group.answers[0] for group in groups]
        on_batch(len(answers))
    return answers
