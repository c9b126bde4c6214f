"""Paths of a command line at which nothing can lie: a sentence, before any work."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest

from focus_agents.cli.command_line import parse
from focus_agents.cli.data import Args
from focus_agents.cli.errors import user_errors
from focus_agents.errors import CheckpointError
from focus_agents.models.shipped import model_name
from focus_agents.policies.registry import PolicySpec
from focus_agents.runs.folder import RunDirectory
from focus_env.errors import StorageError
from focus_env.files import fresh_folder, write_text
from focus_env.regular_files import require_possible

REQUIRED = {"plot": ["a"], "publish": ["--run", "a", "--name", "x", "--commit", "1"]}
REASONS = {
    "loop/x": "Too many levels of symbolic links",
    "loop": "Too many levels of symbolic links",
    "file/x": "Not a directory",
    "n" * 300: "File name too long",
    "~nobody-of-this-name/x": "there is no such user",
}
FLAGS = [
    (command, flag)
    for command, flags in {
        "demo": ["--out", "--query"],
        "evaluate": ["--output-dir", "--data-root", "--image-root", "--api-cache"],
        "sft": ["--output-dir", "--resume", "--init-from", "--data-root", "--validation-root"],
        "grpo": ["--output-dir", "--resume", "--init-from", "--data-root"],
        "pretrain": ["--output-dir", "--resume"],
        "data": ["--output", "--data-root"],
        "rewards": ["--output-dir", "--report-dir"],
        "ablation": ["--output-dir", "--report-dir"],
        "plot": ["", "--output"],
        "report": ["", "--output"],
        "tensorboard": [""],
        "monitor": ["--output-dir"],
        "publish": ["--run"],
    }.items()
    for flag in flags
]


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop of links and a file, in the folder of the call."""
    monkeypatch.chdir(tmp_path)
    Path("other").symlink_to("loop")
    Path("loop").symlink_to("other")
    Path("file").write_text("text")


def error_of(command: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    module = importlib.import_module(f"focus_agents.cli.{command}")
    with pytest.raises(SystemExit, match="2"), user_errors(module.Args):
        parse(module.Args, None, words=words)
    return capsys.readouterr().err


@pytest.mark.parametrize(("command", "flag"), FLAGS)
def test_each_path_of_each_command(command: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    others = [] if flag in ("", "--run") else REQUIRED.get(command, [])
    others = REQUIRED["publish"][2:] if flag == "--run" else others
    said = error_of(command, [*others, f"{flag}=loop/x" if flag else "loop/x"], capsys)
    reason = "Too many levels of symbolic links"
    assert said == f"error: {flag or 'runs'}: expected a path that can be used, got 'loop/x': {reason}\n"


@pytest.mark.parametrize(("path", "reason"), REASONS.items())
def test_each_reason(path: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = error_of("data", [f"--output={path}"], capsys)
    assert said == f"error: --output: expected a path that can be used, got {path!r}: {reason}\n"


def test_one_among_several(capsys: pytest.CaptureFixture[str]) -> None:
    said = error_of("demo", ["--support", "file", "1,2,3,4", "--support", "loop", "1,2,3,4"], capsys)
    assert said.startswith("error: --support: expected a path that can be used, got 'loop'")


def test_what_is_not_there_yet_and_what_may_not_be_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    require_possible("new/folder/x")
    require_possible("file")
    with pytest.raises(OSError, match="null"):
        require_possible("a\0b")

    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(PermissionError):
        require_possible("locked/x")


@pytest.mark.parametrize("path", ["loop", "loop/x", "n" * 300, "a\0b"])
def test_of_a_model(path: str) -> None:
    with pytest.raises(CheckpointError, match="expected a path that can be used, got: "):
        model_name(path)
    with pytest.raises(CheckpointError, match="expected a path that can be used, got: "):
        PolicySpec(text=f"vlm:{path}").with_absolute_path().check()


def test_a_name_of_the_hub_beside_a_file_of_its_first_part() -> None:
    assert model_name("file/model") == "file/model"


def test_a_link_that_leads_to_itself_inside_of_a_folder_that_can_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"), user_errors(Args):
        RunDirectory.open(Path("loop"), {}, is_resumed=False, warn=print)
    assert "\n" not in capsys.readouterr().err.strip()
    with pytest.raises(StorageError, match="symbolic links"):
        write_text(Path("loop"), "text")
    with pytest.raises(StorageError, match="symbolic links"), fresh_folder(Path("loop")) as folder:
        folder.mkdir()
