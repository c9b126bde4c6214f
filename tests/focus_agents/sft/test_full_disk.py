"""Stage 1 on a disk that is full: what is lost, what is kept, and what a person reads; in this process."""

from __future__ import annotations

import errno
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from focus_agents.errors import CheckpointError, TrainingError
from focus_agents.runs.folder import RunDirectory
from focus_agents.sft import outcome, worker
from focus_agents.sft.train import train_sft
from focus_env.errors import StorageError
from tests.focus_agents.sft.runs import IN_PROCESS, largest_difference, make_plan, metrics, train

STEPS = {"num_steps": 4, "checkpoint_interval": 1}


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_logs_checkpoints_and_answers_are_missed_and_the_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full from the first validation to the second step; the third has room, and the run ends as any other."""
    straight = make_plan(tmp_path / "straight", **STEPS)
    train(straight)
    plan, output = make_plan(tmp_path / "run", **STEPS), io.StringIO()
    step = worker.SFTWorker._step
    real = {name: getattr(RunDirectory, name) for name in ("log", "write_answers")}
    real_save = worker.save_training_state

    def fill_until_the_third(self: worker.SFTWorker, micro_batches: Any) -> dict[str, float]:
        found = step(self, micro_batches)
        if self.progress.step == 3:
            for name, method in real.items():
                monkeypatch.setattr(RunDirectory, name, method)
            monkeypatch.setattr(worker, "save_training_state", real_save)
        return found

    for name in real:
        monkeypatch.setattr(RunDirectory, name, full)
    monkeypatch.setattr(worker, "save_training_state", full)
    monkeypatch.setattr(worker.SFTWorker, "_step", fill_until_the_third)
    summary = train_sft(plan, IN_PROCESS, console=Console(file=output, width=30))
    warnings = sorted(line for line in output.getvalue().splitlines() if line.startswith("warning: "))
    assert [line.split(":")[1] for line in warnings] == [
        " metrics.jsonl cannot be written", " the checkpoint of step 1 cannot be written",
        " the checkpoint of step 2 cannot be written", " validation answers cannot be written",
    ]  # fmt: skip
    assert warnings[1].endswith("; there is none yet, and the training goes on")
    assert summary["num_steps"] == 4
    assert metrics(plan.run_path) == metrics(straight.run_path)[2:]
    assert largest_difference(plan.run_path, straight.run_path) == 0
    assert sorted(path.name for path in (plan.run_path / "checkpoints").iterdir()) == ["final", "step_000004"]


def test_an_outcome_that_cannot_be_written_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said once, without another attempt of the workers; the run goes on from there once there is room."""
    straight, plan = make_plan(tmp_path / "straight", **STEPS), make_plan(tmp_path / "run", **STEPS)
    train(straight)
    with monkeypatch.context() as patch:
        patch.setattr(outcome, "save_policy", lambda folder, *_, **__: (_ for _ in ()).throw(StorageError("full")))
        with pytest.raises(StorageError, match=r"^all steps are done, but the outcome could not be written \(full\)$"):
            train(plan)
    assert (plan.run_path / "checkpoints/step_000004").is_dir()
    assert not (plan.run_path / "summary.json").exists()
    train(plan)
    assert largest_difference(plan.run_path, straight.run_path) == 0
    assert json.loads((plan.run_path / "summary.json").read_text())["num_steps"] == 4


def test_half_a_checkpoint_is_removed_and_the_one_before_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, output, real = make_plan(tmp_path / "run", **STEPS), io.StringIO(), worker.save_training_state

    def save(folder: Path, *arguments: Any) -> None:
        real(folder, *arguments)
        if arguments[-1]["step"] > 2:
            full()

    monkeypatch.setattr(worker, "save_training_state", save)
    train_sft(plan, IN_PROCESS, console=Console(file=output, width=30))
    assert "the checkpoint of step 4 cannot be written: [Errno 28] No space left on device; " in output.getvalue()
    assert "; the last one, step_000002, is kept, and the training goes on\n" in output.getvalue()
    assert sorted(path.name for path in (plan.run_path / "checkpoints").iterdir()) == ["final", "step_000002"]


def test_a_state_that_is_not_finite_is_no_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(*_: Any) -> None:
        raise CheckpointError("expected finite weights, got NaN in exp_avg")

    monkeypatch.setattr(worker, "save_training_state", spoilt)
    with pytest.raises(TrainingError, match="got NaN in exp_avg"):
        train(make_plan(tmp_path / "run", **STEPS))
