from __future__ import annotations

import io
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from focus_agents.errors import CheckpointError
from focus_agents.grpo import train
from focus_agents.runs.folder import RunDirectory
from focus_agents.runs.interruption import stop_requests


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_and_the_second_acts(number: signal.Signals) -> None:
    acted: list[int] = []
    announced: list[str] = []
    before = signal.signal(number, lambda signum, frame: acted.append(signum))
    try:
        with stop_requests(announced.append) as stop:
            assert stop.received is None
            os.kill(os.getpid(), number)
            assert (stop.received, announced, acted) == (number, [number.name], [])
            os.kill(os.getpid(), number)
            assert (announced, acted) == ([number.name], [number])
        with stop_requests(announced.append) as stop:
            pass
        os.kill(os.getpid(), number)
        assert (stop.received, acted) == (None, [number, number])
    finally:
        signal.signal(number, before)


def test_outside_the_main_thread_signals_stay_as_they_are() -> None:
    handlers: list[Any] = [signal.getsignal(signal.SIGTERM)]

    def work() -> None:
        with stop_requests(print) as stop:
            handlers.append(signal.getsignal(signal.SIGTERM))
            assert stop.received is None

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers[0] == handlers[1]


class PretendedAlgorithm:
    def __init__(self, *, is_killed: bool) -> None:
        self.is_killed = is_killed

    def save_to_path(self, path: Path) -> None:
        path.mkdir()
        (path / "half").touch()
        if self.is_killed:
            raise SystemExit
        (path / "whole").touch()


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", {})
    train._save(PretendedAlgorithm(is_killed=False), run, 1)
    with pytest.raises(SystemExit):
        train._save(PretendedAlgorithm(is_killed=True), run, 2)
    assert train.newest_checkpoint(run).name == "iteration_000001"
    assert (train.newest_checkpoint(run) / "whole").exists()
    train._save(PretendedAlgorithm(is_killed=False), run, 3)
    assert [path.name for path in run.checkpoints.iterdir()] == ["iteration_000003"]


class DamagedAlgorithm(PretendedAlgorithm):
    """Cannot be restored from its newest checkpoint."""

    def restore_from_path(self, path: Path) -> None:
        if path.name == "iteration_000004":
            raise EOFError("Ran out of input")


def test_a_damaged_checkpoint_of_grpo_falls_back_on_the_one_before(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", {})
    algorithm: Any = DamagedAlgorithm(is_killed=False)
    for iteration in (1, 2, 3, 4):
        run.log({"iteration": iteration})
        if iteration % 2 == 0:
            train._save(algorithm, run, iteration, num_kept=train.NUM_KEPT)
    output = io.StringIO()
    assert train._restore(algorithm, run, Console(file=output, width=1000)) == 2
    assert "iteration_000004: EOFError('Ran out of input'); going on from iteration_000002" in output.getvalue()
    assert [line["iteration"] for line in run.read_metrics()] == [1, 2]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_grpo_that_are_not_finite_are_not_saved(value: float) -> None:
    class Learners:
        def get_weights(self) -> dict[str, Any]:
            return {"default_policy": {"head.weight": np.array([1.0, value], dtype=np.float32)}}

    algorithm: Any = PretendedAlgorithm(is_killed=False)
    algorithm.learner_group = Learners()
    with pytest.raises(CheckpointError, match=r"iteration_000007: expected finite weights, .* in head\.weight"):
        train._check_weights(algorithm, Path("iteration_000007"))
