"""Help texts, which are made from the arguments' fields; and the environment of what a command starts."""

from __future__ import annotations

import importlib
import os
import re

import pytest
from ray._private import ray_constants

from focus_agents.cli.command_line import parse, quiet_libraries
from tests.focus_agents.cli.commands import run


@pytest.mark.parametrize("script", ["run_sft.py", "run_grpo.py", "evaluate.py", "benchmark_rewards.py"])
def test_help_explains_each_flag(script: str) -> None:
    result = run(script, "--help")
    assert result.returncode == 0
    flags = re.findall(r"│ (--[a-z-]+)", result.stdout)
    assert len(flags) > 15
    assert result.stdout.count("(default:") >= len(flags)


@pytest.mark.parametrize(("given", "expected"), [(None, "0"), ("7", "7")])
def test_workers_compute_at_this_processs_priority(
    monkeypatch: pytest.MonkeyPatch, given: str | None, expected: str
) -> None:
    """Ray's own default, 15, starves a run beside any other job; a user's word stands."""
    monkeypatch.delenv("RAY_AIR_NEW_OUTPUT", raising=False)
    name = ray_constants.RAY_WORKER_NICENESS
    monkeypatch.setenv(name, "")
    monkeypatch.delenv(name)
    if given is not None:
        monkeypatch.setenv(name, given)
    quiet_libraries()
    assert os.environ[name] == expected


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("sft", ["--lr", "1", "--lr", "1"], "lr: expected once, got it 2 times; leave one out"),
        ("grpo", ["--lr=1e-3", "--lr", "1e-4"], "lr: expected once, got it 2 times"),
        ("grpo", ["--num-iterations", "1", "--num_iterations=2"], "num_iterations: expected once, got it 2 times"),
        ("pretrain", ["--seed", "1", "--lr", "1", "--seed", "1"], "seed: expected once, got it 2 times"),
        ("demo", ["--policy", "center", "--policy", "random"], "policy: expected once, got it 2 times"),
        ("evaluate", ["--batch-size", "1", "--batch-size", "2"], "batch_size: expected once, got it 2 times"),
        ("evaluate", ["--shots", "1", "--shots", "2"], "shots: expected once, with all of its values behind it, got"),
        ("data", ["--verify", "--no-verify"], "verify: expected once, got it 2 times"),
        ("data", ["--inspect", "--inspect"], "inspect: expected once, got it 2 times"),
        ("plot", ["a", "--output", "x", "--output", "y"], "output: expected once, got it 2 times"),
        ("rewards", ["--seeds", "1", "--seeds", "1"], "seeds: expected once, with all of its values behind it"),
        ("convert", ["a", "b", "--from", "coco", "--from=csv"], "source_format: expected once, got it 2 times"),
        ("tensorboard", ["--port", "1", "--port", "2"], "port: expected once, got it 2 times"),
    ],
)
def test_a_flag_that_stands_twice_is_refused(command: str, words: list[str], message: str) -> None:
    """Neither value is lost in silence."""
    arguments = importlib.import_module(f"focus_agents.cli.{command}").Args
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(arguments, None, words=words)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("demo", ["--support", "a", "1,2,3,4", "--support", "b", "1,2,3,4"]),
        ("ablation", ["--seeds", "1", "--output-dir", "a", "--seeds", "2", "--output-dir", "b"]),
    ],
)
def test_one_that_is_meant_to_stand_twice_may(command: str, words: list[str]) -> None:
    parse(importlib.import_module(f"focus_agents.cli.{command}").Args, None, words=words)
