"""docs/start.md: each command runs as it is printed, and prints what is shown but for figures."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import with_any_figures
from tests.places import ROOT

BLOCKS = re.findall(
    r"^```(\w+)\n(.*?)^```$", (ROOT / "docs/start.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)
PROGRAM = '#!/bin/sh\nexec {python} -m focus_agents "$@"\n'


def steps() -> list[tuple[list[str], list[str]]]:
    """The commands of each block, with the lines that are shown behind it."""
    found: list[tuple[list[str], list[str]]] = []
    for kind, text in BLOCKS:
        if kind == "sh":
            found.append(([line for line in text.splitlines() if line.startswith("focus ")], []))
        else:
            found[-1][1].extend(text.splitlines())
    return [(commands, shown) for commands, shown in found if commands]


def test_figures_alone_may_differ() -> None:
    pattern = with_any_figures("mIoU 0.088 -> 0.155 (gain +0.067) in 115 s")
    assert pattern.fullmatch("mIoU 0.1 -> 0.155 (gain -0.067) in 2 s")
    assert not pattern.fullmatch("mIoU nan -> 0.155 (gain -0.067) in 2 s")
    assert not pattern.fullmatch("acc 0.1 -> 0.155 (gain -0.067) in 2 s")


def test_the_page_has_a_command_for_each_step() -> None:
    words = [shlex.split(line)[1] for commands, _ in steps() for line in commands]
    assert words == ["demo", "evaluate", "sft", "grpo", "report", "evaluate", "doctor"]
    assert all(shown for _, shown in steps())


@pytest.mark.e2e
def test_a_newcomer_can_walk_the_page(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "focus"
    program.parent.mkdir()
    program.write_text(PROGRAM.format(python=shlex.quote(sys.executable)))
    program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        "HF_HUB_OFFLINE": "1",
    }
    folder = tmp_path / "work"
    folder.mkdir()
    for commands, shown in steps():
        printed = ""
        for command in commands:
            result = subprocess.run(
                ["sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
            )
            assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
            printed += result.stdout.replace(f"{folder}/", "")
        missing = [line for line in shown if not any(map(with_any_figures(line).match, printed.splitlines()))]
        assert missing == [], printed
