"""A command says where its outcome goes before it imports what takes seconds."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from focus_agents.cli import command_line
from focus_agents.cli.cluster import RayArguments
from tests.kills import held_by_another


class Imports(Exception):
    """Large libraries are about to be imported."""


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("grpo", "run folder: "),
        ("sft", "run folder: "),
        ("evaluate", "results: "),
        ("rewards", "runs: "),
        ("ablation", "runs: "),
    ],
)
def test_the_first_line_comes_before_large_imports(
    command: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*arguments: object) -> None:
        raise Imports

    module = importlib.import_module(f"focus_agents.cli.{command}")
    monkeypatch.setattr(RayArguments, "import_ray", stop)
    monkeypatch.setattr(module, "quiet_libraries", stop, raising=False)
    monkeypatch.setattr(command_line, "quiet_libraries", stop)
    monkeypatch.setattr(sys, "argv", [f"focus {command}", "--output-dir", str(tmp_path)])
    with pytest.raises(Imports):
        module.main()
    assert capsys.readouterr().out.startswith(f"{line}{tmp_path}")
    assert not list(tmp_path.iterdir())


def without_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object) -> None:
        raise Imports

    monkeypatch.setattr(RayArguments, "import_ray", stop)
    monkeypatch.setattr(command_line, "quiet_libraries", stop)


@pytest.mark.parametrize("command", ["grpo", "sft", "pretrain"])
def test_a_run_that_goes_on_is_refused_before_large_imports(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what can be done: there is no other name for the run to go on with."""
    module = importlib.import_module(f"focus_agents.cli.{command}")
    without_imports(monkeypatch)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"command": command}))
    monkeypatch.setattr(sys, "argv", [f"focus {command}", "--resume", str(run)])
    with held_by_another(run), pytest.raises(SystemExit, match="2"):
        module.main()
    message = capsys.readouterr().err
    assert message.startswith(f"error: folder {run}: another process is at work in it (process ")
    assert message.endswith("; wait until it ends, or stop it\n")


@pytest.mark.parametrize("command", ["grpo", "sft", "pretrain", "rewards", "ablation"])
@pytest.mark.parametrize("kind", ["held", "nowhere"])
def test_a_folder_that_cannot_be_had_is_refused_before_large_imports(
    command: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"focus_agents.cli.{command}")
    without_imports(monkeypatch)
    monkeypatch.setattr(module, "quiet_libraries", lambda: pytest.fail("too late"), raising=False)
    is_study = command in ("rewards", "ablation")
    if kind == "nowhere" and not Path("/proc/self").exists():
        pytest.skip("the system has no folder in which nobody can make one")
    place = tmp_path if kind == "held" else Path("/proc/x")
    words = ["--output-dir", str(place / "w" if is_study else place), *([] if is_study else ["--name", "w"])]
    monkeypatch.setattr(sys, "argv", [f"focus {command}", *words])
    if kind == "held":
        with held_by_another(place / "w"), pytest.raises(SystemExit, match="2"):
            module.main()
    else:
        with pytest.raises(SystemExit, match="2"):
            module.main()
    message = capsys.readouterr().err
    expected = "another process is at work in it" if kind == "held" else "/proc/x: expected a path that can be used"
    assert expected in message


@pytest.mark.parametrize(
    ("command", "words"),
    [
        *((command, ["--template", "{bad}"]) for command in ("grpo", "sft", "evaluate", "rewards")),
        *((command, ["--model", "runs/nothing/here"]) for command in ("grpo", "sft", "rewards")),
        *((command, ["--init-from", "runs/nothing/here"]) for command in ("grpo", "sft", "pretrain")),
        ("evaluate", ["--policy", "nothere"]),
        ("evaluate", ["--policy", "vlm:runs/nothing/here"]),
        ("evaluate", ["--policy", "random", "--dataset", "imagenet"]),
        ("evaluate", ["--policy", "random", "--level", "9"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value[:2]),
)
def test_a_wrong_argument_is_refused_before_the_first_line(
    command: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And leaves no folder."""
    module = importlib.import_module(f"focus_agents.cli.{command}")
    without_imports(monkeypatch)
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: b: c\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"focus {command}", *(word.format(bad=bad) for word in words)])
    with pytest.raises(SystemExit, match="2"):
        module.main()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert list(tmp_path.iterdir()) == [bad]
