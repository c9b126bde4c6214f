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


def group_ranks(rewards: npt.NDArray[np.float64], *, tolerance: float = 0.0) -> npt.NDArray[np.float64]:
    """Replace rewards by their ranks within the group: the share of the others that an answer beats, a tie half.

    The best of a group then gets the same whether it is a good answer or the least bad one, and near the top a small
    difference counts as much as a large one elsewhere.

    Args:
        rewards: [N, G] as for `group_advantages`.
        tolerance: A group whose rewards lie within this range is one tie; see `has_signal`.

    Returns:
        [N, G] float64 in [0, 1]; each row has the mean 0.5.

    Raises:
        ValueError: As `has_signal`.

    Source: after Dr. Seg (arXiv:2603.00152), which ranks an IoU among those of earlier iterations. A group is its own
    history here: nothing is to be kept, and the rank does not mix easy episodes with hard ones.

    >>> group_ranks(np.array([[0.9, 0.1, 0.9], [0.5, 0.5, 0.5]])).tolist()
    [[0.75, 0.0, 0.75], [0.5, 0.5, 0.5]]
    """
    signal = has_signal(rewards, tolerance=tolerance)
    mine, others = rewards[:, :, None], rewards[:, None, :]
    num_beaten = (mine > others).sum(2) + 0.5 * ((mine == others).sum(2) - 1)
    return np.where(signal[:, None], num_beaten / (rewards.shape[1] - 1), 0.5)


def difficulty_weights(mean_credits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Weigh groups by how far their answers are from right, from 1 where all are to e where none is.

    Args:
        mean_credits: [N] means over the sampled answers of a group, in [0, 1]; see `ScoredAnswer.credit`.

    Returns:
        [N] exp(1 - credit).

    Source: after UniVG-R1 (arXiv:2505.14231), which weighs groups by their mean IoU.
    """
    return np.exp(1 - mean_credits)


def size_weights(
    advantages: npt.NDArray[np.float64], target_shares: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Weigh groups so that small, middling and large objects push equally.

    The groups are binned by the thirds of the targets' sizes, with a bin of its own for absent objects. A group's
    weight is the root mean square of all advantages over that of its bin; in a bin without signal it is 1.

    Args:
        advantages: [N, G].
        target_shares: [N] the target's area as a share of the picture; nan where the object is absent.

    Returns:
        [N] float64.

    Source: after Ground-R1 (arXiv:2505.20272, version 3), whose rewards are compared within and between bins of sizes.
    """
    present = target_shares[~np.isnan(target_shares)]
    thirds = np.quantile(present, [1 / 3, 2 / 3]) if len(present) else np.zeros(2)
    # The boundary belongs to the upper bin; nan sorts behind all numbers, and would share a bin with the large.
    bins = np.where(np.isnan(target_shares), 3, np.searchsorted(thirds, target_shares, side="right"))
    weights = np.ones(len(advantages))
    size = np.sqrt(np.square(advantages).mean())
    for number in range(4):
        own = bins == number
        if advantages[own].any():
            weights[own] = size / np.sqrt(np.square(advantages[own]).mean())
    return weights
