"""The console: a text is a line, whatever the width, and a table is whole."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.table import Table

from focus_agents.runs.progress import Pace, progress_bar
from focus_agents.runs.terminal import PlainConsole, waiting
from tests.places import ROOT

PATH = "/a/long path/" + "x" * 150 + "/[red]samples/validation.png"


@pytest.mark.parametrize("is_terminal", [False, True])
@pytest.mark.parametrize("width", [10, 40, 80])
def test_a_text_is_one_line_as_it_is(width: int, is_terminal: bool) -> None:
    console = PlainConsole(file=io.StringIO(), width=width, force_terminal=is_terminal)
    console.print(f"pictures: {PATH}")
    console.print(f"warning: 12 of {PATH} :smile:", style="yellow")
    with console.status("working"):
        console.print("policy: 0.5")
    shown = console.file.getvalue().splitlines()
    assert f"pictures: {PATH}" in shown
    assert any(f"warning: 12 of {PATH} :smile:" in line for line in shown)
    assert any(line.startswith("policy: 0.5") or "policy: 0.5" in line for line in shown)


@pytest.mark.parametrize(("width", "is_terminal"), [(40, True), (40, False), (80, False)])
def test_a_table_loses_no_column_and_breaks_no_figure(width: int, is_terminal: bool) -> None:
    table = Table(title="mIoU")
    for column in range(9):
        table.add_column(f"column{column}", overflow="fold")
    table.add_row(*(f"66.{column}-69.4" for column in range(9)))
    console = PlainConsole(file=io.StringIO(), width=width, force_terminal=is_terminal, color_system=None)
    console.print(table)
    shown = console.file.getvalue()
    assert all(f"column{column}" in shown and f"66.{column}-69.4" in shown for column in range(9))
    assert console.width == width


def test_a_table_that_fits_is_laid_out_for_the_terminal() -> None:
    table = Table()
    table.add_column("text")
    table.add_row("word " * 30)
    console = PlainConsole(file=io.StringIO(), width=40, force_terminal=True, color_system=None)
    console.print(table)
    assert max(map(len, console.file.getvalue().splitlines())) <= 40


def test_nothing_prints_by_another_console() -> None:
    """So that no line is forgotten."""
    for file in (ROOT / "focus_agents").rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
        names = {node.func.id for node in calls if isinstance(node.func, ast.Name)}
        assert "Console" not in names, file


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
@pytest.mark.parametrize("target", ["full disk", "closed pipe"])
def test_work_goes_on_where_nothing_can_be_printed(target: str) -> None:
    code = (
        "import sys\n"
        "from focus_agents.runs.output import guard_output\n"
        "guard_output()\n"
        "from focus_agents.runs.progress import Pace, progress_bar\n"
        "from focus_agents.runs.terminal import PlainConsole\n"
        "console = PlainConsole()\n"
        "with console.status('building'), progress_bar('GRPO', 3, console) as move_to:\n"
        "    for done in range(3):\n"
        "        console.print(f'iteration {done}')\n"
        "        print('own', flush=True)\n"
        "        move_to(done)\n"
        "print('trained', file=sys.stderr)\n"
    )
    reading, writing = os.pipe()
    os.close(reading)
    full = os.open("/dev/full", os.O_WRONLY)
    stdout = full if target == "full disk" else writing
    done = subprocess.run([sys.executable, "-c", code], stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    for descriptor in (full, writing):
        os.close(descriptor)
    lines = done.stderr.splitlines()
    assert (done.returncode, lines[-1]) == (0, "trained"), done.stderr
    (warning,) = lines[:-1]
    assert warning.startswith("warning: the standard output cannot be written (")


@pytest.mark.parametrize("is_closed", [True, False])
def test_a_console_of_the_library_drops_what_its_file_refuses(
    is_closed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    file = Full()
    console = PlainConsole(file=file)
    if is_closed:
        file.close()
    for _ in range(3):
        console.print("iteration 1")
    assert capsys.readouterr().err.count("cannot be written") == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_any_encoding_shows_what_it_can(encoding: str) -> None:
    raw = io.BytesIO()
    console = PlainConsole(file=io.TextIOWrapper(raw, encoding=encoding), force_terminal=True, width=80)
    with console.status("starting Ray"), progress_bar("GRPO", 3, console) as move_to:
        console.print("caf\u00e9 \u2192 \ud800 done")
        move_to(2)
    shown = raw.getvalue().decode(encoding)
    assert " done" in shown
    assert "caf" in shown
    assert ("\u2192" in shown) == (encoding == "utf-8")


class Clock:
    """Time as a test has it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("focus_agents.runs.terminal.time.perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_pipe_is_told_now_and_then_how_far_a_work_is(clock: Clock) -> None:
    """After 10 seconds each, and of a long work after a twentieth of its time."""
    pipe = PlainConsole(file=io.StringIO(), width=80)
    with progress_bar("episodes", 4000, pipe) as move_to:
        for clock.now in range(1201):
            move_to(clock.now)
    lines = pipe.file.getvalue().splitlines()
    assert lines[:2] == ["episodes: 10 of 4,000  1:06:30 left", "episodes: 20 of 4,000  1:06:20 left"]
    gaps = np.diff([int(line.split()[1].replace(",", "")) for line in lines])
    assert set(gaps[:18]) == {10}
    assert 50 <= gaps[-1] <= 60


def test_a_pipe_is_told_a_number_without_a_total(clock: Clock) -> None:
    pipe = PlainConsole(file=io.StringIO(), width=80)
    with progress_bar("pictures", None, pipe) as move_to:
        for clock.now in (0.0, 9.0, 12.0, 13.0):
            move_to(int(clock.now * 100))
    assert pipe.file.getvalue() == "pictures: 1,200\n"


@pytest.mark.parametrize("is_announced", [True, False])
def test_a_pipe_is_told_that_a_wait_goes_on(is_announced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("focus_agents.runs.terminal.LINE_SECONDS", 0.05)
    pipe = PlainConsole(file=io.StringIO(), width=80)
    with waiting(pipe, "validating", is_announced=is_announced):
        deadline = time.monotonic() + 30
        while pipe.file.getvalue().count("so far") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    written = pipe.file.getvalue()
    first, *others = written.splitlines() if is_announced else ["validating ...", *written.splitlines()]
    assert (first, set(others)) == ("validating ...", {"validating: 0:00:00 so far"})
    time.sleep(0.2)
    assert pipe.file.getvalue() == written


def test_a_short_wait_is_not_told() -> None:
    pipe = PlainConsole(file=io.StringIO(), width=80)
    with waiting(pipe, "validating", is_announced=False):
        pass
    assert pipe.file.getvalue() == ""


def test_a_pipe_has_no_bar_and_is_told_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 10.0, 10.0, 10.0, 30.0])
    monkeypatch.setattr("focus_agents.runs.progress.time.perf_counter", lambda: next(now))
    pipe = PlainConsole(file=io.StringIO(), width=80)
    pace = Pace(5, 25, pipe)
    assert pace.left(10) == "  0:00:30 left"
    assert Pace(0, 25, PlainConsole(file=io.StringIO(), force_terminal=True)).left(10) == ""
    with progress_bar("GRPO", 3, pipe, has_lines=True) as move_to:
        move_to(2)
    assert pipe.file.getvalue() == ""
