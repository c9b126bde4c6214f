"""The benchmark of a busy core: what it runs, beside what, and that a side that does otherwise is found."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from benchmarks import busy_core as benchmark

SECONDS = {("ours", "alone"): 1.0, ("peer", "alone"): 1.1, ("ours", "busy"): 1.5, ("peer", "busy"): 6.0}


class PretendedCommands:
    """Writes what a command would, and keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], dict[str, str]]] = []
        self.loss = dict.fromkeys(SECONDS, 0.5)

    def run(self, words: list[str], *, env: dict[str, str], **options: Any) -> Any:
        self.calls.append((words, env))
        side = benchmark.SIDES[(len(self.calls) - 1) % len(benchmark.SIDES)]
        values = {"seconds": SECONDS[side], "groups_per_second": 1 / SECONDS[side], "loss": self.loss[side]}
        flags = dict(itertools.pairwise(words))
        if words[3] == "evaluate":
            file = Path(flags["--output-dir"]) / "answers/small.jsonl"
            lines = [values] * int(flags["--num-episodes"])
        else:
            file = Path(flags["--output-dir"]) / flags["--name"] / "metrics.jsonl"
            counter = "iteration" if words[3] == "grpo" else "step"
            count = int(flags["--num-iterations" if words[3] == "grpo" else "--num-steps"])
            slow = {**values, "seconds": 100.0}  # the first ones
            lines = [{counter: number, **(slow if number <= 3 else values)} for number in range(count + 1)]
        file.parent.mkdir(parents=True)
        file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return SimpleNamespace(returncode=0, stderr="")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> PretendedCommands:
    pretended = PretendedCommands()
    monkeypatch.setattr(benchmark.subprocess, "run", pretended.run)
    monkeypatch.setattr(sys, "argv", ["busy_core.py", "--units", "2", "--rounds", "2"])
    return pretended


def test_a_line_for_each_command(commands: PretendedCommands, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["case"] for line in lines] == ["grpo", "sft", "evaluate"]
    assert [line["unit"] for line in lines] == ["s per iteration", "s per step", "s per episode"]
    for line in lines:
        for (side, place), seconds in SECONDS.items():
            assert line[side][place] == pytest.approx(seconds)
        assert (line["ours"]["slower"], line["peer"]["slower"]) == (1.5, 5.455)
        assert (line["ratio_alone"], line["ratio_busy"]) == (1.1, 4.0)
        assert line["ratio_busy_range"] == [4.0, 4.0]


def test_how_threads_wait_is_left_to_ours_and_told_to_the_peer(
    commands: PretendedCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    benchmark.main()
    assert len(commands.calls) == 3 * 2 * 4
    for number, (words, environment) in enumerate(commands.calls):
        assert words[1:3] == ["-m", "focus_agents"]
        told = {name: environment[name] for name in benchmark.SETTINGS if name in environment}
        assert told == ({"GOMP_SPINCOUNT": "300000"} if number % 2 else {})


def test_a_side_that_does_otherwise_is_found(commands: PretendedCommands) -> None:
    commands.loss["peer", "busy"] = 0.25
    with pytest.raises(AssertionError, match="grpo: the sides differ"):
        benchmark.main()


def test_the_load_keeps_a_core_busy_and_ends() -> None:
    own = psutil.Process(os.getpid())
    before = {child.pid for child in own.children()}
    with benchmark.load("alone"):
        assert {child.pid for child in own.children()} == before
    with benchmark.load("busy"):
        (process,) = [child for child in own.children() if child.pid not in before]
        deadline = time.monotonic() + 60
        while process.cpu_times().user < 0.2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not process.is_running()


def test_a_command_that_fails_is_named(commands: PretendedCommands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        benchmark.subprocess, "run", lambda *words, **options: SimpleNamespace(returncode=1, stderr="error: no room")
    )
    with pytest.raises(RuntimeError, match="focus grpo ended with exit code 1: error: no room"):
        benchmark.main()
