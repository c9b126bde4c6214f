"""From scored groups to those that the learners get."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from focus_agents.grpo.advantage import difficulty_weights, group_advantages, group_ranks, has_signal, size_weights
from focus_agents.grpo.settings import GRPOSettings
from focus_agents.grpo.steps import GroupTrainingData, TrainingGroup, plan_steps
from focus_agents.rollout.records import RolloutGroup
from focus_env.metrics import ScoredAnswer


def learning_rewards(groups: Sequence[RolloutGroup], settings: GRPOSettings) -> npt.NDArray[np.float64]:
    """Return [N, G] rewards, less the penalty of cut answers; with the right answers [N, G + 1], those last."""
    is_cut = np.array([[not c.is_finished for c in group.generation.completions] for group in groups])
    rewards = np.stack([group.rewards for group in groups]) - settings.truncation_penalty * is_cut
    gold = [[group.gold.reward] for group in groups if group.gold is not None]
    return np.concatenate([rewards, np.array(gold)], axis=1) if gold else rewards


def advantages_of(groups: Sequence[RolloutGroup], settings: GRPOSettings) -> npt.NDArray[np.float64]:
    """Return [N, G] advantages of the answers of an iteration; with the right answers [N, G + 1], those last."""
    rewards, tolerance = learning_rewards(groups, settings), settings.signal_tolerance
    if settings.rank_rewards:
        rewards, tolerance = group_ranks(rewards, tolerance=tolerance), 0.0
    advantages = group_advantages(
        rewards, scale=settings.advantage_scale, leave_one_out=settings.leave_one_out, tolerance=tolerance
    )
    match settings.group_weights:
        case "equal":
            return advantages
        case "difficulty":
            mean_credits = [np.mean([answer.credit for answer in group.answers]) for group in groups]
            return advantages * difficulty_weights(np.array(mean_credits))[:, None]
        case "size":
            shares = np.array([_target_share(group.answers) for group in groups])
            return advantages * size_weights(advantages, shares)[:, None]


def _target_share(answers: Sequence[ScoredAnswer]) -> float:
    """Return the target's area as a share of the picture; nan where the object is absent."""
    for answer in answers:
        if answer.target_box is not None and answer.image_wh is not None:  # an unread one does not know the picture
            box, (width, height) = answer.target_box, answer.image_wh
            return (box.x2 - box.x1) * (box.y2 - box.y1) / (width * height)
    return math.nan


def split_by_signal(
    groups: Sequence[RolloutGroup], settings: GRPOSettings
) -> tuple[list[RolloutGroup], list[RolloutGroup]]:
    """Return (groups whose answers earn different rewards, the others)."""
    signal = has_signal(learning_rewards(groups, settings), tolerance=settings.signal_tolerance)
    with_signal = [group for group, has in zip(groups, signal, strict=True) if has]
    return with_signal, [group for group, has in zip(groups, signal, strict=True) if not has]


def training_group(
    group: RolloutGroup, advantages: npt.NDArray[np.float64], *, counts_truncated: bool = True
) -> TrainingGroup:
    """Keep of a rollout what the loss needs.

    Args:
        group: The rollout.
        advantages: [G], one more where the group has the right answer.
        counts_truncated: Whether the loss looks at completions that were cut at the limit.

    Raises:
        ValueError: If the policy that answered does not speak in tokens.
    """
    prompt = group.generation.prompt or group.prompt_reference
    if prompt is None:
        raise ValueError(f"episode {group.episode_index}: a policy without tokens cannot be trained by GRPO")
    completions = group.generation.completions
    # Behind the others, it stands in the same row: one prompt serves it, too.
    gold = [] if group.gold is None else [group.gold.token_ids]
    return TrainingGroup(
        prompt=prompt,
        token_ids=(*(c.token_ids for c in completions), *gold),
        sampler_logprobs=(*(c.logprobs for c in completions), *(np.zeros(len(ids), np.float32) for ids in gold)),
        advantages=advantages,
        counts=np.array(
            [(counts_truncated or c.is_finished) and c.error is None for c in completions] + [True] * len(gold)
        ),
        prefix=group.generation.prefix,
        has_gold=bool(gold),
    )


def make_training_groups(
    groups: Sequence[RolloutGroup], settings: GRPOSettings, *, num_learners: int
) -> list[TrainingGroup]:
    """Make of rollout groups what the loss needs: advantages, and which answers count.

    Args:
        groups: The groups of an iteration.
        settings: With `zero_variance="drop"`, groups without signal are left out, but each learner is left a group.
        num_learners: Learners that share the groups; 0 counts as 1.
    """
    advantages = advantages_of(groups, settings)
    training_groups = [
        training_group(group, row, counts_truncated=settings.truncated == "keep")
        for group, row in zip(groups, advantages, strict=True)
    ]
    if settings.zero_variance != "drop":
        return training_groups
    silent = [n for n, row in enumerate(advantages) if not row.any()]
    spared = silent[: max(0, max(1, num_learners) - (len(groups) - len(silent)))]
    return [group for n, group in enumerate(training_groups) if n not in silent or n in spared]


def training_data(
    groups: Sequence[RolloutGroup], settings: GRPOSettings, *, num_learners: int, seed: Sequence[int]
) -> GroupTrainingData:
    """Make of an iteration's groups what the learners get: the groups, and the plan of the optimizer steps.

    Args:
        groups: The groups to learn from.
        settings: Of the training.
        num_learners: Learners that share each step; 0 counts as 1.
        seed: Shuffles the groups of each pass where there is more than one step.
    """
    chosen = make_training_groups(groups, settings, num_learners=num_learners)
    steps = plan_steps(
        chosen,
        num_learners=num_learners,
        groups_per_step=settings.groups_per_step,
        micro_batch_groups=settings.micro_batch_groups,
        num_passes=settings.num_passes,
        # bnpo divides by what a micro-batch holds, so there a silent group changes the weight of others.
        skip_silent=settings.kl_coeff == 0 and settings.loss != "bnpo",
        seed=seed,
    )
    return GroupTrainingData(groups=dict(enumerate(chosen)), steps=steps)
