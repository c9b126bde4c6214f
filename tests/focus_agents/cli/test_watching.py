"""Which places show a run: what is refused before work starts, and what is opened."""

from __future__ import annotations

import importlib.util
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from focus_agents.cli.watching import WatchArguments
from focus_agents.runs.folder import RunDirectory
from tests.focus_agents.cli.commands import main_error

PICTURE = np.zeros((2, 2, 3), dtype=np.uint8)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", {"name": "run"})


@pytest.mark.parametrize("script", ["run_grpo", "run_sft"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["wandb"], "--log-to: wandb needs the package wandb, .* pip install 'focus-localization[wandb]'"),
        (["mlflow"], "--log-to: mlflow needs the package mlflow, .* pip install 'focus-localization[mlflow]'"),
        (["tensorboard", "trackio"], "--log-to: trackio needs .* pip install 'focus-localization[trackio]'"),
        (["tensorboard", "tensorboard"], "--log-to: expected each place once, got tensorboard 2 times"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_work(
    script: str,
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in ("wandb", "mlflow", "trackio") else find(name)
    )
    error = main_error(script, ["--log-to", *words, "--output-dir", str(tmp_path / "runs")], capsys)
    parts = iter(message.split(".*"))
    assert all(part.strip() in error for part in parts), error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_tensorboard_is_the_default_and_says_how_it_is_opened(run: RunDirectory) -> None:
    output = io.StringIO()
    (sink,) = WatchArguments().open(run, Console(file=output, width=20))
    sink.log({"reward": 0.5}, 1)
    sink.show("validation", PICTURE, 1)
    sink.close()
    assert output.getvalue() == f"tensorboard: `focus tensorboard {run.path}`\n"
    assert len(list((run.path / "tensorboard").glob("*.tfevents.*"))) == 1


def test_nowhere_writes_nothing(run: RunDirectory) -> None:
    assert WatchArguments(log_to=()).open(run, Console(file=io.StringIO())) == []
    assert not (run.path / "tensorboard").exists()


def test_without_pictures(run: RunDirectory) -> None:
    (sink,) = WatchArguments(log_pictures=False).open(run, Console(file=io.StringIO()))
    sink.show("validation", PICTURE, 1)
    assert not (run.path / "tensorboard").exists()
    sink.log({"reward": 0.5}, 1)
    assert (run.path / "tensorboard").exists()


def test_a_place_that_fails_at_once_is_told_and_the_run_goes_on(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**_: Any) -> None:
        raise RuntimeError("no such entity")

    from tests.focus_agents.monitoring.services import Server, modules

    fake = modules(Server())["wandb"]
    fake.init = broken  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    output = io.StringIO()
    sinks = WatchArguments(log_to=("wandb", "tensorboard")).open(run, Console(file=output, width=20))
    assert [sink.name for sink in sinks] == ["TensorBoard"]
    assert output.getvalue().splitlines()[0] == (
        "warning: wandb shows nothing (RuntimeError: no such entity); the training goes on"
    )
