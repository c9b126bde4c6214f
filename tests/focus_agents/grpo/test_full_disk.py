"""Stage 2 on a disk that is full; the loop alone, its algorithm writes one file as its checkpoint."""

from __future__ import annotations

import errno
import io
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from focus_agents.errors import RunInterrupted
from focus_agents.grpo import train as module
from focus_agents.grpo.settings import GRPOSchedule
from focus_agents.monitoring.recorder import Recorder
from focus_agents.runs.folder import RunDirectory
from tests.answers import scored

METRICS = {
    "reward": 0.5, "miou": 0.25, "format_rate": 0.9, "zero_variance_rate": 0.0, "parse_rate": 0.9,
    "seconds_sampling": 1.0, "seconds_learning": 2.0,
    "groups_per_second": 3.0, "truncated_rate": 0.0, "failed_rate": 0.0, "skipped_episodes": 0.0, "skipped_steps": 0.0,
}  # fmt: skip


ALBUM: Any = SimpleNamespace(add=lambda position, answers: None, draw=lambda position, answers: None)


class Algorithm:
    """Has room for the checkpoints of some iterations; asks for a stop in one."""

    last_groups = ()

    def __init__(self, *, room_at: tuple[int, ...], stop_at: int = 0) -> None:
        self.config = SimpleNamespace(num_iterations=6)
        self.iteration, self.room_at, self.stop_at = 0, room_at, stop_at

    def train(self) -> None:
        self.iteration += 1
        if self.iteration == self.stop_at:
            signal.raise_signal(signal.SIGTERM)

    def validate(self, indices: Any) -> list[Any]:
        return [scored(0.5)]

    def save_to_path(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "half").write_text("half of it")
        if self.iteration not in self.room_at:
            raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.setattr(module, "_check_weights", lambda algorithm, path: None)
    monkeypatch.setattr(module, "_collect_metrics", lambda result, n, **kwargs: {"iteration": n, **METRICS})
    return RunDirectory.create(tmp_path / "run", {"name": "run"})


def iterate(run: RunDirectory, algorithm: Any) -> str:
    """The loop with a checkpoint in every second iteration; returns what the console shows."""
    output = io.StringIO()
    console = Console(file=output, width=30)
    watch: Any = SimpleNamespace(look=lambda answers: None)
    schedule = GRPOSchedule(checkpoint_interval=2, validation_interval=0)
    try:
        recorder = Recorder(run, console)
        module._iterate(
            algorithm, schedule, run, [0], first=0, console=console, watch=watch, recorder=recorder, album=ALBUM
        )
    except RunInterrupted as interruption:
        return f"{output.getvalue()}{interruption.exit_code} {interruption}"
    return output.getvalue()


def checkpoints(run: RunDirectory) -> list[str]:
    return sorted(path.name for path in run.checkpoints.iterdir())


@pytest.mark.parametrize(
    ("room_at", "kept", "told"),
    [
        ((), [], {2: "there is none yet", 4: "there is none yet", 6: "there is none yet"}),
        ((2,), ["iteration_000002"], {4: "the last one, iteration_000002, is kept", 6: "the last one, iteration_"}),
        ((2, 6), ["iteration_000002", "iteration_000006"], {4: "the last one, iteration_000002, is kept"}),
    ],
)  # fmt: skip
def test_the_last_checkpoint_is_kept_and_the_next_is_tried(
    room_at: tuple[int, ...], kept: list[str], told: dict[int, str], run: RunDirectory
) -> None:
    lines = [line for line in iterate(run, Algorithm(room_at=room_at)).splitlines() if line.startswith("warning")]
    assert len(lines) == len(told)
    for line, (iteration, text) in zip(lines, told.items(), strict=True):
        start = (
            f"warning: the checkpoint of iteration {iteration} cannot be written: [Errno 28] No space left on device"
        )
        assert line.startswith(start)
        assert text in line
    assert checkpoints(run) == kept
    assert [line["iteration"] for line in run.read_metrics()] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("room_at", "advice"),
    [
        ((2, 3), "go on with it by `resume` {run}"),
        ((2,), "iteration 2 is what could be saved; make room, then go on by `resume` {run}"),
        ((), "nothing of it could be saved, so make room and start again"),
    ],
)
def test_a_stop_says_what_is_kept(room_at: tuple[int, ...], advice: str, run: RunDirectory) -> None:
    shown = iterate(run, Algorithm(room_at=room_at, stop_at=3))
    assert shown.endswith(f"143 stopped by SIGTERM after iteration 3 of 6; {advice.format(run=run.path)}")
