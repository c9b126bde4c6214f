"""`focus grpo`: what it leaves behind, however it is interrupted, and what it says to wrong arguments."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from focus_agents.cli.command_line import parse, restore_arguments
from focus_agents.cli.runs import RunArguments
from focus_agents.runs.folder import RunDirectory
from focus_agents.runs.samples import sampled_iterations
from focus_agents.runs.validations import validation_picture
from focus_env.datasets.transforms import ShuffledSupports
from tests.focus_agents.cli.commands import (
    NEW_FLAGS,
    SMALL,
    assert_run_folder,
    assert_shuffled_scenes_of_four,
    main_error,
    run,
    start,
    wait_for,
)
from tests.places import NO_REAL_FRAMES, REAL_FRAMES, ROOT, load_experiment


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
    assert "new API stack" not in result.stdout + result.stderr  # RLlib's chatter
    assert len(re.findall(r"reward .* mIoU .* parsed .* sampling .* learning .* groups/s", result.stdout)) == 6
    return sft_run.parent / "straight"


def assert_same_outcome(folder: Path, other: Path) -> None:
    """The same metrics to the last iteration, validation answers and weights.

    A run that ended earlier has also been validated there.
    """
    timings = {"seconds", "seconds_sampling", "seconds_learning", "seconds_syncing", "seconds_validating"}
    timings |= {"groups_per_second", "tokens_per_second", "validation_miou"}
    metrics = [
        [
            {
                name: value
                for name, value in json.loads(line).items()
                if name not in timings and not name.startswith("memory_gib")
            }
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
    resumed = run("run_grpo.py", "--resume", str(folder), "--num-iterations", "6", "--no-dashboard")
    assert resumed.returncode == 0, resumed.stderr
    assert_run_folder(folder, num_lines=6)
    assert_same_outcome(folder, straight_run)


@pytest.mark.e2e
def test_grpo_is_stopped_then_killed(sft_run: Path, straight_run: Path) -> None:
    """By SIGTERM, which leaves a checkpoint of the iteration; then by SIGKILL while a checkpoint is written."""
    folder = sft_run.parent / "disturbed"
    process = start("run_grpo.py", *grpo_arguments(sft_run, "disturbed", num_iterations=6, checkpoint_interval=0))
    wait_for(lambda: RunDirectory(folder).read_steps(), process)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, errors
    num_done = int(re.search(r"stopped by SIGTERM after iteration (\d) of 6", output)[1])
    assert f"--resume {folder}" in output
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [f"iteration_{num_done:06d}"]
    assert len(RunDirectory(folder).read_steps()) == num_done
    assert sampled_iterations(folder / "samples") == list(range(1, num_done + 1))
    assert '<td data-label="state">not finished, ' in (folder / "report.html").read_text()
    assert validation_picture(folder, num_done).is_file()

    process = start("run_grpo.py", "--resume", str(folder), "--checkpoint-interval", "1", "--no-dashboard")
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
    assert len(RunDirectory(folder).read_steps()) == 3
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
        (["--dataset", "imagenet"], "unknown data set 'imagenet'; there are synthetic, got10k"),
        (["--dataset", "got10k"], "pass --data-root, the folder where it was unpacked"),
        (["--dataset", "got10k", "--data-root", "/nowhere"], "/nowhere"),
        (["--init-from", "runs/nothing/here"], "runs/nothing/here': there is no such folder; expected one of"),
        (["--template", "long"], "unknown prompt template 'long'; known are default, compact, questions, iploc"),
        (["--frame", "inches"], "inches"),
        (["--num-objects", "0"], "num-objects: expected 1 or more, got 0"),
        (["--distractors", "far"], "far"),
        (["--max-image-tokens", "1"], "--max-image-tokens: expected at least 4, got 1"),
        (["--reward", "iou:1,beauty:2"], "unknown term 'beauty'.*; known are iou, iou_squared, .*"),
        (["--reward", "giuo"], "unknown term 'giuo', did you mean 'giou'"),
        (["--reward", "iou,my_rewards:centre"], "No module named 'my_rewards'; a module of your own must lie in"),
        (["--reward", "nowhere/rewards.yaml"], "nowhere/rewards.yaml"),
        (["--group-size", "1"], "--group-size: expected 2 or more, got 1"),
        (["--num-iterations", "0"], "--num-iterations: expected 1 or more, got 0"),
        (["--lr", "-1"], "lr: expected more than 0, got -1"),
        (["--resume", "runs/nothing"], "runs/nothing"),
    ],
)
def test_grpo_names_a_wrong_argument(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In this process, since it must happen before Ray or a model starts."""
    error = main_error("run_grpo", arguments, capsys)
    assert re.search(message, error), error


def test_grpo_flags_reach_the_run() -> None:
    run_grpo = load_experiment("run_grpo")
    _, config = run_grpo.check_arguments(parse(run_grpo.Args, None, words=NEW_FLAGS))
    training, validation = config.env_config["dataset"], config.validation_env_config["dataset"]
    assert_shuffled_scenes_of_four(training, validation)
    assert not config.model_config["freeze_vision"]
    _, plain = run_grpo.check_arguments(parse(run_grpo.Args, None, words=[]))
    assert not isinstance(plain.env_config["dataset"], ShuffledSupports)
    assert plain.model_config["freeze_vision"]


def test_a_run_folder_holds_the_terms_of_a_reward_file(tmp_path: Path) -> None:
    """Whatever becomes of the file: a resumed run has the reward of its beginning."""
    grpo, file = load_experiment("run_grpo"), tmp_path / "rewards.yaml"
    file.write_text("iou: 1\niou_at(0.5): 0.5\n")
    args = grpo.Args(reward=str(file), run=RunArguments(output_dir=tmp_path, name="mine"))
    run_folder = grpo.open_run(args)
    file.unlink()
    restored = restore_arguments(grpo.Args(), run_folder.config(), keep=("run",))
    assert restored.reward == "iou:1,iou_at(0.5):0.5"
