"""Measure how well a policy localizes: one greedy answer to each episode, by the same path as training rollouts.

Every evaluation of the package asks here, so that all of them cut batches and choose seeds alike: the seed of an
episode is its index. A policy that draws then answers an episode the same in any batch, order or process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium

from focus_agents.rollout.collect import collect_groups, describe_failure
from focus_agents.rollout.records import MAX_COMPLETION_TOKENS, Policy, RolloutGroup, Sampling
from focus_env.metrics import ScoredAnswer

logger = logging.getLogger(__name__)

BATCH_SIZE = 32
"""Episodes per call of a policy where a caller says nothing."""

NUM_CONCLUSIVE = 3
"""A batch of so many episodes or more, all of which raise, says that the fault is not theirs; as many as
`answerer.MAX_RAISED_FIRST`, which counts them where batches are chunks of several processes."""


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

    Returns:
        One answer to each. An episode that cannot be asked or scored is an unread answer, and named in a warning.

    Raises:
        FocusError: As `answer_episodes`.
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

    Raises:
        FocusError: If all episodes of a batch fail, or an episode is not there to be scored. That of the first.
    """
    sampling = Sampling(temperature=0.0, max_completion_tokens=max_completion_tokens)
    for start in range(0, len(episode_indices), batch_size):
        batch = list(episode_indices[start : start + batch_size])
        groups = collect_groups(env, policy, batch, group_size=1, sampling=sampling, seeds=batch)
        _tell_failures(groups)
        yield groups


def _tell_failures(groups: Sequence[RolloutGroup]) -> None:
    """Name the episodes that failed; raise where that says more than a figure would."""
    failed = [group for group in groups if group.error is not None]
    if len(failed) == len(groups) >= NUM_CONCLUSIVE:
        raise failed[0].error  # type: ignore[misc]
    for group in failed:
        if not group.answers:  # the data set cannot say what there was to be found
            raise group.error  # type: ignore[misc]
        logger.warning("%s; its answer counts as unread", describe_failure(group))
