"""A command says where its outcome goes before it imports what takes seconds."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from focus_agents.cli import command_line
from focus_agents.cli.cluster import RayArguments


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
