"""The console that everything prints by: each text is one line, as it is, however narrow the terminal or pipe."""

from __future__ import annotations

import contextlib
import datetime
import threading
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.status import Status
from rich.table import Table

from focus_agents.runs.output import Sturdy

_ANY_WIDTH = 10_000
LINE_SECONDS = 10.0
"""Between two lines that say how far a work is, where nothing can move."""
SHARE_BETWEEN = 0.05
"""The same for a long work, as a share of the time that it has taken so far."""


class Beat:
    """The times at which lines are due that say how far a work is, where nothing can move."""

    def __init__(self) -> None:
        self._started = self._last = time.perf_counter()

    @property
    def passed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._started

    @property
    def pause(self) -> float:
        """Seconds between two lines."""
        return max(LINE_SECONDS, SHARE_BETWEEN * self.passed)

    def is_due(self) -> bool:
        """Return whether a line is due; it counts as printed then."""
        now = time.perf_counter()
        if now - self._last < self.pause:
            return False
        self._last = now
        return True


class PlainConsole(Console):
    """A console whose lines can be found by `grep` and whose paths can be copied.

    A text is printed as it is: no part of it passes for rich's markup or is coloured, and no line is broken or cut.
    Where a terminal is narrower, it shows the line in several rows and copies it as one. A table is laid out for the
    terminal where its words fit in, and else, or into a pipe or a file, as wide as it wants to be.

    Where the output cannot be written, as on a full disk or into a closed pipe, lines are left out and the work goes
    on. Characters that the terminal's encoding lacks are shown as question marks.

    Args:
        options: Of `Console`.
    """

    def __init__(self, **options: Any) -> None:
        self._sturdy: Any = None
        super().__init__(**{"markup": False, "highlight": False, "emoji": False, **options})

    @property
    def file(self) -> IO[str]:
        """The stream that is written to, which raises no error."""
        given: Any = super().file
        if isinstance(given, Sturdy):
            return given  # type: ignore[return-value]
        if self._sturdy is None or self._sturdy.stream is not given:
            self._sturdy = Sturdy(given)
        return self._sturdy

    @file.setter
    def file(self, new: IO[str]) -> None:
        self._file = new

    def status(self, status: Any, **options: Any) -> Status:
        """Show that something takes its time, as `Console` does, by characters that the terminal has."""
        return super().status(status, **{**({} if self.encoding.startswith("utf") else {"spinner": "line"}), **options})

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as `Console` does, nothing broken or cut."""
        tables = [each for each in objects if isinstance(each, Table)]
        if not tables:
            are_texts = all(isinstance(each, str) for each in objects)
            super().print(*objects, **({"soft_wrap": True, **options} if are_texts else options))
            return
        given, width = self._width, self.width
        for each in tables:
            wanted = Measurement.get(self, self.options.update(width=_ANY_WIDTH), each)
            if not self.is_terminal or wanted.minimum > width:
                width = max(width, wanted.maximum)
        try:
            self._width = width
            super().print(*objects, **{"crop": False, **options})
        finally:
            self._width = given


@contextlib.contextmanager
def waiting(console: Console, what: str, *, is_announced: bool = True) -> Iterator[None]:
    """Say that something takes its time: by a spinner on a terminal, and by lines where nothing can move.

    Args:
        console: Where to say so.
        what: What takes it.
        is_announced: Whether there is a line at the start too, or only once it has taken some time.
    """
    if console.is_terminal:
        with console.status(f"{what} ..."):
            yield
        return

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    done, beat = threading.Event(), Beat()

    def go_on_saying() -> None:
        while not done.wait(beat.pause):
            say(f"{what}: {in_time(beat.passed)} so far")

    if is_announced:
        say(f"{what} ...")
    sayer = threading.Thread(target=go_on_saying, daemon=True)
    sayer.start()
    try:
        yield
    finally:
        done.set()
        sayer.join()


def in_time(seconds: float) -> str:
    """Return seconds as in "0:01:20"."""
    return str(datetime.timedelta(seconds=round(seconds)))


def width_of(console: Console) -> int | None:
    """Return the characters of a line of a terminal; None for a pipe or a file, where a line is as long as it is."""
    return console.width if console.is_terminal else None


def fitted(parts: Sequence[tuple[int, str]], width: int | None) -> str:
    """Return a line of those of its parts that fit in, the most important ones first.

    Args:
        parts: In the order of the line, each with its rank and its text with the space before it. 0 is always there.
        width: Of the terminal, in characters; None: all parts are there.
    """
    left = 0 if width is None else width - sum(cell_len(text) for rank, text in parts if rank == 0)
    shown = set()
    for place in sorted(range(len(parts)), key=lambda place: parts[place][0]):
        rank, text = parts[place]
        length = cell_len(text) if rank and width is not None else 0
        if length <= left or not rank or width is None:
            shown.add(place)
            left -= length
    return "".join(text for place, (_, text) in enumerate(parts) if place in shown)
