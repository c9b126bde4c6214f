"""Exponents: how a cost grows with a size, as the slope of a line through both logarithms."""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.measuring import take_turn

Measure = Literal["time", "memory", "held"]
"""CPU time of this thread; the most bytes of tensors at a time; bytes of Python's objects that a size has left."""
Step = Callable[[], object]
Make = Callable[[contextlib.ExitStack, int], Step]

TOLERANCE = 0.1
"""By which the whole interval may lie above the largest exponent: rounding of caches and pages."""


@dataclass(frozen=True)
class Axis:
    """A cost that grows with a size.

    Attributes:
        part: The part of `growth.py` that it belongs to.
        work: The work that costs.
        size: The size that grows.
        sizes: In ascending order.
        make: Prepares the work of a size, and returns a step of it; what the stack closes, ends with the axis.
        expected: The least and the largest exponent by measure; what is not named is not measured.
        reason: For these.
        rounds: In which each size is timed once.
        steps: Steps of a turn; its time is divided by them.
    """

    part: str
    work: str
    size: str
    sizes: tuple[int, ...]
    make: Make
    expected: Mapping[Measure, tuple[float, float]]
    reason: str
    rounds: int = 3
    steps: int = 1


@dataclass(frozen=True)
class Slope:
    """An exponent, with the least and the largest of the rounds."""

    middle: float
    low: float
    high: float

    def verdict(self, expected: tuple[float, float]) -> str:
        """Return how it stands to the expected ones; the interval decides, as far as it goes."""
        least, most = expected
        if self.low > most + TOLERANCE:
            return "worse"
        return "better" if self.high < least - TOLERANCE else "as expected"


def exponent(sizes: Sequence[float], amounts: Sequence[float]) -> float:
    """Return the slope of the line of least squares through the logarithms; 2 for amounts that go with the square.

    Raises:
        ValueError: If there are fewer than two sizes, or a number is not above 0.
    """
    if len(set(sizes)) < 2 or len(sizes) != len(amounts):
        raise ValueError(f"sizes: expected two or more, each with an amount, got {list(sizes)} and {list(amounts)}")
    if not all(number > 0 for number in (*sizes, *amounts)):
        raise ValueError(f"amounts: expected numbers above 0, got {list(amounts)} at {list(sizes)}")
    logs = [math.log(size) for size in sizes], [math.log(amount) for amount in amounts]
    return statistics.linear_regression(*logs).slope


def slope_of(sizes: Sequence[int], rounds: Sequence[Sequence[float]]) -> Slope:
    """Return the exponent of the medians, and the range of those of the rounds.

    Args:
        sizes: Of the columns.
        rounds: Of each the amounts by size.
    """
    each = [exponent(sizes, amounts) for amounts in rounds]
    medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
    return Slope(exponent(sizes, medians), min(each), max(each))


def measure_axis(axis: Axis) -> dict[Measure, list[list[float]]]:
    """Return by measure the amounts of each round by size, in ms, MiB and KiB; in a round each size has a turn.

    Memory is measured in one round, which also warms up, since the same steps take the same memory.
    """
    readings: dict[Measure, list[list[float]]] = {name: [] for name in axis.expected}
    if "held" in axis.expected:
        _held(axis, axis.sizes[0])  # fills the caches of whatever is used for the first time
        readings["held"].append([_held(axis, size) for size in axis.sizes])
    with contextlib.ExitStack() as stack:
        steps = {size: axis.make(stack, size) for size in axis.sizes}
        gc.collect()
        gc.freeze()  # each meter collects garbage first, which would go through all that is there
        stack.callback(gc.unfreeze)
        if "memory" in axis.expected:
            readings["memory"].append([max(1e-6, take_turn(step, "memory", "cpu")) for step in steps.values()])
        elif axis.rounds > 1:
            for step in steps.values():
                step()
        for _ in range(axis.rounds if "time" in axis.expected else 0):
            readings["time"].append([_time(step, axis.steps) for step in steps.values()])
    return readings


def _time(step: Step, num_steps: int) -> float:
    def run() -> None:
        for _ in range(num_steps):
            step()

    return take_turn(run, "time", "cpu") / num_steps


def _held(axis: Axis, size: int) -> float:
    """Return KiB of Python's objects that are there when the work of a size is prepared and done."""
    with contextlib.ExitStack() as stack:
        gc.collect()
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        step = axis.make(stack, size)
        step()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] / 2**10
