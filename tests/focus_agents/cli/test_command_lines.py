"""The experiments from their command lines: what they leave behind, and what they say to wrong arguments."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from focus_agents.cli.command_line import flat, parse, restore_arguments
from focus_agents.cli.common import RunArguments
from focus_agents.errors import EvaluationError
from focus_agents.models.loading import load_model, load_processor, load_template
from focus_agents.policies.focus import FocusPolicy, Localization
from focus_agents.pretraining.settings import PretrainingConfig
from focus_agents.runs.checkpoint import save_policy
from focus_agents.runs.folder import RunDirectory
from focus_agents.studies.ablation.arms import ARMS
from focus_env.boxes import CoordinateFrame
from focus_env.datasets import SyntheticDataset
from focus_env.datasets.transforms import ShuffledSupports
from focus_env.prompts import get_template
from focus_env.rendering import render_localization
from focus_env.types import Box, EpisodeDataset, ParseStatus
from tests.contracts import assert_same_episode
from tests.places import NO_REAL_FRAMES, REAL_FRAMES, ROOT, load_experiment

SMALL = [
    "--model", "tiny", "--no-freeze-vision", "--level", "1", "--shots", "1", "--image-size", "56",
    "--num-validation-episodes", "6", "--max-completion-tokens", "26",
]  # fmt: skip


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
    """A run folder holds what `focus_agents.runs.folder` documents; returns the summary."""
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
@pytest.mark.skipif(not REAL_FRAMES.is_dir(), reason=NO_REAL_FRAMES)
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
        (["--init-from", "runs/nothing/here"], "model '.*runs/nothing/here': expected one of .*tiny, small, a folder"),
        (["--template", "long"], "unknown prompt template 'long'; known are default, compact, questions, iploc"),
        (["--frame", "inches"], "inches"),
        (["--num-objects", "0"], "num_objects must be from 1 to .*got 0"),
        (["--distractors", "far"], "far"),
        (["--max-image-tokens", "1"], "max_image_tokens: expected at least 4, got 1"),
        (["--reward", "iou:1,beauty:2"], "unknown term 'beauty'.*; known are iou, iou_squared, .*"),
        (["--reward", "giuo"], "unknown term 'giuo', did you mean 'giou'"),
        (["--reward", "iou,my_rewards:centre"], "No module named 'my_rewards'; a module of your own must lie in"),
        (["--reward", "nowhere/rewards.yaml"], "nowhere/rewards.yaml"),
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
        (["--template", "long"], "unknown prompt template 'long'; known are default, compact, questions, iploc"),
        (["--frame", "inches"], "inches"),
        (["--num-objects", "0"], "num_objects must be from 1 to .*got 0"),
        (["--init-from", "runs/nothing/here"], "model '.*runs/nothing/here': expected one of .*tiny, small, a folder"),
        (["--labels", "none"], "none"),
        (["--beta", "-1"], "beta: expected 0 .* got -1"),
        (["--attention-layers", "8"], "attention layers '8': expected numbers from 0 to 4"),
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


NEW_FLAGS = ["--model", "small", "--level", "2", "--num-objects", "4", "--shuffle-supports", "--no-freeze-vision"]


def assert_shuffled_scenes_of_four(training: EpisodeDataset, validation: EpisodeDataset) -> None:
    """Training episodes have the supports of others, validation episodes their own; all show four objects."""
    assert isinstance(training, ShuffledSupports)
    assert not isinstance(validation, ShuffledSupports)
    true = SyntheticDataset(split="train", level=2, num_objects=4, distractors="any", image_size=64, shots=4)
    np.testing.assert_array_equal(training[5].query_frame.image(), true[5].query_frame.image())
    np.testing.assert_array_equal(training[5].support[0].frame.image(), true[6].support[0].frame.image())
    expected = SyntheticDataset(split="val", level=2, num_objects=4, distractors="any", image_size=64, shots=4)[5]
    assert_same_episode(validation[5], expected)
    fewer = SyntheticDataset(split="val", level=2, image_size=64, shots=1)[5]
    assert not np.array_equal(fewer.query_frame.image(), expected.query_frame.image())


def test_sft_flags_reach_the_run() -> None:
    run_sft = load_experiment("run_sft")
    plan, _ = run_sft.check_arguments(run_sft.parse_arguments(NEW_FLAGS))
    assert_shuffled_scenes_of_four(plan.training_episodes, plan.validation_episodes)
    assert not plan.config.freeze_vision
    plain, _ = run_sft.check_arguments(run_sft.parse_arguments([]))
    assert not isinstance(plain.training_episodes, ShuffledSupports)
    assert plain.config.freeze_vision


def test_grpo_flags_reach_the_run() -> None:
    run_grpo = load_experiment("run_grpo")
    _, config = run_grpo.check_arguments(parse(run_grpo.Args, None, words=NEW_FLAGS))
    training, validation = config.env_config["dataset"], config.validation_env_config["dataset"]
    assert_shuffled_scenes_of_four(training, validation)
    assert not config.model_config["freeze_vision"]
    _, plain = run_grpo.check_arguments(parse(run_grpo.Args, None, words=[]))
    assert not isinstance(plain.env_config["dataset"], ShuffledSupports)
    assert plain.model_config["freeze_vision"]


@pytest.mark.parametrize(
    ("flags", "template", "frame"),
    [
        ([], "questions", "norm_100"),
        (["--model", "tiny"], "compact", "norm_1000"),
        (["--model", "small"], "questions", "norm_100"),
        (["--model", "small", "--frame", "norm_1000"], "questions", "norm_1000"),
        (["--model", "small", "--template", "default"], "default", "norm_100"),
        (["--frame", "pixel", "--template", "iploc"], "iploc", "pixel"),
    ],
)
def test_the_prompt_is_the_models_own_unless_another_is_asked_for(flags: list[str], template: str, frame: str) -> None:
    expected = dataclasses.replace(get_template(template), frame=CoordinateFrame(frame))
    run_sft, run_grpo = load_experiment("run_sft"), load_experiment("run_grpo")
    assert run_sft.check_arguments(run_sft.parse_arguments(flags))[0].template == expected
    _, config = run_grpo.check_arguments(parse(run_grpo.Args, None, words=flags))
    assert config.env_config["template"] == config.validation_env_config["template"] == expected


def test_a_resumed_run_asks_in_the_stored_frame(tmp_path: Path) -> None:
    """Which comes back from JSON as a text."""
    run_sft = load_experiment("run_sft")
    args = run_sft.parse_arguments(["--model", "small", "--frame", "norm_1000", "--shuffle-supports"])
    run = RunDirectory.create(tmp_path / "run", flat(args))
    restored = restore_arguments(run_sft.parse_arguments(["--resume", str(run.path)]), run.config(), keep=("run",))
    plan, _ = run_sft.check_arguments(restored)
    assert plan.template == dataclasses.replace(get_template("questions"), frame=CoordinateFrame.NORM_1000)
    assert isinstance(plan.training_episodes, ShuffledSupports)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-steps", "0"], "num_steps: expected 1 or more, got 0"),
        (["--lr", "-1"], "lr: expected more than 0, got -1"),
        (
            ["--cooldown", "2"],
            "warmup, cooldown: expected shares of the steps that add up to at most 1, got 0.03 and 2",
        ),
        (["--checkpoint-interval", "0"], "checkpoint_interval: expected 1 or more, got 0"),
        (["--resume", "runs/nothing"], "run runs/nothing: expected a run's folder with config.json"),
        (["--model", "tiny"], "--model"),
    ],
)
def test_pretraining_names_a_wrong_argument(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    error = main_error("run_pretraining", ["--output-dir", str(tmp_path / "runs"), *arguments], capsys)
    assert message in error, error
    assert not (tmp_path / "runs").exists()


def test_pretraining_does_not_write_over_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.json").write_text("{}")
    error = main_error("run_pretraining", ["--output-dir", str(tmp_path), "--name", "mine"], capsys)
    assert "mine holds a run already; choose another --name" in error


def test_pretraining_runs_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its own arguments, whatever else is given with --resume; in this process, at a fraction of the work."""
    from focus_agents.pretraining import data, train

    stage = data.Stage(until=10**9, num_objects=(2, 3), num_questions=2, num_pictures=1, num_documents=4)
    monkeypatch.setattr(data, "CURRICULUM", (stage,))
    monkeypatch.setattr(train, "NUM_SCORING_BATCHES", 2)
    run_pretraining = load_experiment("run_pretraining")
    arguments = ["--output-dir", str(tmp_path), "--name", "base", "--num-steps", "2", "--checkpoint-interval", "1"]
    monkeypatch.setattr(sys, "argv", ["run_pretraining", *arguments])
    run_pretraining.main()
    folder = tmp_path / "base"
    assert re.search(r"on unseen identities: box IoU 0\.\d{3}, right words [\d.]+%; \d+ s", capsys.readouterr().out)
    config = json.loads((folder / "config.json").read_text())
    assert (config["num_steps"], config["checkpoint_interval"], config["seed"]) == (2, 1, 0)
    (folder / "config.json").write_text(json.dumps({**config, "num_steps": 3}))
    monkeypatch.setattr(sys, "argv", ["run_pretraining", "--resume", str(folder), "--num-steps", "9"])
    run_pretraining.main()
    assert str(folder / "checkpoints/final") in capsys.readouterr().out.replace("\n", "")
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    assert (folder / "checkpoints/final/model.safetensors").is_file()


@pytest.fixture(scope="module")
def new_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with random weights, which never answers in the format."""
    folder = tmp_path_factory.mktemp("demo") / "policy"
    return save_policy(folder, load_model("small"), load_processor("small"), template=load_template("small"))


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, str]:
    """Two pictures of different shapes, and a file that is none."""
    rng = np.random.default_rng(0)
    for name, (width, height) in {"support.png": (64, 48), "query.png": (80, 48)}.items():
        Image.fromarray(rng.integers(256, size=(height, width, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "words.png").write_text("no picture")
    return {path.stem: str(path) for path in tmp_path.glob("*.png")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--support", "{support}", "1,2,3", "--query", "{query}"], "box '1,2,3': expected four numbers x1,y1,x2,y2"),
        (["--support", "{support}", "1,2,3,4,5", "--query", "{query}"], "box '1,2,3,4,5': expected four numbers"),
        (["--support", "{support}", "a,b,c,d", "--query", "{query}"], "box 'a,b,c,d': expected four numbers"),
        (["--support", "{support}", "1,2,30,49", "--query", "{query}"], "support.png must lie inside the image of (64"),
        (["--support", "{support}", "9,2,3,40", "--query", "{query}"], "support.png must be xyxy with x1 < x2"),
        (["--support", "{support}", "nan,2,3,40", "--query", "{query}"], "support.png must be four finite numbers"),
        (["--support", "/no.png", "1,2,3,4", "--query", "{query}"], "/no.png: expected a picture that Pillow can read"),
        (["--support", "{support}", "1,2,3,4", "--query", "/no.png"], "/no.png: expected a picture that Pillow can"),
        (["--support", "{words}", "1,2,3,4", "--query", "{query}"], "words.png: expected a picture that Pillow can"),
        (["--support", "{support}", "1,2,3,4", "--query", "/"], "/: expected a picture that Pillow can read"),
        (["--support", "{support}", "1,2,3,4"], "--support and --query: expected both, or neither"),
        (["--query", "{query}"], "--support and --query: expected both, or neither"),
        (["--support", "{support}"], "--support"),
        (["--policy", "vlm:no-such-model"], "model 'no-such-model': expected one of focus-small, "),
        (["--policy", "vlm:runs/nothing/here"], "model 'runs/nothing/here': expected one of focus-small, "),
        (["--policy", "vml"], "policy 'vml': no such policy. Did you mean 'vlm'? Known are random, center, "),
        (["--max-image-tokens", "1", "--policy", "vlm:tiny"], "max_image_tokens: expected at least 4, got 1"),
    ],
)
def test_demo_names_a_wrong_argument(
    arguments: list[str],
    message: str,
    pictures: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    error = main_error("demo", [word.format(**pictures) for word in arguments], capsys)
    assert message in error, error
    assert not (tmp_path / "answer.png").exists()


def test_demo_on_given_pictures(
    new_policy: Path,
    pictures: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out.png"
    words = ["--policy", f"vlm:{new_policy}", "--query", pictures["query"], "--out", str(out)]
    words += ["--support", pictures["support"], "4,6,40,40", "--support", pictures["query"], "0,0,80,48"]
    monkeypatch.setattr(sys, "argv", ["demo", *words])
    load_experiment("demo").main()
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"no box: no_box; the policy wrote '.*'", first)
    assert second == f"picture: {out}"
    with Image.open(pictures["support"]) as support, Image.open(pictures["query"]) as query, Image.open(out) as drawn:
        supports = [(np.array(support), Box(4, 6, 40, 40)), (np.array(query), Box(0, 0, 80, 48))]
        policy = FocusPolicy.from_pretrained(str(new_policy))
        found = policy.locate(supports, np.array(query), with_attention=True)
        assert repr(found.text) in first
        expected = render_localization(supports, np.array(query), None, found.attention)
        np.testing.assert_array_equal(np.array(drawn), expected)
        # A row of pictures, and one of attention.
        assert drawn.height > 2 * 160


def test_demo_with_a_policy_that_is_no_model(
    pictures: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.png"
    words = ["--policy", "copy_support", "--query", pictures["query"], "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["demo", *words, "--support", pictures["support"], "16,12,48,36"])
    load_experiment("demo").main()
    assert capsys.readouterr().out.splitlines()[0] == "box 20.0,12.0,60.0,36.0 (x1,y1,x2,y2 in pixels of the query)"
    with Image.open(pictures["support"]) as support, Image.open(pictures["query"]) as query, Image.open(out) as drawn:
        expected = render_localization([(np.array(support), Box(16, 12, 48, 36))], np.array(query), Box(20, 12, 60, 36))
        np.testing.assert_array_equal(np.array(drawn), expected)


def test_demo_says_why_there_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "policy_of_the_demo.py").write_text(
        "from focus_agents.rollout.records import Completion, Generation\n"
        "class Silent:\n"
        "    def generate(self, prompts, **options):\n"
        "        return [Generation((Completion('', [], [], True, error='no answer within 3 s'),))]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["demo", "--policy", "policy_of_the_demo:Silent"])
    load_experiment("demo").main()
    assert capsys.readouterr().out.splitlines() == ["no answer: no answer within 3 s", "picture: answer.png"]


def test_demo_draws_an_episode_and_prints_the_box(
    new_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an answer that is made up: the policy knows none."""
    demo, asked = load_experiment("demo"), []

    def locate(self: FocusPolicy, supports: Any, query: Any, **options: Any) -> Localization:
        asked.append((supports, query))
        return Localization(Box(6.4, 12.8, 32.0, 64.0), ParseStatus.OK, "<answer>[10, 20, 50, 100]</answer>")

    monkeypatch.setattr(FocusPolicy, "locate", locate)
    monkeypatch.setattr(sys, "argv", ["demo", "--policy", f"vlm:{new_policy}", "--out", str(tmp_path / "out.png")])
    demo.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["box 6.4,12.8,32.0,64.0 (x1,y1,x2,y2 in pixels of the query)", f"picture: {tmp_path / 'out.png'}"]
    ((supports, query),) = asked
    episode = SyntheticDataset(split="test", level=3, num_objects=4, distractors="any", image_size=64, shots=2)[0]
    np.testing.assert_array_equal(query, episode.query_frame.image())
    for (image, box), exemplar in zip(supports, episode.support, strict=True):
        np.testing.assert_array_equal(image, exemplar.frame.image())
        assert box == exemplar.box
    with Image.open(tmp_path / "out.png") as drawn:
        expected = render_localization(supports, query, Box(6.4, 12.8, 32.0, 64.0))
        np.testing.assert_array_equal(np.array(drawn), expected)


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


def test_a_run_folder_holds_the_terms_of_a_reward_file(tmp_path: Path) -> None:
    """Whatever becomes of the file: a resumed run has the reward of its beginning."""
    grpo, file = load_experiment("run_grpo"), tmp_path / "rewards.yaml"
    file.write_text("iou: 1\niou_at(0.5): 0.5\n")
    args = grpo.Args(reward=str(file), run=RunArguments(output_dir=tmp_path, name="mine"))
    run_folder = grpo.open_run(args)
    file.unlink()
    restored = restore_arguments(grpo.Args(), run_folder.config(), keep=("run",))
    assert restored.reward == "iou:1,iou_at(0.5):0.5"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "random", "vml"], "policy 'vml': no such policy. Did you mean 'vlm'? Known are random, center, "),
        (["--policy", "no.such:Policy"], "importing 'no.such' raised ModuleNotFoundError"),
        (["--policy", "copy_support:first"], "expected copy_support:last or copy_support:nearest"),
        (["--policy", "vlm:runs/nothing/here"], "model 'runs/nothing/here': expected one of focus-small, "),
        (["--policy", "random", "random"], "policy: expected one or several different ones, got ('random', 'random')"),
        (["--policy"], "policy"),
        (["--shots", "2", "2"], "shots: expected one or several different ones, got (2, 2)"),
        (["--shots", "0"], "shots must be at least 1, got 0"),
        (["--num-episodes", "0"], "num_episodes: expected 1 or more, got 0"),
        (["--batch-size", "0"], "batch_size: expected 1 or more, got 0"),
        (["--max-completion-tokens", "0"], "max_completion_tokens: expected 1 or more, got 0"),
        (["--num-workers", "-1"], "num_workers: expected 0 or more, got -1"),
        (["--dataset", "coco"], "unknown data set 'coco'; there are synthetic, got10k"),
        (["--dataset", "got10k"], "pass root, the folder where it was unpacked"),
        (["--split", "tset"], "split must be one of"),
        (["--template", "long"], "unknown prompt template 'long'"),
        (["--max-image-tokens", "1"], "max_image_tokens: expected at least 4, got 1"),
        (["--num-workers", "1", "--device", "cuda"], "--device cuda: workers see no GPU without --num-gpus-per-worker"),
        (["--num-workers", "64", "--num-gpus-per-worker", "1"], "64 workers need more than the"),
        (["--model", "focus-small"], "--model"),
    ],
)
def test_evaluate_names_a_wrong_argument(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = main_error("evaluate", ["--output-dir", str(tmp_path / "table"), *arguments], capsys)
    assert message in error, error
    assert not (tmp_path / "table").exists()


def evaluate_here(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
    load_experiment("evaluate").main()


def test_evaluations_of_several_calls_make_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--output-dir", str(tmp_path), "--num-episodes", "4", "--shots", "1", "2"]
    evaluate_here(monkeypatch, *common, "--policy", "random", "vlm:focus-small")
    capsys.readouterr()
    shuffled = [*common, "--policy", "random", "--shuffle-supports", "--label", "shuffled"]
    evaluate_here(monkeypatch, *shuffled)
    (tmp_path / "sheets/random__shuffled__2-shot.png").unlink()  # as after a kill while sheets are drawn
    evaluate_here(monkeypatch, *shuffled, "--paper-table")
    shown = capsys.readouterr().out
    for words in (
        "synthetic, 2 shots",
        "shuffled, 1 shot",
        "vlm:focus-small",
        "FOCUS, Qwen2-VL-7B",
        "(published, table",
    ):
        assert words in shown
    summary = json.loads((tmp_path / "summary.json").read_text())
    cells = [(cell["policy"], cell["dataset"], cell["shots"], cell["num_episodes"]) for cell in summary["cells"]]
    assert cells == [
        ("random", "synthetic", 1, 4),
        ("random", "synthetic", 2, 4),
        ("vlm:focus-small", "synthetic", 1, 4),
        ("vlm:focus-small", "synthetic", 2, 4),
        ("random", "shuffled", 1, 4),
        ("random", "shuffled", 2, 4),
    ]
    assert len(summary["published"]) == 14
    names = {f"{policy}__{data}__{shots}-shot" for policy, data, shots, _ in cells}
    names = {name.replace(":", "-") for name in names}
    assert {path.stem for path in (tmp_path / "answers").iterdir()} == names
    assert {path.stem for path in (tmp_path / "sheets").iterdir()} == names
    with Image.open(tmp_path / "sheets/random__shuffled__2-shot.png") as sheet:
        assert sheet.height > 4 * 160
    error = main_error("evaluate", [*common, "--policy", "random", "--level", "5"], capsys)
    assert "data 'synthetic' was answered with other settings: level is 5 here and 3 there" in error
    assert "Choose another --output-dir, or for a data set another --label" in error


def test_a_bug_in_a_policy_is_shown_with_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "policy_with_a_bug.py").write_text("def locate(question, rng): return 1 / 0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EvaluationError, match=r"'policy_with_a_bug:locate' on episodes 0 to 3 .*division by") as info:
        evaluate_here(
            monkeypatch, "--policy", "policy_with_a_bug:locate", "--num-episodes", "4", "--output-dir", "table"
        )
    assert isinstance(info.value.__cause__, ZeroDivisionError)


@pytest.mark.e2e
def test_a_killed_evaluation_answers_what_is_left(tmp_path: Path) -> None:
    def arguments(folder: str) -> list[str]:
        return [
            "--policy", "random", "--num-episodes", "300", "--shots", "4", "1", "--batch-size", "2", "--output-dir",
            str(tmp_path / folder),
        ]  # fmt: skip

    def answers(folder: str) -> list[list[dict]]:
        files = sorted((tmp_path / folder / "answers").iterdir())
        lines = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
        return [[{**line, "seconds": 0} for line in sorted(part, key=lambda line: line["index"])] for part in lines]

    second = tmp_path / "killed/answers/random__synthetic__1-shot.jsonl"
    process = start("evaluate.py", *arguments("killed"))
    wait_for(lambda: second.exists() and second.stat().st_size > 4000, process)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed/summary.json").exists()
    before = second.read_bytes()
    num_before = before.count(b"\n")
    assert 0 < num_before < 300
    for folder in ("killed", "straight"):
        result = run("evaluate.py", *arguments(folder))
        assert result.returncode == 0, result.stderr
    killed = answers("killed")
    assert [[line["index"] for line in part] for part in killed] == [list(range(300))] * 2
    assert killed == answers("straight")
    kept = before[: before.rindex(b"\n") + 1]
    assert second.read_bytes().startswith(kept), "what was answered is neither asked again nor written again"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rewards", "iou"], "rewards: expected two or more different ones to compare, got ['iou']"),
        (["--rewards", "iou", "iou"], "rewards: expected two or more different ones to compare, got ['iou']"),
        (["--rewards", "iou", "guoi"], "unknown term 'guoi', did you mean 'giou'?"),
        (["--seeds", "1", "1"], "seeds: expected different numbers"),
        (["--cpus-per-run", "0"], "cpus_per_run: expected 1 or more, got 0"),
        (["--gpus-per-run", "-1"], "gpus_per_run: expected 0 or more, got -1"),
        (["--num-iterations", "0"], "num_iterations: expected 1 or more, got 0"),
        (["--model", "runs/nothing/here"], "model 'runs/nothing/here': expected one of"),
    ],
)
def test_the_benchmark_of_rewards_names_a_wrong_argument(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = main_error("benchmark_rewards", ["--output-dir", str(tmp_path / "runs"), *arguments], capsys)
    assert message in error, error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("script", ["run_sft.py", "run_grpo.py", "evaluate.py", "benchmark_rewards.py"])
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
        (["--base", "tiny"], "base: expected a model with weights, got 'tiny'"),
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
        "ablation.json", "ablation.md", "ablation.html",
        "ablation_sft.png", "ablation_grpo.png", "ablation_answers.png",
    }  # fmt: skip
    weights = sorted((tmp_path / "runs").glob("*/checkpoints/final/model.safetensors"))
    assert len(weights) == 2
    before = [file.stat().st_mtime_ns for file in weights]
    again = run("ablation.py", *arguments)
    assert again.returncode == 0, again.stderr
    assert [file.stat().st_mtime_ns for file in weights] == before
    assert json.loads((tmp_path / "report/ablation.json").read_text()) == report
    partial = run("ablation.py", *arguments, "--seeds", "0", "1", "--arms", *ARMS, "--report-only")
    assert partial.returncode == 0, partial.stderr
    assert list(json.loads((tmp_path / "report/ablation.json").read_text())["arms"]) == list(report["arms"])


def test_help_of_pretraining(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_text("run_pretraining", capsys)
    flags = re.findall(r"^\W+(--[a-z][a-z-]+) ", text, re.MULTILINE)  # borders are drawn on some outputs only
    own = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(PretrainingConfig)}
    assert set(flags) == own | {"--name", "--output-dir", "--resume"}
    assert text.count("(default:") == len(set(flags))


def test_help_of_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_text("demo", capsys)
    for words in ("--support PATH STR", "repeatable", "--query", "--out", "--policy", "vlm:focus-small", "--device"):
        assert words in text


def help_text(script: str, capsys: pytest.CaptureFixture[str]) -> str:
    module = load_experiment(script)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, "--help"])
        with pytest.raises(SystemExit) as exit_info:
            module.main()
    assert not exit_info.value.code
    return capsys.readouterr().out
