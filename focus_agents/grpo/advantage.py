"""From rewards to advantages: how much better than its siblings an answer is."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

AdvantageScale = Literal["group", "batch", "none"]


def group_advantages(
    rewards: npt.NDArray[np.float64],
    *,
    scale: AdvantageScale = "group",
    leave_one_out: bool = False,
    eps: float = 1e-4,
    tolerance: float = 0.0,
) -> npt.NDArray[np.float64]:
    """Centre each group's rewards; optionally divide by a sample standard deviation (ddof = 1).

    Args:
        rewards: [N, G] finite, any range; G >= 2 answers to each of N episodes.
        scale: "group" divides by the group's deviation (GRPO), "batch" by that of all N x G rewards, "none" keeps the
            rewards' scale (Dr. GRPO).
        leave_one_out: Compare each answer with the mean of the others alone, which lengthens what is centred by
            G / (G - 1); the deviation stays as it is.
        eps: Added to the deviation.
        tolerance: A group whose rewards lie within this range gets exactly 0; see `has_signal`.

    Returns:
        [N, G] float64. Each row sums to 0.

    Raises:
        ValueError: If `rewards` is not [N, G] with G >= 2 or holds a value that is not finite, if `scale` is unknown,
            or if `tolerance` is negative.

    Sources: arXiv:2402.03300, section 4.1.2 (GRPO), where eps does not occur; arXiv:2503.20783 (no deviation);
    arXiv:2508.08221 (the batch's deviation); arXiv:2402.14740 (leave one out). "group", "batch" and "none" are TRL's
    `scale_rewards`, with its eps; TRL has neither `leave_one_out` nor `tolerance`, and gives a group of equal rewards
    what rounding leaves of 0.

    >>> group_advantages(np.array([[1.0, 0.0], [0.5, 0.5]]), scale="none").tolist()
    [[0.5, -0.5], [0.0, 0.0]]
    """
    if scale not in get_args(AdvantageScale):
        raise ValueError(f"scale: expected one of {', '.join(get_args(AdvantageScale))}, got {scale!r}")
    signal = has_signal(rewards, tolerance=tolerance)
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    centred[~signal] = 0.0  # not only beyond a tolerance: the mean of equal numbers may be off by a rounding error
    if leave_one_out:
        centred *= rewards.shape[1] / (rewards.shape[1] - 1)
    if scale == "none":
        return centred
    return centred / (rewards.std(axis=1 if scale == "group" else None, ddof=1, keepdims=True) + eps)


def has_signal(rewards: npt.NDArray[np.float64], *, tolerance: float = 0.0) -> npt.NDArray[np.bool_]:
    """Tell which groups teach anything: those whose best and worst rewards are more than `tolerance` apart.

    Args:
        rewards: [N, G] finite; G >= 2.
        tolerance: 0 or more, in the rewards' unit. Divided by its deviation, a group that differs by rounding alone
            would push as hard as any other; a tolerance above the rewards' noise silences it.

    Returns:
        [N] bool.

    Raises:
        ValueError: If `rewards` is not [N, G] with G >= 2 or holds a value that is not finite, or if `tolerance` is
            negative.
    """
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(f"rewards: expected shape [N, G] with G >= 2, got {rewards.shape}; raise group_size")
    if not np.isfinite(rewards).all():
        raise ValueError(f"rewards: expected finite values, got {rewards[~np.isfinite(rewards)][0]}; check the reward")
    if not tolerance >= 0:
        raise ValueError(f"tolerance: expected 0 or more, got {tolerance}")
    return np.asarray(np.ptp(rewards, axis=1) > tolerance)
