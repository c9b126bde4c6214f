"""What a person sees of stage 1 while its workers train: each step soon, whatever else takes its time."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from focus_agents.monitoring.recorder import Recorder
from focus_agents.runs.folder import RunDirectory
from focus_agents.runs.terminal import PlainConsole
from focus_agents.sft import following
from focus_agents.sft.following import Follower, describe_steps
from tests.watched_runs import validation

SOON = 10.0
"""Seconds, for a busy machine; an idle one needs half of one."""
STEP = {
    "lm_loss": 1.5, "attention_loss": 0.25, "support_mass": 0.125, "past_margin": 0.5, "examples_per_second": 32.0,
    "skipped_steps": 0,
}  # fmt: skip


class NoAlbum:
    """Draws nothing."""

    def draw_new(self) -> None:
        """Draw nothing."""


class SlowSink:
    """A place that takes its time, as a report or a service on a busy machine does."""

    name = "slow"

    def __init__(self) -> None:
        self.is_free, self.positions = threading.Event(), list[int]()

    def log(self, metrics: Mapping[str, float], position: int) -> None:
        """Wait."""
        self.is_free.wait(60)
        self.positions.append(position)

    def show(self, name: str, picture: Any, position: int) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Do nothing."""


def new_run(path: Path) -> RunDirectory:
    run = RunDirectory.create(path, {"command": "sft"})
    run.write_answers("before", validation(0))
    run.log({"step": 0, "validation_miou": 0.25})
    return run


def follower_of(run: RunDirectory, console: PlainConsole, *sinks: Any, num_steps: int = 30) -> Follower:
    album: Any = NoAlbum()
    return Follower(run, num_steps, console, Recorder(run, console, sinks), album)


def wait_for(text: str, console: PlainConsole) -> None:
    deadline = time.monotonic() + SOON
    while text not in console.file.getvalue():
        assert time.monotonic() < deadline, console.file.getvalue()
        time.sleep(0.01)


def test_steps_appear_while_other_places_are_slow(tmp_path: Path) -> None:
    run, console, sink = new_run(tmp_path / "run"), PlainConsole(file=io.StringIO(), width=200), SlowSink()
    with follower_of(run, console, sink).following():
        wait_for("before: validation mIoU", console)
        for step in range(1, 4):
            run.log({"step": step, **STEP})
            wait_for(f"{step:>5} of 30  LM loss 1.500", console)
        assert sink.positions == []
        sink.is_free.set()
    assert sink.positions == [0, 1, 2, 3]
    assert console.file.getvalue().count("LM loss") == 3


def test_a_run_that_is_gone_on_with_shows_nothing_anew(tmp_path: Path) -> None:
    run, console = new_run(tmp_path / "run"), PlainConsole(file=io.StringIO(), width=200)
    for step in (1, 2, 3):
        run.log({"step": step, **STEP})
    (run.checkpoints / "step_000003").mkdir(parents=True)
    follower = follower_of(run, console)
    assert follower.look() == 3
    run.log({"step": 4, **STEP})
    assert follower.look() == 4
    (line,) = console.file.getvalue().splitlines()
    assert line.startswith("    4 of 30  LM loss")


def test_steps_that_restarted_workers_take_again_are_shown_again(tmp_path: Path) -> None:
    run, console = new_run(tmp_path / "run"), PlainConsole(file=io.StringIO(), width=200)
    follower = follower_of(run, console)
    for step in (1, 2, 3):
        run.log({"step": step, **STEP})
    assert follower.look() == 3
    run.rewind(1, counter="step")
    assert follower.look() == 1
    for step in (2, 3, 4):
        run.log({"step": step, **STEP, "lm_loss": 2.0})
    assert follower.look() == 4
    steps = [line.split()[0] for line in console.file.getvalue().splitlines() if "LM loss" in line]
    assert steps == ["1", "2", "3", "2", "3", "4"]


def test_time_left_does_not_count_what_comes_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("focus_agents.runs.progress.time.perf_counter", lambda: now[0])
    run, console = new_run(tmp_path / "run"), PlainConsole(file=io.StringIO(), width=200)
    follower = follower_of(run, console)
    for now[0], steps in ((0.0, ()), (128.0, range(1, 10)), (129.0, (10,)), (139.0, range(11, 21))):
        for step in steps:
            run.log({"step": step, **STEP})
        follower.look()
    lines = [line for line in console.file.getvalue().splitlines() if "LM loss" in line]
    assert not any(" left" in line for line in lines[:9])
    assert lines[9].endswith("  0:00:20 left")
    assert lines[19].endswith("  0:00:10 left")


@pytest.mark.parametrize("width", [20, 40, 60, 80, None])
def test_a_line_fits_the_terminal_and_is_whole_elsewhere(width: int | None) -> None:
    window = [{"step": 12, **STEP, "validation_miou": 0.5}]
    line = describe_steps(window, total=30, width=width)
    assert line.startswith("   12 of 30")
    if width is None:
        assert line == (
            "   12 of 30  LM loss 1.500  attention loss 0.250  S 0.12  past margin  50%    32 examples/s"
            "  validation mIoU 0.500"
        )
    else:
        assert len(line) <= width
        assert ("validation mIoU 0.500" in line) == (width >= 40)
        assert ("LM loss" in line) == (width >= 60)


def test_files_are_looked_at_often_enough() -> None:
    assert following.POLL_SECONDS <= 0.5
