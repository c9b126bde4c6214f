"""Progress in the terminal."""

from __future__ import annotations

import contextlib
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
)
from rich.text import Text

from focus_agents.runs.terminal import Beat, in_time
from focus_env.metrics import ScoredAnswer
from focus_env.units import find_unit


class RateColumn(ProgressColumn):
    """The number of items done in a second, of late.

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


class Pace:
    """The time that a work still takes, by the time that each of its parts has taken so far.

    Args:
        first: Of its parts, how many were done before.
        total: All of them; None: nobody knows.
        console: Where lines go that say so; a terminal has a bar.
        from_first: Count from the end of the first part on, since what comes before it is not paid again: the start of
            processes, the loading of a model, the compilation of its kernels.
    """

    def __init__(self, first: int, total: int | None, console: Console, *, from_first: bool = False) -> None:
        self._total, self._is_needed, self._reached = total, not console.is_terminal, first
        self._since = None if from_first else (time.perf_counter(), first)
        self._seconds_each: float | None = None

    def reach(self, done: int) -> None:
        """Note how many parts are done. Fewer than before: the work has gone back, and is timed from there."""
        if done == self._reached:
            return
        now = time.perf_counter()
        if self._since is None or done < self._reached:
            self._since = (now, done)
        else:
            started, first = self._since
            self._seconds_each = (now - started) / (done - first)
        self._reached = done

    def seconds_left(self, done: int) -> float | None:
        """Return the seconds that are left after so many parts; None if too few of them were timed."""
        if self._seconds_each is None or self._total is None:
            return None
        return self._seconds_each * max(0, self._total - done)

    def left(self, done: int) -> str:
        """Return what a line ends with after so many parts: the time left, as in "  1:02:03 left"."""
        if not self._is_needed:
            return ""
        self.reach(max(done, self._reached))  # lines that come late do not go back
        if (seconds := self.seconds_left(done)) is None:
            return ""
        return f"  {in_time(seconds)} left"


class LeftColumn(ProgressColumn):
    """The time left in a bar, as `Pace` has it; rich's own forgets parts that take longer than half a minute.

    Args:
        pace: Of the work.
    """

    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self._pace = pace

    def render(self, task: Task) -> Text:
        """Draw it."""
        seconds = self._pace.seconds_left(int(task.completed))
        shown = "-:--:--" if seconds is None else in_time(seconds)
        return Text(shown, style="progress.remaining")


@contextlib.contextmanager
def progress_bar(
    label: str,
    total: int | None,
    console: Console,
    *,
    unit: str | None = None,
    first: int = 0,
    pace: Pace | None = None,
    has_lines: bool = False,
) -> Iterator[Callable[[int], None]]:
    """Show a bar at the bottom of the terminal, with lines above it; yields what moves it to a number done.

    In a pipe or a file, where nothing moves, a line now and then says the number done; so does the bar without a total.

    Args:
        label: Says what is counted.
        total: All of it.
        console: Where the bar is.
        unit: What is counted, such as "pictures", if the bar is to say how many a second.
        first: How many were done before.
        pace: For the time that is left; None: counted from the end of the first on.
        has_lines: Whether the caller prints lines of its own that say how far it is, so that a pipe needs no others.
    """
    pace = pace or Pace(first, total, console, from_first=True)
    columns = (
        TextColumn(label),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        LeftColumn(pace),
        *([] if unit is None else [RateColumn(unit)]),
    )
    beat, of = Beat(), "" if total is None else f" of {total:,}"
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=total, completed=first)

        def move_to(done: int) -> None:
            if not progress.disable:
                pace.reach(done)
                progress.update(task, completed=done)
            elif not has_lines:
                pace.reach(max(done, first))
                if beat.is_due():
                    console.print(f"{label}: {done:,}{of}{pace.left(done)}", highlight=False)

        yield move_to


@contextlib.contextmanager
def runs_progress(total: int, num_done: int, console: Console) -> Iterator[Callable[[Path], None]]:
    """Show a bar over whole runs; what it yields takes the folder of one that is done, and prints it with the time."""
    started = time.perf_counter()
    done = itertools.count(num_done + 1)
    pace = Pace(num_done, total, console)  # a run's own start is a part of each of them
    with progress_bar("runs", total, console, first=num_done, pace=pace, has_lines=True) as move_to:

        def on_done(folder: Path) -> None:
            move_to(number := next(done))
            console.print(f"{time.perf_counter() - started:>7.0f} s  {folder.name}{pace.left(number)}", highlight=False)

        yield on_done


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
