"""The learning rate over a training."""

from __future__ import annotations


def lr_factor(step: int, *, num_steps: int, warmup: float, cooldown: float, lr_end: float) -> float:
    """Share of the peak learning rate at a step: a linear rise, a plateau, a linear fall.

    Args:
        step: From 0.
        num_steps: Of the whole training; beyond it the last share stays.
        warmup: Share of the steps in which it rises; the first step is never 0.
        cooldown: Share of the steps, at the end, in which it falls.
        lr_end: Where it falls to, as a share of its peak.

    >>> [lr_factor(step, num_steps=8, warmup=0.25, cooldown=0.5, lr_end=0.2) for step in (0, 1, 4, 5, 8)]
    [0.5, 1.0, 1.0, 0.8, 0.2]
    """
    num_warmup = max(1, round(warmup * num_steps))
    if step < num_warmup:
        return (step + 1) / num_warmup
    num_cooldown = round(cooldown * num_steps)
    num_left = max(0, num_steps - step)
    if num_left > num_cooldown or num_cooldown == 0:
        return 1.0
    return lr_end + (1 - lr_end) * num_left / num_cooldown


MAX_BAD_STEPS = 5
"""So many steps in a row whose loss or gradient is not finite end a training, in either stage."""


def check_schedule(warmup: float, cooldown: float, lr_end: float) -> None:
    """Check the shares of a schedule.

    Raises:
        ValueError: If one is out of its range.
    """
    if not 0 <= lr_end <= 1:
        raise ValueError(f"lr_end: expected a share of the peak from 0 to 1, got {lr_end}")
    if not (warmup >= 0 and cooldown >= 0 and warmup + cooldown <= 1):
        raise ValueError(
            f"warmup, cooldown: expected shares of the steps that add up to at most 1, got {warmup} and {cooldown}"
        )
