"""Warnings of real runs: each is made to happen by the settings that lead to it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from rich.console import Console

from focus_agents.cli import grpo
from focus_agents.cli.command_line import parse
from focus_agents.grpo.train import train_grpo
from focus_agents.runs.files import read_json_lines
from focus_agents.runs.folder import RunDirectory
from focus_env.rewards.answers import AnswerBatch

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

SMALL = [
    "--num-validation-episodes", "4", "--groups-per-iteration", "4", "--rollout-batch-groups", "4", "--group-size", "4",
    "--checkpoint-interval", "0",
]  # fmt: skip


def area(answers: AnswerBatch) -> npt.NDArray[np.float64]:
    """[N] a reward that pays for large boxes, whatever is in them."""
    sizes = (answers.boxes[:, 2:] - answers.boxes[:, :2]) / answers.image_wh
    return np.nan_to_num(sizes.prod(axis=1))


def train(folder: Path, *words: str) -> tuple[list[str], dict[str, Any], str]:
    """The kinds of warnings of a run, its summary and what it has printed."""
    args = parse(grpo.Args, None, words=[*SMALL, *words])
    plan, config = grpo.check_arguments(args)
    run, console = RunDirectory.create(folder, {"name": "run"}), Console(file=io.StringIO(), width=40)
    summary = train_grpo(config, plan.schedule, run, plan.validation_episodes, console=console)
    kept = read_json_lines(folder / "warnings.jsonl")
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert summary["warnings"] == kept
    assert [f"warning: {line['message']}" for line in kept] == [
        line for line in shown.splitlines() if line.startswith("warning: ")
    ]
    return [line["kind"] for line in kept], summary, shown


def test_a_reward_that_tells_nothing_apart(tmp_path: Path) -> None:
    kinds, _, shown = train(tmp_path / "run", "--reward", "format:0.5", "--num-iterations", "3")
    assert sorted(kinds) == ["no_gradient", "silent_groups"]
    assert "format 100%  silent groups 100%  parsed" in shown


def test_answers_that_do_not_fit(tmp_path: Path) -> None:
    kinds, _, _ = train(tmp_path / "run", "--max-completion-tokens", "6", "--num-iterations", "3")
    assert "truncated" in kinds


def test_a_reward_that_pays_for_area(tmp_path: Path) -> None:
    reward = f"{__name__}:area"
    kinds, summary, _ = train(
        tmp_path / "run", "--reward", f"{reward}:1", "--num-iterations", "25", "--lr", "3e-3", "--cooldown", "0.1"
    )
    assert "whole_image" in kinds
    assert summary["miou_gain"] < 0


def test_a_good_run_is_left_in_peace(tmp_path: Path) -> None:
    kinds, _, _ = train(tmp_path / "run", "--num-iterations", "10")
    assert kinds == []
