"""What commands that ask a policy say where it is asked otherwise than it was trained."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WARNING = (
    "warning: model focus-small: trained on the template 'questions' with boxes in norm_100, and asked by 'questions' "
    "with boxes in norm_1000; leave --template and --frame out to ask it as it was trained\n"
)


@pytest.mark.parametrize("frame", [[], ["--frame", "norm_1000"]], ids=["as trained", "otherwise"])
@pytest.mark.parametrize("command", ["evaluate", "demo", "find"])
def test_a_policy_that_is_asked_otherwise(
    command: str, frame: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)).save(picture)
    words = {
        "evaluate": ["--output-dir", f"{tmp_path}/table", "--num-episodes", "1", "--shots", "1"],
        "demo": ["--out", f"{tmp_path}/answer.png"],
        "find": ["--support", f"{picture}:5,5,30,30", "--in", str(picture), "--out", f"{tmp_path}/found.csv"],
    }[command]
    monkeypatch.setattr(sys, "argv", [f"focus {command}", *words, "--policy", "vlm:focus-small", *frame])
    importlib.import_module(f"focus_agents.cli.{command}").main()
    shown = capsys.readouterr()
    assert (WARNING in shown.err) == bool(frame)
    assert "warning: model" not in shown.out
