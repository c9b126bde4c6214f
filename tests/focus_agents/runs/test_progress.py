"""The time that is left: from the end of the first part on, whatever came before it, in lines and in bars."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from focus_agents.runs.progress import Pace, progress_bar, runs_progress
from focus_agents.runs.terminal import PlainConsole


class Clock:
    """Time as a test has it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("focus_agents.runs.progress.time.perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def pipe() -> PlainConsole:
    return PlainConsole(file=io.StringIO(), width=80)


@pytest.mark.parametrize("first", [0, 40])
def test_what_comes_before_the_first_step_is_not_counted(first: int, clock: Clock) -> None:
    """128 s of loading before steps of a second; also of a run that is gone on with."""
    pace = Pace(first, 60, pipe(), from_first=True)
    clock.now = 128.0
    assert pace.left(first) == pace.left(first + 1) == ""
    clock.now = 130.0
    assert pace.left(first + 3) == f"  0:00:{60 - first - 3} left"


def test_lines_that_come_together_tell_one_pace(clock: Clock) -> None:
    pace = Pace(0, 60, pipe(), from_first=True)
    pace.reach(9)
    assert [pace.left(step) for step in (1, 9)] == ["", ""]
    clock.now = 10.0
    pace.reach(19)
    assert [pace.left(step) for step in (10, 19)] == ["  0:00:50 left", "  0:00:41 left"]


def test_a_work_that_goes_back_is_timed_from_there(clock: Clock) -> None:
    """As workers do that start again from a checkpoint, after a minute of loading."""
    pace = Pace(0, 60, pipe(), from_first=True)
    for clock.now, step in ((100.0, 1), (110.0, 11), (200.0, 5), (201.0, 6)):
        pace.reach(step)
    assert pace.left(6) == "  0:00:54 left"


def test_nobody_knows_without_a_total(clock: Clock) -> None:
    pace = Pace(0, None, pipe())
    clock.now = 1.0
    assert (pace.left(5), pace.seconds_left(5)) == ("", None)


@pytest.mark.parametrize("first", [0, 40])
def test_the_bar_counts_from_the_first_step_on(first: int, clock: Clock) -> None:
    """Also where steps take minutes, which rich's own column forgets."""
    console = PlainConsole(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    with progress_bar("SFT", 60, console, first=first) as move_to:
        for clock.now, step in ((0.0, first), (500.0, first + 1), (620.0, first + 2)):
            move_to(step)
    shown = re.findall(rf"{first + 2}/60 \S+ (\S+)", console.file.getvalue())
    minutes = 2 * (60 - first - 2)
    assert shown[-1] == f"{minutes // 60}:{minutes % 60:02}:00"


def test_whole_runs_are_timed_with_their_start(clock: Clock) -> None:
    console = pipe()
    with runs_progress(4, 1, console) as on_done:
        clock.now = 60.0
        on_done(Path("a/iou-seed0"))
    assert console.file.getvalue() == "     60 s  iou-seed0  0:02:00 left\n"
