"""Hold a trained policy against policies that need no training, on the same validation episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import gymnasium
import numpy as np

from focus_agents.evaluation.answers import evaluate
from focus_agents.policies.registry import PolicySpec
from focus_env.env import ENV_ID
from focus_env.intervals import grouped_bootstrap_interval
from focus_env.metrics import ScoredAnswer
from focus_env.types import EpisodeDataset

DEFAULT = ("copy_support:nearest", "match")
"""The best of the policies without a model; see docs/policies.md."""
MOST_EPISODES = 200
"""More validation episodes than these are not answered; those that are lie evenly among all."""
BATCH_SIZE = 8
"""Episodes between two signs of progress."""

Verdict = Literal["better", "worse", "open"]


def answer_beside(
    episodes: EpisodeDataset,
    indices: Sequence[int],
    spec: PolicySpec,
    *,
    on_batch: Callable[[int], None] = lambda num_done: None,
) -> list[ScoredAnswer]:
    """Return a policy's answers to episodes, in their order.

    Args:
        episodes: Of the validation.
        indices: Which of them.
        spec: The policy.
        on_batch: Called with the number of episodes that are answered.

    Raises:
        FocusError: If the policy cannot be made, or fails on all episodes of a batch.
    """
    env = gymnasium.make(ENV_ID, dataset=episodes, template=spec.load_template())
    return evaluate(env, spec.build(), indices, batch_size=BATCH_SIZE, on_batch=on_batch)


def chosen_episodes(num_episodes: int) -> list[int]:
    """Return which of the answered episodes are compared: all of them, or `MOST_EPISODES` evenly among them.

    >>> chosen_episodes(3)
    [0, 1, 2]
    """
    count = min(num_episodes, MOST_EPISODES)
    return [index * num_episodes // count for index in range(count)]


def compare(
    trained: Sequence[ScoredAnswer], other: Sequence[ScoredAnswer], identities: Sequence[str]
) -> dict[str, Any]:
    """Return by how much the trained policy leads, paired by episode.

    Args:
        trained: Its answers.
        other: Those of another policy to the same episodes.
        identities: Which object each episode is of.

    Returns:
        `miou` of the trained policy and `miou_beside` of the other one, `lead` and its 95% `interval` over objects,
        which are drawn with all their episodes, the numbers of both, and the `verdict`: better or worse where the
        interval is clear of 0.
    """
    first, second = (np.array([answer.credit for answer in answers]) for answers in (trained, other))
    low, high = grouped_bootstrap_interval(first - second, identities)
    verdict: Verdict = "better" if low > 0 else "worse" if high < 0 else "open"
    return {
        "miou": float(first.mean()),
        "miou_beside": float(second.mean()),
        "lead": float((first - second).mean()),
        "interval": [low, high],
        "num_episodes": len(first),
        "num_objects": len(set(identities)),
        "verdict": verdict,
    }
