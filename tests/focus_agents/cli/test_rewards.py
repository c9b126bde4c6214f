"""`focus rewards`: what it says to wrong arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.focus_agents.cli.commands import main_error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rewards", "iou"], "rewards: expected two or more different ones to compare, got ['iou']"),
        (["--rewards", "iou", "iou"], "rewards: expected two or more different ones to compare, got ['iou']"),
        (["--rewards", "iou", "iou:1"], "got 'iou' and 'iou:1', the same reward"),
        (["--rewards", "iou", "--rewards", "giou"], "--rewards: expected once, with all of its values behind it"),
        (["--rewards", "iou", "guoi"], "unknown term 'guoi', did you mean 'giou'?"),
        (["--seeds", "1", "1"], "seeds: expected different numbers"),
        (["--cpus-per-run", "0"], "--cpus-per-run: expected 1 or more, got 0"),
        (["--gpus-per-run", "-1"], "--gpus-per-run: expected 0 or more, got -1"),
        (["--num-iterations", "0"], "--num-iterations: expected 1 or more, got 0"),
        (["--model", "runs/nothing/here"], "model 'runs/nothing/here': there is no such folder; expected one of"),
    ],
)
def test_the_benchmark_of_rewards_names_a_wrong_argument(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = main_error("benchmark_rewards", ["--output-dir", str(tmp_path / "runs"), *arguments], capsys)
    assert message in error, error
    assert not (tmp_path / "runs").exists()
