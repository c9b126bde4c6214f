"""Commands as a user starts them, in a process of their own or in this one, and what they leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focus_agents.runs.folder import RunDirectory
from focus_env.datasets import SyntheticDataset
from focus_env.datasets.transforms import ShuffledSupports
from focus_env.types import EpisodeDataset
from tests.contracts import assert_same_episode
from tests.places import ROOT, load_experiment

SMALL = [
    "--model", "tiny", "--no-freeze-vision", "--level", "1", "--shots", "1", "--image-size", "56",
    "--num-validation-episodes", "6", "--max-completion-tokens", "26",
]  # fmt: skip
NEW_FLAGS = ["--model", "small", "--level", "2", "--num-objects", "4", "--shuffle-supports", "--no-freeze-vision"]


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
    lines = RunDirectory(folder).read_metrics()
    assert len(RunDirectory(folder).read_steps()) == num_lines
    assert lines[0]["validation_miou"] == summary["miou_start"]
    assert lines[-1]["validation_miou"] == summary["miou_end"]
    assert json.loads((folder / "config.json").read_text())["name"] == folder.name
    with Image.open(folder / "samples/validation.png") as sheet:
        assert sheet.height > 6 * 160
    report = (folder / "report.html").read_text()
    assert report.endswith("</html>\n")
    assert report.count("<img") > 20
    assert '<td data-label="state">finished, ' in report
    assert (folder / "samples/attention_0.png").is_file()
    assert (folder / "checkpoints/final/model.safetensors").is_file()
    return summary


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


def help_text(script: str, capsys: pytest.CaptureFixture[str]) -> str:
    module = load_experiment(script)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, "--help"])
        with pytest.raises(SystemExit) as exit_info:
            module.main()
    assert not exit_info.value.code
    return capsys.readouterr().out
