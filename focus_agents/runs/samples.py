"""What is kept of the answers that were sampled in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from focus_agents.rollout.records import RolloutGroup


def best_and_worst(iteration: int, groups: Sequence[RolloutGroup]) -> list[dict[str, Any]]:
    """Return records of the best and the worst answer of each group."""
    return [
        {
            "iteration": iteration,
            "episode": group.answers[position].episode_id,
            "which": which,
            "reward": float(group.rewards[position]),
            "iou": group.answers[position].iou,
            "status": group.answers[position].status,
            "text": group.generation.completions[position].text,
        }
        for group in groups
        for which, position in (
            ("best", int(group.rewards.argmax())),
            ("worst", int(group.rewards.argmin())),
        )
    ]
