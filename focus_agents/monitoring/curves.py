"""The data for the rules of warnings: facts of a run, and of its metrics the start and the last lines."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from focus_agents.runs.metrics import METRICS

Line = Mapping[str, float | None]
"""The metrics of an iteration or step; None stands for what is not finite."""

KEPT = 50
"""Lines that are kept of the start, and of the end."""
WINDOW = 20
"""Lines of which a mean is taken."""
FEW = 10
"""Of fewer lines than this, each must be bad."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts of a run that rules need beside its metrics.

    Attributes:
        length: Iterations or steps in all.
        counter: The metric that counts them, "iteration" or "step".
        num_samplers: Processes that sample; 0: the run's own.
        num_learners: Processes that train; 0: the run's own.
        is_async: Whether both work at one time.
        num_validation_episodes: How many a validation has, which says how far chance moves it.
        num_groups: Groups of an iteration, likewise of what is sampled; the answers of a group are much alike.
    """

    length: int
    counter: str = "iteration"
    num_samplers: int = 0
    num_learners: int = 0
    is_async: bool = False
    num_validation_episodes: int = 512
    num_groups: int = 64


class Curves:
    """The curves that rules look at, of constant size however long the run is.

    Args:
        length: Iterations or steps of the whole run.
    """

    def __init__(self, length: int) -> None:
        self.length, self.num_lines = length, 0
        self.start: list[Line] = []
        self.recent: deque[Line] = deque(maxlen=KEPT)
        self.validations: list[tuple[float, Line]] = []
        """Mean IoU of each validation, and the line before which it was made."""
        self.best_miou = -math.inf
        """The highest mean over `WINDOW` lines."""

    def add(self, line: Line) -> None:
        """Take the next line; that of a validation before training counts as a validation alone."""
        is_step = bool(line.get("iteration") or line.get("step"))
        if is_step:
            self.num_lines += 1
            if len(self.start) < KEPT:
                self.start.append(line)
            self.recent.append(line)
            if (mean := self.mean("miou")) is not None and self.num_lines >= WINDOW:
                self.best_miou = max(self.best_miou, mean)
        score = line.get("validation_miou")
        if score is not None:
            self.validations.append((score, self._summary()))

    def _summary(self) -> Line:
        return {name: self.mean(name) for name in ("reward", "loss")}

    @property
    def last(self) -> Line:
        """The last line; empty before the first."""
        return self.recent[-1] if self.recent else {}

    @property
    def num_needed(self) -> int:
        """Lines that a rule wants to see before it speaks."""
        return min(3, self.length)

    def values(self, name: str, count: int = WINDOW) -> list[float]:
        """Return the finite values of a metric in the last `count` lines."""
        found = [line.get(name) for line in list(self.recent)[-count:]]
        return [value for value in found if value is not None and math.isfinite(value)]

    def mean(self, name: str, count: int = WINDOW) -> float | None:
        """Return the mean of these; None if there is none."""
        return float(np.mean(values)) if (values := self.values(name, count)) else None

    def mean_of_start(self, name: str, count: int) -> float | None:
        """Return the mean of a metric over the first lines of the run; None if they do not have it."""
        found = [value for line in self.start[:count] if (value := line.get(name)) is not None and math.isfinite(value)]
        return float(np.mean(found)) if found else None

    def rise(self, name: str, *, first: int = 3, last: int = FEW) -> float | None:
        """Return by how much the last lines' mean exceeds that of the first ones; None while these are the same."""
        start, now = self.mean_of_start(name, first), self.mean(name, min(last, self.num_lines - first))
        if start is None or now is None or self.num_lines < first + self.num_needed:
            return None
        return now - start

    def scatter(self, name: str) -> float:
        """Return the standard deviation of a metric from line to line in the last `KEPT` ones, whatever its course."""
        values = self.values(name, KEPT)
        return math.sqrt(float(np.mean(np.diff(values) ** 2)) / 2) if len(values) > 1 else 0.0

    def lasting(self, name: str) -> float | None:
        """Return the mean of a metric where it is beyond its bounds in `METRICS`, and not by chance; else None.

        Of few lines each must be beyond them, so that a noisy line at the start of a run says nothing.
        """
        values, metric = self.values(name), METRICS[name]
        if len(values) < self.num_needed:
            return None
        mean = float(np.mean(values))
        is_lasting = len(values) >= FEW or all(map(metric.is_outside, values))
        return mean if is_lasting and metric.is_outside(mean) else None
