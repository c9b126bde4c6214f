"""`focus tensorboard`: what it says where there is nothing to show, and which folders it shows."""

from __future__ import annotations

import importlib.util
import urllib.request
from pathlib import Path

import pytest

from focus_agents.cli import tensorboard
from focus_agents.monitoring.tensorboard import TensorBoardSink
from tests.focus_agents.cli.commands import main_error


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        sink = TensorBoardSink(tmp_path / "runs" / name)
        sink.log({"reward": 0.5}, 1)
        sink.close()
    (tmp_path / "runs/empty").mkdir()
    return tmp_path / "runs"


def installed(monkeypatch: pytest.MonkeyPatch, *, is_there: bool) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: (object() if is_there else None) if name == "tensorboard" else find(name, *rest),
    )


def test_the_missing_package_is_named(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(monkeypatch, is_there=False)
    error = main_error("open_tensorboard", [str(runs)], capsys)
    assert error == (
        "error: focus tensorboard needs the package tensorboard, which is not installed; "
        "run: pip install 'focus-localization[tensorboard]'\n"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "--runs: expected a folder with runs, or a run's, but there is no folder "),
        ("a/config.json", "--runs: expected a folder with runs, or a run's, but there is no folder "),
        ("empty", "holds nothing for TensorBoard; runs write it unless --log-to "),
    ],
)
def test_a_folder_without_runs(
    name: str, message: str, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(monkeypatch, is_there=True)
    error = main_error("open_tensorboard", [str(runs / "a"), str(runs / name)], capsys)
    assert message.replace("--log-to", "`log_to`") in error
    assert error.count("\n") == 1


def test_one_folder_is_shown_itself_and_several_by_their_names(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    assert tensorboard.log_folder([runs], tmp_path / "links") == runs
    other = tmp_path / "elsewhere/a"
    other.mkdir(parents=True)
    links = tensorboard.log_folder([runs / "a", runs / "b", other], tmp_path / "links")
    assert {path.name: path.resolve() for path in links.iterdir()} == {
        "a": runs / "a", "b": runs / "b", "a (2)": other,
    }  # fmt: skip


def test_it_answers_on_the_loopback(runs: Path) -> None:
    pytest.importorskip("tensorboard")
    url = tensorboard.launch(runs, host="127.0.0.1", port=0)
    assert url.startswith("http://127.0.0.1:")
    assert b"TensorBoard" in urllib.request.urlopen(url, timeout=20).read()
