from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

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
