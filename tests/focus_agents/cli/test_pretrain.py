"""`focus pretrain`: what it leaves behind, its help, and what it says to wrong arguments."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest

from focus_agents.pretraining.settings import PretrainingConfig
from focus_agents.probing.settings import ProbeSettings
from tests.focus_agents.cli.commands import help_text, main_error
from tests.places import load_experiment


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-steps", "0"], "--num-steps: expected 1 or more, got 0"),
        (["--lr", "-1"], "lr: expected more than 0, got -1"),
        (
            ["--cooldown", "2"],
            "warmup, cooldown: expected shares of the steps that add up to at most 1, got 0.03 and 2",
        ),
        (["--checkpoint-interval", "0"], "--checkpoint-interval: expected 1 or more, got 0"),
        (["--resume", "runs/nothing"], "run runs/nothing: expected a run's folder with config.json"),
        (["--model", "tiny"], "--model"),
        (["--init-from", "tiny"], "--init-from: expected whole weights with the tokens of the small model"),
        (["--init-from", "./nowhere"], "model './nowhere': there is no such folder; expected one of"),
        (["--name-weight", "1", "--name-layer", "6"], "--name-layer: expected a number from 1 to 5"),
        (["--num-probe-episodes", "14"], "--num-probe-episodes: expected 15 or more, got 14"),
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
    """As long as is asked for, and otherwise with its own arguments; in this process, at a fraction of the work."""
    from focus_agents.pretraining import data, train

    stage = data.Stage(until=10**9, num_objects=(2, 3), num_questions=2, num_pictures=1, num_documents=4)
    monkeypatch.setattr(data, "CURRICULUM", (stage,))
    monkeypatch.setattr(train, "NUM_SCORING_BATCHES", 2)
    run_pretraining = load_experiment("run_pretraining")
    arguments = ["--output-dir", str(tmp_path), "--name", "base", "--num-steps", "2", "--checkpoint-interval", "1"]
    arguments += ["--num-probe-episodes", "15"]
    monkeypatch.setattr(sys, "argv", ["run_pretraining", *arguments])
    run_pretraining.main()
    folder = tmp_path / "base"
    shown = capsys.readouterr().out
    assert re.search(r"on unseen identities: box IoU 0\.\d{3}, right words [\d.]+%; \d+ s", shown)
    assert re.search(r"layer 5( +[01]\.\d\d){4}", shown)
    assert "Share of 4 test episodes" in shown
    assert "Share of 4 test episodes" in (folder / "report.html").read_text()
    config = json.loads((folder / "config.json").read_text())
    assert (config["num_steps"], config["checkpoint_interval"], config["seed"]) == (2, 1, 0)
    summary = (folder / "summary.json").read_text()
    monkeypatch.setattr(sys, "argv", ["run_pretraining", "--resume", str(folder)])
    run_pretraining.main()
    assert "is finished, there is nothing to do; a larger --num-steps than 2 makes it longer" in capsys.readouterr().out
    assert (folder / "summary.json").read_text() == summary
    monkeypatch.setattr(sys, "argv", ["run_pretraining", "--resume", str(folder), "--num-steps", "3"])
    run_pretraining.main()
    assert json.loads((folder / "config.json").read_text()) == {**config, "num_steps": 3}
    assert (folder / "summary_2.json").read_text() == summary
    assert str(folder / "checkpoints/final") in capsys.readouterr().out.replace("\n", "")
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    assert (folder / "checkpoints/final/model.safetensors").is_file()


def test_help_of_pretraining(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_text("run_pretraining", capsys)
    flags = re.findall(r"^\W+(--[a-z][a-z-]+) ", text, re.MULTILINE)  # borders are drawn on some outputs only
    fields = [*dataclasses.fields(PretrainingConfig), *dataclasses.fields(ProbeSettings)]
    own = {f"--{field.name.replace('_', '-')}" for field in fields}
    assert set(flags) == own | {"--name", "--output-dir", "--resume"}
    assert text.count("(default:") == len(set(flags))
