"""From rewards to advantages: how much better than its siblings an answer is."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

AdvantageScale = Literal["group", "none"]


def group_advantages(
    rewards: npt.NDArray[np.float64], *, scale: AdvantageScale = "group", eps: float = 1e-4
) -> npt.NDArray[np.float64]:
    """Centre each group's rewards; optionally divide by the group's sample standard deviation (ddof = 1).

    Args:
        rewards: [N, G] finite, any range; G >= 2 answers to each of N episodes.
        scale: "group" divides by the deviation (GRPO); "none" keeps the rewards' scale (Dr. GRPO).
        eps: Added to the deviation. A group with equal rewards gets exactly 0.

    Returns:
        [N, G] float64. Each row sums to 0.

    Raises:
        ValueError: If `rewards` is not [N, G] with G >= 2, or holds a value that is not finite.

    Source: arXiv:2402.03300, section 4.1.2 (GRPO), where eps does not occur; arXiv:2503.20783 (no deviation).

    >>> group_advantages(np.array([[1.0, 0.0], [0.5, 0.5]]), scale="none").tolist()
    [[0.5, -0.5], [0.0, 0.0]]
    """
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(f"rewards: expected shape [N, G] with G >= 2, got {rewards.shape}; raise group_size")
    if not np.isfinite(rewards).all():
        raise ValueError(f"rewards: expected finite values, got {rewards[~np.isfinite(rewards)][0]}; check the reward")
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    centred[np.ptp(rewards, axis=1) == 0] = 0.0  # the mean of equal numbers may be off by a rounding error
    if scale == "none":
        return centred
    return centred / (rewards.std(axis=1, ddof=1, keepdims=True) + eps)
