"""Progress in the terminal."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from focus_env.metrics import ScoredAnswer
from focus_env.units import find_unit


class RateColumn(ProgressColumn):
    """How many of something are done in a second, of late.

    Args:
        unit: What they are.
    """

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        """Return the column's text."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {self._unit}/s")


@contextlib.contextmanager
def progress_bar(
    label: str, total: int | None, console: Console, *, unit: str | None = None
) -> Iterator[Callable[[int], None]]:
    """A bar at the bottom of the terminal, while lines are printed above it; yields what moves it to a number done.

    In a pipe or a file, where nothing moves, there is none. Without a total, it says the number done. With a unit, such
    as "pictures", it says how many a second.
    """
    columns = (
        TextColumn(label),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        *([] if unit is None else [RateColumn(unit)]),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=total)
        yield lambda done: progress.update(task, completed=done)


@contextlib.contextmanager
def runs_progress(total: int, num_done: int, console: Console) -> Iterator[Callable[[Path], None]]:
    """A bar over whole runs; what it yields takes the folder of one that is done, and prints it with the time."""
    started = time.perf_counter()
    done = itertools.count(num_done + 1)
    with progress_bar("runs", total, console) as move_to:
        move_to(num_done)

        def on_done(folder: Path) -> None:
            move_to(next(done))
            console.print(f"{time.perf_counter() - started:>7.0f} s  {folder.name}", highlight=False)

        yield on_done


class Pace:
    """How long a work still takes, for lines where there is no bar to say so.

    Args:
        first: Of its parts, how many were done before.
        total: All of them.
        console: Where the lines go; a terminal has a bar.
    """

    def __init__(self, first: int, total: int, console: Console) -> None:
        self._first, self._total, self._is_needed = first, total, not console.is_terminal
        self._started = time.perf_counter()

    def left(self, done: int) -> str:
        """Return what a line ends with after so many parts: the time left, as in "  1:02:03 left"."""
        if not self._is_needed or done <= self._first:
            return ""
        seconds = (time.perf_counter() - self._started) * (self._total - done) / (done - self._first)
        return f"  {datetime.timedelta(seconds=round(seconds))} left"


class UnitWatch:
    """Says once, in the terminal, that answers fit another unit of coordinates than the one that was asked for.

    Args:
        console: Where to say so.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self.has_said = False

    def look(self, answers: Sequence[ScoredAnswer]) -> None:
        """Look at some answers; see `focus_env.units.find_unit`."""
        if not self.has_said and (hint := find_unit(answers)) is not None:
            self._console.print(f"warning: {hint}", style="yellow", highlight=False, markup=False, soft_wrap=True)
            self.has_said = True
