"""The experiments from their command lines: what they leave behind, and what they say to wrong arguments."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
REAL_FRAMES = Path(os.environ.get("FOCUS_TEST_DATA", ROOT.parent / "shared/data/davis-mini"))
SMALL = ["--image-size", "56", "--num-validation-episodes", "6", "--max-completion-tokens", "26"]


def run(script: str, *arguments: str, timeout: int = 600) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "experiments" / script), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )


def assert_run_folder(folder: Path, *, num_lines: int) -> dict:
    """A run folder holds what `focus_agents.reporting` documents; returns the summary."""
    summary = json.loads((folder / "summary.json").read_text())
    for name in ("miou_start", "miou_end", "parse_rate_end", "seconds"):
        assert np.isfinite(summary[name])
    for name in ("miou_start", "miou_end", "miou_gain"):
        low, high = summary[f"{name}_interval"]
        assert low <= summary[name] <= high
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == num_lines
    assert json.loads((folder / "config.json").read_text())["name"] == folder.name
    with Image.open(folder / "samples/validation.png") as sheet:
        assert sheet.height > 6 * 160
    assert (folder / "checkpoints/final/model.safetensors").is_file()
    return summary


@pytest.fixture(scope="module")
def sft_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short supervised run; its policy answers in the format most of the time."""
    output = tmp_path_factory.mktemp("runs")
    result = run(
        "run_sft.py", "--output-dir", str(output), "--name", "sft", "--num-steps", "80", "--batch-size", "12",
        "--lr", "3e-3", "--no-dashboard", *SMALL,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return output / "sft"


@pytest.mark.e2e
def test_sft(sft_run: Path) -> None:
    summary = assert_run_folder(sft_run, num_lines=80)
    assert summary["parse_rate_start"] == 0
    assert summary["parse_rate_end"] > 0.5


@pytest.mark.e2e
def test_grpo_from_sft_then_resumed(sft_run: Path) -> None:
    """Three iterations at once, or two and, after an interruption, the third: the same numbers."""
    common = [
        "--init-from", str(sft_run / "checkpoints/final"), "--output-dir", str(sft_run.parent), "--group-size", "4",
        "--groups-per-iteration", "4", "--checkpoint-interval", "2", "--no-dashboard", *SMALL,
    ]  # fmt: skip
    straight = run("run_grpo.py", "--name", "straight", "--num-iterations", "3", *common)
    assert straight.returncode == 0, straight.stderr
    assert_run_folder(sft_run.parent / "straight", num_lines=3)
    assert len(re.findall(r"reward .* mIoU .* parsed .* sampling .* learning .* groups/s", straight.stdout)) == 3

    interrupted = run("run_grpo.py", "--name", "interrupted", "--num-iterations", "2", *common)
    assert interrupted.returncode == 0, interrupted.stderr
    folder = sft_run.parent / "interrupted"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_iterations": 3}))
    resumed = run("run_grpo.py", "--resume", str(folder), "--no-dashboard")
    assert resumed.returncode == 0, resumed.stderr
    assert_run_folder(folder, num_lines=3)

    timings = {"seconds", "seconds_sampling", "seconds_learning", "groups_per_second"}
    last = [
        json.loads((sft_run.parent / name / "metrics.jsonl").read_text().splitlines()[-1])
        for name in ("straight", "interrupted")
    ]
    assert {k: v for k, v in last[0].items() if k not in timings} == {
        k: v for k, v in last[1].items() if k not in timings
    }
    answers = [(sft_run.parent / name / "validation/after.jsonl").read_text() for name in ("straight", "interrupted")]
    assert answers[0] == answers[1]


@pytest.mark.e2e
@pytest.mark.skipif(not REAL_FRAMES.is_dir(), reason=f"no real frames at {REAL_FRAMES}; set FOCUS_TEST_DATA")
def test_grpo_on_real_frames(sft_run: Path) -> None:
    result = run(
        "run_grpo.py", "--dataset", "got10k", "--data-root", str(REAL_FRAMES), "--split", "train",
        "--init-from", str(sft_run / "checkpoints/final"), "--output-dir", str(sft_run.parent), "--name", "real",
        "--num-iterations", "2", "--group-size", "4", "--groups-per-iteration", "4", "--no-dashboard",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    summary = json.loads((sft_run.parent / "real/summary.json").read_text())
    assert summary["num_validation_episodes"] == 4
    assert (sft_run.parent / "real/samples/validation.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shots", "0"], "shots must be at least 1, got 0"),
        (["--level", "9"], "level must be one of"),
        (["--split", "trian"], "split must be one of .*got 'trian'"),
        (["--dataset", "coco"], "unknown data set 'coco'; there are synthetic, got10k"),
        (["--dataset", "got10k"], "pass root, the folder where it was unpacked"),
        (["--dataset", "got10k", "--data-root", "/nowhere"], "/nowhere"),
        (["--init-from", "runs/nothing/here"], "model '.*runs/nothing/here': expected 'tiny', a folder"),
        (["--template", "long"], "long"),
        (["--max-image-tokens", "1"], "max_image_tokens: expected at least 4, got 1"),
        (["--reward", "iou:1,beauty:2"], "beauty"),
        (["--group-size", "1"], "group_size: expected 2 or more, got 1"),
        (["--num-iterations", "0"], "num_iterations: expected 1 or more, got 0"),
        (["--lr", "-1"], "lr: expected more than 0, got -1"),
        (["--resume", "runs/nothing"], "runs/nothing"),
    ],
)
def test_grpo_names_a_wrong_argument(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In this process, since it must happen before Ray or a model starts."""
    error = main_error("run_grpo", arguments, capsys)
    assert re.search(message, error), error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-steps", "0"], "num_steps: expected 1 or more, got 0"),
        (["--lr", "0"], "lr: expected more than 0, got 0"),
        (["--batch-size", "0"], "batch_size: expected 1 or more, got 0"),
        (["--preset", "poster"], "poster"),
        (["--labels", "none"], "none"),
        (["--beta", "-1"], "beta: expected 0 .* got -1"),
        (["--attention-layers", "8"], "attention layers '8': expected numbers from 0 to 2"),
        (["--num-workers", "33"], "num_workers: expected at most batch_size, 32"),
        (["--patience", "2"], "patience: early stopping needs validations"),
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
    assert "num_workers: expected 1 or more with --resume, got 0" in error


def test_presets_are_defaults_that_other_flags_change() -> None:
    run_sft = load_experiment("run_sft")
    small = run_sft.parse_arguments([])
    assert (small.model, small.beta, small.attention_target, small.labels) == ("tiny", 2.0, "region", "answer")
    paper = run_sft.parse_arguments(["--preset", "paper", "--beta", "0.3", "--no-dashboard"])
    assert (paper.preset, paper.beta, paper.dashboard) == ("paper", 0.3, False)
    assert (paper.margin, paper.margin_unit, paper.attention_layers) == (0.025, "absolute", "all")
    assert (paper.lora_rank, paper.lora_alpha, paper.lr, paper.warmup, paper.grad_clip) == (8, 16, 2e-4, 0.03, 0.3)
    assert (paper.shots, paper.batch_size, paper.precision) == (4, 64, "bf16")
    for tokens, budget in ((paper.max_image_tokens, 0.3), (paper.validation_max_image_tokens, 2.5)):
        assert tokens == int(budget * 1280 * 720 / 28**2)
    assert run_sft.parse_arguments(["--lr", "0.1", "--preset=paper"]).labels == "full"


def load_experiment(script: str):
    """An experiment as a module."""
    spec = importlib.util.spec_from_file_location(script, ROOT / "experiments" / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[script] = module
    spec.loader.exec_module(module)
    return module


def main_error(script: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What an experiment prints before it exits with code 2 (as a user sees it: without a traceback)."""
    import ray

    module = load_experiment(script)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *arguments])
        with pytest.raises(SystemExit) as exit_info:
            module.main()
    assert exit_info.value.code == 2
    assert not ray.is_initialized()
    return capsys.readouterr().err


@pytest.mark.parametrize("script", ["run_sft.py", "run_grpo.py"])
def test_help_explains_each_flag(script: str) -> None:
    result = run(script, "--help")
    assert result.returncode == 0
    flags = re.findall(r"│ (--[a-z-]+)", result.stdout)
    assert len(flags) > 15
    assert result.stdout.count("(default:") >= len(flags)
