"""`focus sft`: what it leaves behind, what its flags do, and what it says to wrong arguments."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from focus_agents.cli.command_line import flat, restore_arguments
from focus_agents.runs.folder import RunDirectory
from focus_env.boxes import CoordinateFrame
from focus_env.datasets.transforms import ShuffledSupports
from focus_env.prompts import get_template
from tests.focus_agents.cli.commands import NEW_FLAGS, assert_run_folder, assert_shuffled_scenes_of_four, main_error
from tests.places import load_experiment


@pytest.mark.e2e
def test_sft(sft_run: Path) -> None:
    summary = assert_run_folder(sft_run, num_lines=80)
    assert summary["parse_rate_start"] == 0
    assert summary["parse_rate_end"] > 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-steps", "0"], "--num-steps: expected 1 or more, got 0"),
        (["--lr", "0"], "lr: expected more than 0, got 0"),
        (["--batch-size", "0"], "--batch-size: expected 1 or more, got 0"),
        (["--preset", "poster"], "poster"),
        (["--template", "long"], "unknown prompt template 'long'; known are default, compact, questions, iploc"),
        (["--frame", "inches"], "inches"),
        (["--num-objects", "0"], "num-objects: expected 1 or more, got 0"),
        (["--init-from", "runs/nothing/here"], "runs/nothing/here': there is no such folder; expected one of"),
        (["--labels", "none"], "none"),
        (["--beta", "-1"], "beta: expected 0 .* got -1"),
        (["--attention-layers", "8"], "attention layers '8': expected numbers from 0 to 4"),
        (["--num-workers", "33"], "--num-workers: expected at most batch_size, 32"),
        (["--patience", "2", "--validation-interval", "0"], "patience: early stopping needs validations"),
        (["--resume", "runs/nothing"], "runs/nothing"),
        pytest.param(
            ["--use-gpu"],
            "no CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
    ],
)
def test_sft_names_a_wrong_argument(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = main_error("run_sft", arguments, capsys)
    assert re.search(message, error), error


def test_a_run_is_not_resumed_without_workers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It would start from the beginning, over the interrupted run's files."""
    (tmp_path / "checkpoints/step_000100").mkdir(parents=True)
    (tmp_path / "config.json").write_text("{}")
    error = main_error("run_sft", ["--resume", str(tmp_path), "--num-workers", "0"], capsys)
    assert "--num-workers: expected 1 or more with --resume, got 0" in error


def test_presets_are_defaults_that_other_flags_change() -> None:
    run_sft = load_experiment("run_sft")
    small = run_sft.parse_arguments([])
    assert (small.model.model, small.loss.beta, small.loss.attention_target, small.loss.labels) == (
        "focus-small-base", 2.0, "region", "answer",
    )  # fmt: skip
    paper = run_sft.parse_arguments(["--preset", "paper", "--beta", "0.3", "--no-dashboard"])
    config, model = paper.config, paper.model
    assert (paper.preset, config.beta, paper.cluster.dashboard) == ("paper", 0.3, False)
    assert (config.margin, config.margin_unit, config.attention_layers) == (0.025, "absolute", "all")
    assert (config.lora_rank, config.lora_alpha, config.lr, config.warmup, config.grad_clip) == (8, 16, 2e-4, 0.03, 0.3)
    assert (paper.data.shots, config.batch_size, config.precision) == (4, 64, "bf16")
    for tokens, budget in ((model.max_image_tokens, 0.3), (model.validation_max_image_tokens, 2.5)):
        assert tokens == int(budget * 1280 * 720 / 28**2)
    assert run_sft.parse_arguments(["--lr", "0.1", "--preset=paper"]).loss.labels == "full"


def test_sft_flags_reach_the_run() -> None:
    run_sft = load_experiment("run_sft")
    plan, _ = run_sft.check_arguments(run_sft.parse_arguments(NEW_FLAGS))
    assert_shuffled_scenes_of_four(plan.training_episodes, plan.validation_episodes)
    assert not plan.config.freeze_vision
    plain, _ = run_sft.check_arguments(run_sft.parse_arguments([]))
    assert not isinstance(plain.training_episodes, ShuffledSupports)
    assert plain.config.freeze_vision


def test_a_resumed_run_asks_in_the_stored_frame(tmp_path: Path) -> None:
    """Which comes back from JSON as a text."""
    run_sft = load_experiment("run_sft")
    args = run_sft.parse_arguments(["--model", "small", "--frame", "norm_1000", "--shuffle-supports"])
    run = RunDirectory.create(tmp_path / "run", flat(args))
    restored = restore_arguments(run_sft.parse_arguments(["--resume", str(run.path)]), run.config(), keep=("run",))
    plan, _ = run_sft.check_arguments(restored)
    assert plan.template == dataclasses.replace(get_template("questions"), frame=CoordinateFrame.NORM_1000)
    assert isinstance(plan.training_episodes, ShuffledSupports)
