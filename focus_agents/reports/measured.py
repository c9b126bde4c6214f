"""Lines of `metrics.jsonl` as curves take them: what is no number that can be drawn is left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from focus_agents.runs.folder import COUNTERS

MOST = 1e300
"""Of a value; sums and differences of larger ones overflow, so they count as not finite."""
MOST_COUNTED = 2**53
"""Of a counter."""


def is_measured(value: object) -> TypeGuard[float]:
    """Return whether a value is a number that can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST


def measured_lines(lines: Sequence[Mapping[str, Any]]) -> tuple[str, list[dict[str, float]]]:
    """Return what of some lines can be drawn.

    Args:
        lines: Of `metrics.jsonl`, as JSON has them.

    Returns:
        The counter of the newest line that has one, "iteration" if none has, and the lines with that counter, each
        with those of its values that are numbers.
    """

    def is_counted(line: Mapping[str, Any], name: str) -> bool:
        return is_measured(line.get(name)) and abs(line[name]) <= MOST_COUNTED

    found = (name for line in reversed(lines) for name in COUNTERS if is_counted(line, name))
    counter = next(found, COUNTERS[0])
    return counter, [
        {name: value for name, value in line.items() if is_measured(value) and math.isfinite(value)}
        for line in lines
        if is_counted(line, counter)
    ]
