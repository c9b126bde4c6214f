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
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from focus_env.metrics import ScoredAnswer
from focus_env.units import find_unit


@contextlib.contextmanager
def progress_bar(label: str, total: int, console: Console) -> Iterator[Callable[[int], None]]:
    """A bar at the bottom of the terminal, while lines are printed above it; yields what moves it to a number done.

    In a pipe or a file, where nothing moves, there is none.
    """
    columns = (
        TextColumn(label),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
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
