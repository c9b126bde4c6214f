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
        ("nowhere", "error: runs: expected a folder with runs, or a run's, but there is no folder "),
        ("a/config.json", "error: runs: expected a folder with runs, or a run's, but there is no folder "),
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


def linked(runs: list[Path], links: Path) -> dict[str, Path]:
    links.mkdir(exist_ok=True)
    tensorboard.link(runs, links)
    return {str(path.relative_to(links)): path.resolve() for path in links.rglob("*") if path.is_symlink()}


def test_runs_go_by_their_names(runs: Path, tmp_path: Path) -> None:
    """Those of a folder, of folders in it, and single ones; two of one name are told apart."""
    for folder in (tmp_path / "elsewhere/a", runs / "study/seed0"):
        TensorBoardSink(folder).log({"reward": 0.5}, 1)
    (runs / "other").mkdir()
    (runs / "other/events.out.tfevents.1.host").touch()  # another program's
    assert linked([runs], tmp_path / "links") == {
        "a": runs / "a/tensorboard",
        "b": runs / "b/tensorboard",
        "study/seed0": runs / "study/seed0/tensorboard",
        "other": runs / "other",
    }
    assert linked([runs / "a", runs / "b", tmp_path / "elsewhere/a"], tmp_path / "few") == {
        "a": runs / "a/tensorboard",
        "b": runs / "b/tensorboard",
        "a (2)": tmp_path / "elsewhere/a/tensorboard",
    }


def test_a_run_that_comes_later_is_shown_too(runs: Path, tmp_path: Path) -> None:
    assert set(linked([runs], tmp_path / "links")) == {"a", "b"}
    TensorBoardSink(runs / "c").log({"reward": 0.5}, 1)
    assert set(linked([runs], tmp_path / "links")) == {"a", "b", "c"}


def test_a_run_inside_of_another_leaves_that_ones_folder_as_it_is(runs: Path, tmp_path: Path) -> None:
    for name in ("a/z", "a/z/zz", "b/c"):
        TensorBoardSink(runs / name).log({"reward": 0.5}, 1)
    before = sorted(runs.rglob("*"))
    for _ in range(3):
        found = linked([runs], tmp_path / "links")
    assert sorted(runs.rglob("*")) == before
    assert {path.relative_to(runs) for path in found.values()} == {
        Path(name) / "tensorboard" for name in ("a", "b", "a/z", "a/z/zz", "b/c")
    }
    assert {"a", "a - z"} <= set(found)


def test_a_run_that_is_gone_frees_its_name(runs: Path, tmp_path: Path) -> None:
    linked([runs], tmp_path / "links")
    (runs / "a").rename(tmp_path / "moved")
    assert set(linked([runs], tmp_path / "links")) == {"b"}
    TensorBoardSink(tmp_path / "other/a").log({"reward": 0.5}, 1)
    assert linked([tmp_path / "other"], tmp_path / "links")["a"] == tmp_path / "other/a/tensorboard"


def test_the_viewers_own_folder_of_a_run_may_be_named(runs: Path, tmp_path: Path) -> None:
    assert linked([runs / "a/tensorboard"], tmp_path / "links") == {"a": runs / "a/tensorboard"}


def test_runs_behind_links_are_shown_and_loops_end(runs: Path, tmp_path: Path) -> None:
    TensorBoardSink(tmp_path / "disk/far").log({"reward": 0.5}, 1)
    (runs / "far").symlink_to(tmp_path / "disk/far")
    (runs / "loop").symlink_to(runs)
    (runs / "again").symlink_to(runs / "a")
    found = linked([runs], tmp_path / "links")
    assert found["far"] == tmp_path / "disk/far/tensorboard"
    assert len(found) == 3


def test_it_answers_on_the_loopback(runs: Path) -> None:
    pytest.importorskip("tensorboard")
    url = tensorboard.launch(runs, host="127.0.0.1", port=0)
    assert url.startswith("http://127.0.0.1:")
    assert b"TensorBoard" in urllib.request.urlopen(url, timeout=20).read()
