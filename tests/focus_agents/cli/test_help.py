"""`--help`: every command in it can be pasted into a shell, and is read by the command's own parser."""

from __future__ import annotations

import dataclasses
import importlib
import re
import shlex

import pytest

from focus_agents.cli.command_line import parse
from focus_agents.cli.errors import setting_names
from focus_agents.cli.main import COMMANDS
from focus_agents.monitoring import rules
from tests.places import ROOT


def pasted(text: str) -> list[list[str]]:
    """The words of each command of a help, as a shell reads them."""
    blocks = re.findall(r"^    (focus (?:.*\\\n)*.*)$", text, re.MULTILINE)
    return [shlex.split(block.replace("\\\n", "")) for block in blocks]


@pytest.mark.parametrize("width", ["40", "80", "200"])
@pytest.mark.parametrize("name", COMMANDS)
def test_commands_in_the_help_can_be_pasted(
    name: str, width: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(COMMANDS[name].module)
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setattr("sys.argv", [f"focus {name}", "--help"])
    with pytest.raises(SystemExit, match="0"):
        module.main()
    shown = capsys.readouterr().out
    usage, first = [line for line in shown.splitlines() if line.strip()][:2]
    assert usage.startswith(f"usage: focus {name}")
    assert len(first.split()) > 4, "the first line says what the command is for"
    commands = pasted(shown)
    assert commands == pasted(module.__doc__ or "")
    assert commands
    for program, command, *words in commands:
        assert (program, "..." in words) == ("focus", False)
        if command != name:
            continue
        monkeypatch.setattr("sys.argv", [f"focus {name}", *words])
        if hasattr(module, "parse_arguments"):
            module.parse_arguments(words)
        elif width == "80" and dataclasses.is_dataclass(getattr(module, "Args", None)):
            parse(module.Args, None, words=words)


def test_settings_in_warnings_are_flags_of_a_training() -> None:
    """Each name in backticks is one, so that a terminal can show the flag."""
    known = set[str]()
    for name in ("grpo", "sft"):
        known |= setting_names(importlib.import_module(COMMANDS[name].module).Args)
    text = (ROOT / rules.__name__.replace(".", "/")).with_suffix(".py").read_text()
    named = set(re.findall(r"[\s\"(]`(\w+)`", text.split('"""', 2)[2]))
    assert len(named) > 15
    assert named - known - {"warnings", "None"} == set()
