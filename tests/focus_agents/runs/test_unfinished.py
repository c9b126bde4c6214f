"""A run that is gone on with on a full disk: it removes what killed writers left before it writes anything."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest

from focus_agents.runs import folder
from focus_agents.runs.folder import RunDirectory
from focus_env.errors import StorageError
from tests.kills import in_a_child


def test_scratch_goes_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory.create(tmp_path / "run", {"name": "run"})
    left = [
        run.checkpoints / ".step_000004-unfinished/fresh/weights",
        run.checkpoints / ".final-unfinished/fresh/weights",
        run.path / ".config-unfinished.json",
        run.path / "samples/.validation-unfinished-1.png",
        run.path / "validation/.after-unfinished.jsonl",
    ]
    for file in left:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("half")

    def note_code(self: RunDirectory, *used: object) -> list[str]:
        assert not [path for path in self.path.rglob("*") if "-unfinished" in path.name]
        return []

    monkeypatch.setattr(folder, "hold_folder", lambda path: None)
    monkeypatch.setattr(RunDirectory, "note_code", note_code)
    RunDirectory.open(run.path, {}, is_resumed=True, warn=print)


def test_going_back_to_a_checkpoint_needs_no_room(tmp_path: Path) -> None:
    """No file may grow or be made beyond 100 bytes here, as on a disk that is full."""

    def rewind(run: RunDirectory) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        with pytest.raises(StorageError, match="could not be written"):
            run.log({"iteration": 101})
        run.rewind(90, counter="iteration")

    run = RunDirectory.create(tmp_path / "run", {"name": "run"})
    for iteration in range(1, 101):
        run.log({"iteration": iteration, "reward": 0.5})
    in_a_child(rewind)(run)
    assert [line["iteration"] for line in run.read_metrics()] == list(range(1, 91))
    run.log({"iteration": 91, "reward": 0.5})
    assert (run.path / "metrics.csv").read_text().count("\n") == 92
