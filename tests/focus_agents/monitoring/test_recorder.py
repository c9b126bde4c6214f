"""What a run writes, and that no place which cannot be written ends it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from focus_agents.errors import CheckpointError
from focus_agents.monitoring import report as report_module
from focus_agents.monitoring.recorder import Recorder
from focus_agents.monitoring.report import ReportSink
from focus_agents.runs.folder import RunDirectory
from focus_env.errors import StorageError
from tests.answers import scored

PICTURE = np.zeros((2, 2, 3), dtype=np.uint8)


class FakeSink:
    """Keeps what it is told, and fails from the call numbered `fails_at` on."""

    def __init__(self, name: str = "fake", *, fails_at: int | None = None) -> None:
        self.name, self.fails_at, self.calls = name, fails_at, list[Any]()

    def _call(self, *call: Any) -> None:
        self.calls.append(call)
        if self.fails_at is not None and len(self.calls) >= self.fails_at:
            raise RuntimeError("the board is gone")

    def log(self, metrics: Mapping[str, float], position: int) -> None:
        self._call("log", dict(metrics), position)

    def show(self, name: str, picture: Any, position: int) -> None:
        self._call("show", name, position)

    def close(self) -> None:
        self._call("close")


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", {"name": "run"})


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=40)


def printed(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_sinks_get_what_is_finite_and_the_folder_all(run: RunDirectory, console: Console) -> None:
    sink = FakeSink()
    recorder = Recorder(run, console, [sink])
    recorder.log({"step": 0, "validation_miou": 0.5})
    recorder.log({"step": 7, "loss": float("nan"), "lr": 1, "grad_norm": float("inf")})
    recorder.show("validation", PICTURE, 7)
    recorder.close()
    assert sink.calls == [
        ("log", {"validation_miou": 0.5}, 0), ("log", {"lr": 1.0}, 7), ("show", "validation", 7), ("close",),
    ]  # fmt: skip
    assert run.read_metrics()[1] == {"step": 7, "loss": None, "lr": 1, "grad_norm": None}
    assert printed(console) == []


def test_a_sink_that_fails_is_left_alone_for_a_while_and_named_once(run: RunDirectory, console: Console) -> None:
    bad, good = FakeSink("the board", fails_at=2), FakeSink()
    recorder = Recorder(run, console, [bad, good])
    for iteration in (1, 2, 3):
        recorder.log({"iteration": iteration, "reward": 0.5})
        recorder.show("validation", PICTURE, iteration)
    recorder.close()
    assert [call[0] for call in bad.calls] == ["log", "show", "show", "close"]
    assert len(good.calls) == 7
    assert len(run.read_metrics()) == 3
    reason = "RuntimeError: the board is gone"
    assert printed(console) == [
        f"warning: the board cannot be written ({reason}); the training goes on, and it is tried again"
    ]


def test_a_sink_that_comes_back_is_shown_what_follows(run: RunDirectory, console: Console) -> None:
    sink = FakeSink(fails_at=1)
    recorder = Recorder(run, console, [sink])
    recorder.log({"iteration": 1, "reward": 0.5})
    sink.fails_at = None
    for iteration in range(2, 8):
        recorder.log({"iteration": iteration, "reward": 0.5})
    recorder.close()
    assert [call[2] for call in sink.calls if call[0] == "log"] == [1, 3, 4, 5, 6, 7]


def test_a_service_that_is_away_for_long_is_asked_ever_less(run: RunDirectory, console: Console) -> None:
    sink = FakeSink(fails_at=1)
    recorder = Recorder(run, console, [sink])
    for iteration in range(1, 300):
        recorder.pass_on({"iteration": iteration, "reward": 0.5})
    assert len(sink.calls) < 12


def test_the_report_is_written_at_the_end_though_the_disk_was_full(
    run: RunDirectory, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(run, console, [ReportSink(run.path)])
    with monkeypatch.context() as patch:
        patch.setattr(report_module, "write_text", lambda *_: (_ for _ in ()).throw(StorageError("full")))
        recorder.log({"iteration": 1, "reward": 0.5})
    recorder.close()
    assert (run.path / "report.html").exists()
    (line,) = printed(console)
    assert line.startswith("warning: report.html cannot be written (StorageError: full)")


def test_a_folder_that_cannot_be_written_is_tried_again(
    run: RunDirectory, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink, log, is_full = FakeSink(), run.log, True

    def full(metrics: Mapping[str, float]) -> None:
        if is_full:
            raise OSError(28, "No space left on device")
        log(metrics)

    monkeypatch.setattr(run, "log", full)
    recorder = Recorder(run, console, [sink])
    recorder.log({"iteration": 1})
    recorder.log({"iteration": 2})
    is_full = False
    recorder.log({"iteration": 3})
    assert run.read_metrics() == [{"iteration": 3}]
    assert len(sink.calls) == 3
    (line,) = printed(console)
    assert line.startswith("warning: metrics.jsonl cannot be written: [Errno 28] No space left on device; the training")


def test_a_name_that_is_not_declared_is_a_fault_of_the_caller(run: RunDirectory, console: Console) -> None:
    with pytest.raises(ValueError, match=r"expected names from runs\.metrics\.METRICS, got \['reword'\]"):
        Recorder(run, console).log({"iteration": 1, "reword": 0.5})


def test_answers_before_training_are_written_as_soon_as_there_is_room(
    run: RunDirectory, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them, no run is gone on with."""
    recorder, answers = Recorder(run, console), [scored(0.5)]
    with monkeypatch.context() as patch:
        patch.setattr(run, "write_answers", lambda *_: (_ for _ in ()).throw(StorageError("full")))
        assert not recorder.answers("before", answers)
        recorder.log({"iteration": 0})
    assert not (run.path / "validation/before.jsonl").exists()
    recorder.log({"iteration": 1})
    assert run.read_answers("before") == answers
    assert printed(console) == ["warning: validation answers cannot be written: full; the training goes on without"]


def test_a_checkpoint_without_room_is_told_each_time_and_another_fault_of_it_ends_the_run(
    run: RunDirectory, console: Console
) -> None:
    recorder = Recorder(run, console)

    def fail(error: Exception) -> None:
        raise error

    for step in (1, 1, 2):
        kept = "there is none yet"
        assert not recorder.checkpoint(f"step {step}", lambda: fail(StorageError("full")), kept=kept)
    assert recorder.checkpoint("step 3", lambda: None, kept="")
    assert printed(console) == [
        f"warning: the checkpoint of step {step} cannot be written: full; there is none yet, and the training goes on"
        for step in (1, 2)
    ]
    with pytest.raises(CheckpointError, match="expected finite weights"):
        recorder.checkpoint("step 4", lambda: fail(CheckpointError("expected finite weights")), kept="")
