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
from focus_agents.monitoring.recorder import Recorder
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


def test_a_sink_that_fails_is_left_alone_and_named_once(run: RunDirectory, console: Console) -> None:
    bad, good = FakeSink("the board", fails_at=2), FakeSink()
    recorder = Recorder(run, console, [bad, good])
    for iteration in (1, 2, 3):
        recorder.log({"iteration": iteration, "reward": 0.5})
        recorder.show("validation", PICTURE, iteration)
    recorder.close()
    assert len(bad.calls) == 2
    assert len(good.calls) == 7
    assert len(run.read_metrics()) == 3
    message = "the board shows nothing from here on (RuntimeError: the board is gone); the training goes on"
    assert printed(console) == [f"warning: {message}"]


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
