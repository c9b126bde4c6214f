"""`focus ablation`: its report, its resumption, and what it says to wrong arguments."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from focus_agents.studies.ablation.arms import ARMS
from tests.focus_agents.cli.commands import main_error, run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arms", "sft", "poetry"], "arms: expected names from base, sft, .* got .'poetry'"),
        (["--bases", "why"], "bases: expected names from where, how, more, got .'why'"),
        (["--scenes", "films"], "scenes: expected names from one_look, parts, tracks, got .'films'"),
        (["--arms", "long", "--scenes", "parts"], r"arms: expected some that the plan has .* long on tracks \(where\)"),
        (["--seeds", "1", "1"], "seeds: expected different numbers"),
        (["--jobs", "0"], "jobs: expected 1 or more, got 0"),
        (["--num-episodes", "0"], "--num-episodes: expected 1 or more"),
        (["--base", "./nowhere"], "nowhere"),
        (["--base-how", "./nowhere"], "nowhere"),
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
        "--arms", "attention-grpo", "--scenes", "one_look", "--seeds", "0",
        "--num-sft-steps", "2", "--num-grpo-iterations", "1",
        "--num-episodes", "4", "--output-dir", str(tmp_path / "runs"), "--report-dir", str(tmp_path / "report"),
    ]  # fmt: skip
    result = run("ablation.py", *arguments)
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "report/ablation.json").read_text())
    variants = [f"{arm}/where/one_look" for arm in ("base", "attention", "attention-grpo")]
    assert list(report["rows"]) == variants
    assert {name: list(cells) for name, cells in report["floors"].items()} == {"one_look": ["copy", "oracle"]}
    assert list(report["probes"]) == ["where"]
    assert "what is left takes about" in result.stdout
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
    assert list(json.loads((tmp_path / "report/ablation.json").read_text())["rows"]) == variants
