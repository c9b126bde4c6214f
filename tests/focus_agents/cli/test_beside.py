"""After a training on pictures of one's own: whether it is better than policies that need none."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from focus_agents.cli.beside import BESIDE_FILE, BesideArguments, tell_beside
from focus_agents.evaluation.beside import DEFAULT, answer_beside
from focus_agents.policies.registry import PolicySpec
from focus_agents.runs.folder import RunDirectory
from focus_env.datasets import load_dataset
from tests.focus_agents.cli.commands import main_error

EPISODES = load_dataset("synthetic", split="val", shots=1, num_episodes=6)


def names(arguments: BesideArguments, dataset: str) -> tuple[str, ...]:
    return tuple(spec.text for spec in arguments.specs(dataset))


def test_whom_it_is_held_against() -> None:
    assert names(BesideArguments(), "synthetic") == ()
    assert names(BesideArguments(), "coco") == DEFAULT
    assert names(BesideArguments(beside=()), "coco") == ()
    assert names(BesideArguments(beside=("center",)), "synthetic") == ("center",)


@pytest.mark.parametrize("command", ["run_sft", "run_grpo"])
def test_a_policy_that_is_none_is_said_before_the_training(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = main_error(command, ["--beside", "copy_suport", "--output-dir", str(tmp_path)], capsys)
    assert "copy_suport" in error
    assert "copy_support" in error
    assert not list(tmp_path.iterdir())


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run whose policy answers as the middle of the picture does."""
    run = RunDirectory.create(tmp_path / "run", {})
    run.write_answers("after", answer_beside(EPISODES, range(6), PolicySpec(text="center")))
    return run


def told(run: RunDirectory, *texts: str) -> tuple[dict[str, Any], str]:
    out = io.StringIO()
    found = tell_beside(run, EPISODES, [PolicySpec(text=text) for text in texts], Console(file=out, width=80))
    return dict(found), out.getvalue()


def test_it_is_said_and_kept(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    found, text = told(run, "center", "copy_support")
    assert found["center"]["lead"] == 0
    assert json.loads((run.path / BESIDE_FILE).read_text()) == found
    assert "beside it: center has " in text
    assert "the two cannot be told apart\n" in text
    assert "6 validation episodes of " in text
    assert "has not shown that its policy is better than center" in capsys.readouterr().err


def test_a_better_one_is_no_warning(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("focus_agents.evaluation.beside.grouped_bootstrap_interval", lambda *_: (0.1, 0.2))
    _, text = told(run, "copy_support")
    assert text.endswith("this policy is better\n")
    assert capsys.readouterr().err == ""


def test_one_that_fails_is_named_and_the_others_answer(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = told(run, "vlm:no/such/folder/here", "center")
    assert list(found) == ["center"]
    assert "warning: vlm:no/such/folder/here did not answer the validation episodes: " in capsys.readouterr().err


def test_nothing_is_written_where_nothing_is_asked(run: RunDirectory) -> None:
    assert told(run) == ({}, "")
    assert not (run.path / BESIDE_FILE).exists()
