"""The rows of a run: each is in the file as soon as it is known, and none is begun that there is no time for."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from focus_agents.runs.files import append_json_lines

Row = dict[str, Any]


class TimeBudget:
    """The seconds of a run, and how long its rows take for the work that is counted of them.

    Args:
        seconds: From now on.
        clock: Tells the seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds
        self._seconds_per_flop: dict[str, float] = {}

    @property
    def left(self) -> float:
        """Seconds; below 0 where they are over."""
        return self._end - self._clock()

    def expected(self, kind: str, flops: float) -> float:
        """Return the seconds that a row will take, by the slowest of its kind so far; 0 before the first.

        Small rows take longer for an operation than large ones, so that this is rather too much.

        Args:
            kind: As in "speed/ours". Before the first of a kind, the slowest that begins with "speed/" tells.
            flops: What is counted of its work.
        """
        known, family = self._seconds_per_flop, kind.partition("/")[0]
        alike = [rate for other, rate in known.items() if other.partition("/")[0] == family]
        return flops * known.get(kind, max(alike, default=0.0))

    def took(self, kind: str, flops: float, seconds: float) -> None:
        """Note a row that is done."""
        self._seconds_per_flop[kind] = max(self._seconds_per_flop.get(kind, 0.0), seconds / max(flops, 1.0))

    def spend(self, kind: str, flops: float, work: Callable[[], Sequence[Row]]) -> list[Row]:
        """Do the work of some rows, or say why they have no figures: too little time or memory, or an error.

        Args:
            kind: Of the rows, as for `expected`.
            flops: What is counted of their work.
            work: Returns the rows.
        """
        expected, left = self.expected(kind, flops), self.left
        if left <= 0 or expected > left:
            return [{"status": "left out", "reason": f"about {expected:.0f} s of work, {max(0.0, left):.0f} s left"}]
        start = self._clock()
        try:
            return list(work())
        except torch.OutOfMemoryError:
            return [{"status": "out of memory"}]
        except Exception as error:  # whatever a card or someone else's trainer does, the other rows are wanted
            return [{"status": "failed", "reason": f"{type(error).__name__}: {error}"[:500]}]
        finally:
            self.took(kind, flops, self._clock() - start)


def free_memory() -> None:
    """Give back what a row has held that came to its end by an error."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Writer:
    """Adds rows to a file of JSON lines, each with what all have in common, and keeps them for the table."""

    def __init__(self, path: Path, common: Mapping[str, Any]) -> None:
        self.path, self.common = path, common
        self.rows: list[Row] = []

    def add(self, rows: Sequence[Row], **facts: Any) -> None:
        """Write rows with further facts of them."""
        whole = [{**facts, **row} for row in rows]
        append_json_lines(self.path, [{**row, **self.common} for row in whole])
        self.rows += whole
