"""Help texts, which are made from the arguments' fields."""

from __future__ import annotations

import re

import pytest

from tests.focus_agents.cli.commands import run


@pytest.mark.parametrize("script", ["run_sft.py", "run_grpo.py", "evaluate.py", "benchmark_rewards.py"])
def test_help_explains_each_flag(script: str) -> None:
    result = run(script, "--help")
    assert result.returncode == 0
    flags = re.findall(r"│ (--[a-z-]+)", result.stdout)
    assert len(flags) > 15
    assert result.stdout.count("(default:") >= len(flags)
