"""From scored groups to those that the learners get."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from focus_agents.grpo.advantage import group_advantages, has_signal
from focus_agents.grpo.config import GRPOConfig
from focus_agents.grpo.plan import TrainingGroup
from focus_agents.rollout.records import RolloutGroup


def learning_rewards(groups: Sequence[RolloutGroup], config: GRPOConfig) -> npt.NDArray[np.float64]:
    """[N, G] rewards, less the penalty of answers that were cut."""
    is_cut = np.array([[not c.is_finished for c in group.generation.completions] for group in groups])
    return np.stack([group.rewards for group in groups]) - config.truncation_penalty * is_cut


def split_by_signal(
    groups: Sequence[RolloutGroup], config: GRPOConfig
) -> tuple[list[RolloutGroup], list[RolloutGroup]]:
    """(groups whose answers earn different rewards, the others)."""
    signal = has_signal(learning_rewards(groups, config), tolerance=config.signal_tolerance)
    with_signal = [group for group, has in zip(groups, signal, strict=True) if has]
    return with_signal, [group for group, has in zip(groups, signal, strict=True) if not has]


def make_training_groups(groups: Sequence[RolloutGroup], config: GRPOConfig) -> list[TrainingGroup]:
    """What the loss needs of groups: advantages, and which answers count.

    With `zero_variance="drop"`, groups without signal are left out, but each learner is left a group.
    """
    advantages = group_advantages(
        learning_rewards(groups, config),
        scale=config.advantage_scale,
        leave_one_out=config.leave_one_out,
        tolerance=config.signal_tolerance,
    )
    training_groups = [
        training_group(group, row, counts_truncated=config.truncated == "keep")
        for group, row in zip(groups, advantages, strict=True)
    ]
    if config.zero_variance != "drop":
        return training_groups
    silent = [n for n, row in enumerate(advantages) if not row.any()]
    spared = silent[: max(0, max(1, config.num_learners) - (len(groups) - len(silent)))]
    return [group for n, group in enumerate(training_groups) if n not in silent or n in spared]


def training_group(
    group: RolloutGroup, advantages: npt.NDArray[np.float64], *, counts_truncated: bool = True
) -> TrainingGroup:
    """Keep of a rollout what the loss needs.

    Args:
        group: The rollout.
        advantages: [G].
        counts_truncated: Whether the loss looks at completions that were cut at the limit.

    Raises:
        ValueError: If the policy that answered does not speak in tokens.
    """
    if group.generation.prompt is None:
        raise ValueError(f"episode {group.episode_index}: a policy without tokens cannot be trained by GRPO")
    completions = group.generation.completions
    return TrainingGroup(
        prompt=group.generation.prompt,
        token_ids=tuple(c.token_ids for c in completions),
        sampler_logprobs=tuple(c.logprobs for c in completions),
        advantages=advantages,
        counts=np.array([counts_truncated or c.is_finished for c in completions]),
        prefix=group.generation.prefix,
    )
