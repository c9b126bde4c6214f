"""Checkpoints of stage 1 that are damaged, in this process."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import pytest
import ray.train
from rich.console import Console

from focus_agents.errors import CheckpointError, TrainingError
from focus_agents.runs.folder import RunDirectory
from focus_agents.sft import worker
from focus_agents.sft.plan import SFTPlan
from focus_agents.sft.train import SNAPSHOT_FILE, check_checkpoints, train_sft
from tests.focus_agents.sft.runs import IN_PROCESS, largest_difference, make_plan, metrics, train

STEPS = {"num_steps": 4, "checkpoint_interval": 1}


class Killed(BaseException):
    """What ends a run after a checkpoint."""


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SFTPlan:
    """A run that was killed after its third step, with all of its checkpoints."""
    plan = make_plan(tmp_path / "run", **STEPS)

    def report(metrics: Any) -> None:
        if (plan.run_path / "checkpoints/step_000003").exists():
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(ray.train, "report", report)
        with pytest.raises((Killed, TrainingError)):
            train(plan)
    return plan


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_the_newest_is_cut_and_so_is_rays_record(killed: SFTPlan, tmp_path: Path) -> None:
    """The run goes on from the one before, says so, and ends as one that nothing happened to."""
    straight = make_plan(tmp_path / "straight", **STEPS)
    train(straight)
    checkpoints = killed.run_path / "checkpoints"
    cut(checkpoints / "step_000003/optimizer.pt")
    (checkpoints / SNAPSHOT_FILE).write_text('{"ray_version": "2.6')
    output = io.StringIO()
    train_sft(killed, IN_PROCESS, console=Console(file=output, width=1000))
    assert "step_000003: could not be read" in output.getvalue()
    assert "going on from step_000002" in output.getvalue()
    assert metrics(killed.run_path) == metrics(straight.run_path)
    assert largest_difference(killed.run_path, straight.run_path) == 0


def test_what_is_needed_stays(killed: SFTPlan) -> None:
    """The newest whole one, the one before it, and the best; a damaged one stays where it is."""
    run = RunDirectory(killed.run_path)
    shutil.copytree(run.checkpoints / "step_000003", run.checkpoints / "step_000004")
    cut(run.checkpoints / "step_000004/parameters.safetensors")
    check_checkpoints(run, Console(file=io.StringIO()))
    assert sorted(path.name for path in run.checkpoints.glob("step_*")) == ["step_000002", "step_000003", "step_000004"]


def test_nothing_but_damaged_ones(killed: SFTPlan) -> None:
    for folder in (killed.run_path / "checkpoints").glob("step_*"):
        (folder / "progress.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"step_000003: could not be read .*; no other checkpoint is left, so start"
    ):
        train(killed)


def test_weights_that_are_not_finite_end_the_run_before_they_are_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an attempt by every new worker to do the same again."""
    saved, checkpoints = list[str](), tmp_path / "run/checkpoints"
    monkeypatch.setattr(ray.train, "report", lambda _: saved.extend(path.name for path in checkpoints.glob("step_*")))
    real = worker.SFTWorker._step

    def spoil(self: worker.SFTWorker, micro_batches: Any) -> dict[str, float]:
        found = real(self, micro_batches)
        if self.progress.step == 2:
            next(iter(self.parameters.values())).data.view(-1)[0] = float("nan")
        return found

    monkeypatch.setattr(worker.SFTWorker, "_step", spoil)
    with pytest.raises(TrainingError, match=r"step_000002: expected finite weights, got NaN or infinity in "):
        train(make_plan(tmp_path / "run", **STEPS))
    assert saved == ["step_000001"]
    assert not (tmp_path / "run/checkpoints/final").exists()
