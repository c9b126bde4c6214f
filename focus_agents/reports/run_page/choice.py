"""Choose the parts of a run that are shown, so that a page stays small however long the run was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from focus_env.metrics import ScoredAnswer

MOST_ITERATIONS = 8
MOST_GROUPS = 6
"""Groups of an iteration."""
MOST_POSITIONS = 12
"""Validations."""
NUM_FIXED, NUM_WORST = 6, 6
"""Validation episodes: from the front, and those that have lost most."""


def choose_iterations(complete: Sequence[int], last: int | None) -> list[int]:
    """Choose iterations, spread evenly, the first and the last among them.

    Args:
        complete: Iterations of which all answers are kept, in ascending order.
        last: The newest one of which anything is kept.
    """
    chosen = spread(complete, MOST_ITERATIONS - 1)
    return [*chosen, last] if last is not None and last not in chosen else chosen


def choose_positions(positions: Sequence[int]) -> list[int]:
    """Choose validations, spread evenly, the first and the last among them."""
    return spread(positions, MOST_POSITIONS)


def spread(values: Sequence[int], most: int) -> list[int]:
    """Return at most so many of some values, evenly, with both ends.

    >>> spread([1, 2, 3, 4, 5, 6, 7], 3)
    [1, 4, 7]
    """
    if len(values) <= most:
        return [*values]
    places = np.linspace(0, len(values) - 1, most).round().astype(int)
    return [values[place] for place in dict.fromkeys(places.tolist())]


def choose_groups(groups: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Choose groups of each iteration: the worst ones by mean reward, one of the middle, and the best one."""
    chosen: list[Mapping[str, Any]] = []
    by_iteration: dict[int, list[Mapping[str, Any]]] = {}
    for group in groups:
        by_iteration.setdefault(int(group["iteration"]), []).append(group)
    for found in by_iteration.values():
        ranked = sorted(found, key=lambda group: group.get("mean_reward") or 0.0)
        if len(ranked) > MOST_GROUPS:
            ranked = [*ranked[: MOST_GROUPS - 2], ranked[len(ranked) // 2], ranked[-1]]
        chosen += ranked
    return chosen


def choose_episodes(before: Sequence[ScoredAnswer], now: Sequence[ScoredAnswer]) -> list[int]:
    """Choose places of validation episodes: the first ones, and those that have lost most or are answered worst."""
    number = min(len(before), len(now))
    fixed, rest = range(min(NUM_FIXED, number)), range(NUM_FIXED, number)
    ranked = sorted(rest, key=lambda place: (now[place].credit - before[place].credit, now[place].credit, place))
    return [*fixed, *ranked[:NUM_WORST]]
