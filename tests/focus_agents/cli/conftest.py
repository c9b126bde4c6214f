"""What the tests of commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.focus_agents.cli.commands import SMALL, run


@pytest.fixture(scope="session")
def sft_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short supervised run, made once for all commands; its policy answers in the format most of the time."""
    output = tmp_path_factory.mktemp("runs")
    result = run(
        "run_sft.py", "--output-dir", str(output), "--name", "sft", "--num-steps", "80", "--batch-size", "12",
        "--lr", "3e-3", "--no-dashboard", *SMALL,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return output / "sft"
