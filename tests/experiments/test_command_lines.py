"""The experiments from their command lines: what they leave behind, and what they say to wrong arguments."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
REAL_FRAMES = Path(os.environ.get("FOCUS_TEST_DATA", ROOT.parent / "shared/data/davis-mini"))
SMALL = ["--image-size", "56", "--num-validation-episodes", "6", "--max-completion-tokens", "26"]


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "experiments" / script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], timeout: float = 300) -> None:
    """Until a running process has come to a point."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)


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


def grpo_arguments(sft_run: Path, name: str, *, num_iterations: int, checkpoint_interval: int) -> list[str]:
    return [
        "--init-from", str(sft_run / "checkpoints/final"), "--output-dir", str(sft_run.parent), "--name", name,
        "--num-iterations", str(num_iterations), "--checkpoint-interval", str(checkpoint_interval),
        "--group-size", "4", "--groups-per-iteration", "4", "--no-dashboard", *SMALL,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def straight_run(sft_run: Path) -> Path:
    """Six iterations of GRPO at once."""
    arguments = grpo_arguments(sft_run, "straight", num_iterations=6, checkpoint_interval=2)
    result = run("run_grpo.py", *arguments)
    assert result.returncode == 0, result.stderr
    assert len(re.findall(r"reward .* mIoU .* parsed .* sampling .* learning .* groups/s", result.stdout)) == 6
    return sft_run.parent / "straight"


def assert_same_outcome(folder: Path, other: Path) -> None:
    """The same metrics to the last iteration, validation answers and weights."""
    timings = {"seconds", "seconds_sampling", "seconds_learning", "seconds_syncing", "groups_per_second"}
    metrics = [
        [
            {name: value for name, value in json.loads(line).items() if name not in timings}
            for line in (path / "metrics.jsonl").read_text().splitlines()
        ]
        for path in (folder, other)
    ]
    assert metrics[0] == metrics[1]
    for file in ("validation/after.jsonl", "checkpoints/final/model.safetensors"):
        assert (folder / file).read_bytes() == (other / file).read_bytes()


@pytest.mark.e2e
def test_grpo_from_sft_then_resumed(sft_run: Path, straight_run: Path) -> None:
    """Six iterations at once, or two and, after an interruption, the rest: the same numbers."""
    assert_run_folder(straight_run, num_lines=6)
    folder = sft_run.parent / "interrupted"
    interrupted = run("run_grpo.py", *grpo_arguments(sft_run, "interrupted", num_iterations=2, checkpoint_interval=2))
    assert interrupted.returncode == 0, interrupted.stderr
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_iterations": 6}))
    resumed = run("run_grpo.py", "--resume", str(folder), "--no-dashboard")
    assert resumed.returncode == 0, resumed.stderr
    assert_run_folder(folder, num_lines=6)
    assert_same_outcome(folder, straight_run)


@pytest.mark.e2e
def test_grpo_is_stopped_then_killed(sft_run: Path, straight_run: Path) -> None:
    """By SIGTERM, which leaves a checkpoint of the iteration; then by SIGKILL while a checkpoint is written."""
    folder = sft_run.parent / "disturbed"
    process = start("run_grpo.py", *grpo_arguments(sft_run, "disturbed", num_iterations=6, checkpoint_interval=0))
    wait_for(lambda: (folder / "metrics.jsonl").exists(), process)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, errors
    num_done = int(re.search(r"stopped by SIGTERM after iteration (\d) of 6", output)[1])
    assert f"--resume {folder}" in output
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [f"iteration_{num_done:06d}"]
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == num_done

    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "checkpoint_interval": 1}))
    process = start("run_grpo.py", "--resume", str(folder), "--no-dashboard")
    wait_for(lambda: any((folder / "checkpoints").glob(".iteration_*")), process)
    process.kill()
    process.communicate(timeout=60)
    assert not (folder / "summary.json").exists()

    resumed = run("run_grpo.py", "--resume", str(folder), "--no-dashboard")
    assert resumed.returncode == 0, resumed.stderr
    assert_run_folder(folder, num_lines=6)
    assert_same_outcome(folder, straight_run)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["final", "iteration_000006"]


DYING = """
import os, runpy, signal, sys
import {module} as module

original, calls = module.{function}, []

def strike(*arguments, **options):
    calls.append(1)
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **options)

module.{function} = strike
sys.argv = [{script!r}, *sys.argv[1:]]
runpy.run_path({script!r}, run_name="__main__")
"""


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("module", "function"),
    [("focus_agents.grpo.env_runner", "collect_groups"), ("focus_agents.grpo.learner", "policy_loss")],
)
def test_a_driver_killed_while_it_samples_or_learns(
    sft_run: Path, straight_run: Path, module: str, function: str
) -> None:
    """In the fourth iteration; a checkpoint has two."""
    folder = sft_run.parent / f"killed-{function}"
    script = str(ROOT / "experiments" / "run_grpo.py")
    arguments = grpo_arguments(sft_run, folder.name, num_iterations=6, checkpoint_interval=2)
    code = DYING.format(module=module, function=function, script=script)
    killed = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["iteration_000002"]
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 3
    resumed = run("run_grpo.py", "--resume", str(folder), "--no-dashboard")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_outcome(folder, straight_run)


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arms", "sft", "poetry"], "arms: expected names from base, sft, .* got .'poetry'"),
        (["--seeds", "1", "1"], "seeds: expected different numbers"),
        (["--jobs", "0"], "jobs: expected 1 or more, got 0"),
        (["--num-episodes", "0"], "num_episodes: expected 1 or more"),
        (["--base", "./nowhere"], "nowhere"),
    ],
)
def test_ablation_names_a_wrong_argument(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = main_error("ablation", arguments, capsys)
    assert re.search(message, error), error


@pytest.mark.e2e
def test_ablation_trains_answers_reports_and_does_nothing_twice(tmp_path: Path) -> None:
    arguments = [
        "--arms", "attention-grpo", "--seeds", "0", "--num-sft-steps", "2", "--num-grpo-iterations", "1",
        "--num-episodes", "4", "--output-dir", str(tmp_path / "runs"), "--report-dir", str(tmp_path / "report"),
    ]  # fmt: skip
    result = run("ablation.py", *arguments)
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "report/ablation.json").read_text())
    assert list(report["arms"]) == ["base", "attention", "attention-grpo"]
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "ablation.json", "ablation.md", "ablation_sft.png", "ablation_grpo.png", "ablation_answers.png",
    }  # fmt: skip
    weights = sorted((tmp_path / "runs").glob("*/checkpoints/final/model.safetensors"))
    assert len(weights) == 2
    before = [file.stat().st_mtime_ns for file in weights]
    again = run("ablation.py", *arguments)
    assert again.returncode == 0, again.stderr
    assert [file.stat().st_mtime_ns for file in weights] == before
    assert json.loads((tmp_path / "report/ablation.json").read_text()) == report
