"""Help texts, which are made from the arguments' fields; and the environment of what a command starts."""

from __future__ import annotations

import os
import re

import pytest
from ray._private import ray_constants

from focus_agents.cli.command_line import quiet_libraries
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
