"""Help texts flow: their paragraphs are as wide as the terminal lets them be, whatever the source's width."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest

from focus_agents.cli.command_line import given_flags, parse
from focus_agents.cli.errors import flag_names, setting_names
from focus_agents.cli.help_text import flow, paragraphs
from focus_agents.cli.main import COMMANDS


def shown(name: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    module = importlib.import_module(COMMANDS[name].module)
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit, match="0"):
        parse(module.Args, module.__doc__, words=["--help"])
    return capsys.readouterr().out


def opening_and_rows(text: str) -> tuple[list[str], list[str]]:
    """The lines above the boxes of flags, and those within; sides are spaces where the output takes ASCII alone."""
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if re.match("[╭ ][─ ]? ?options ", line))
    inside = [line for line in lines[first + 1 :] if line.startswith(("│ ", "  ")) and set(line) - set("│─- ")]
    return lines[:first], [line[2:-2] for line in inside]


def first_part(text: str) -> str:
    """What has to fit if a line is to go on: a word, or a word's part up to a comma, where the library may break."""
    return re.split(r"(?<=,)| ", text.strip(), maxsplit=1)[0]


def assert_filled(lines: list[str], width: int) -> None:
    """No line is longer than it may be, and none ends before the next one's beginning would not have fitted."""
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith(" ") or not line:
            continue
        assert len(line) <= width or " " not in line, line
        if following and not following.startswith((" ", "- ")):
            assert len(line) + 1 + len(first_part(following)) > width, (line, following)


@pytest.mark.parametrize("width", [40, 80, 100])
@pytest.mark.parametrize("name", COMMANDS)
def test_each_line_is_filled(
    name: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opening, rows = opening_and_rows(shown(name, width, monkeypatch, capsys))
    assert_filled(opening[1:], width)
    assert all(len(row) <= width - 4 for row in rows)
    column = next(row.index("show this") for row in rows if "show this" in row)
    texts, inner = [row[column:].rstrip() for row in rows], width - 4 - column
    is_list = False
    for row, text, following, next_text in zip(rows, texts, rows[1:], texts[1:], strict=False):
        is_list = text.startswith("- ") or (is_list and not row[:column].strip())  # its lines are written as they stand
        is_text = not row[column - 2 : column].strip()
        goes_on = is_text and text and not following[:column].strip() and next_text and not next_text.startswith("- ")
        if goes_on and not is_list:
            assert len(text) + 1 + len(first_part(next_text)) > inner, (text, next_text)


def test_paragraphs() -> None:
    text = "One\n--flag, two\n(three)\n\nRun:\n    focus a\n    focus b\nFour\n4 five\n- six\nseven\n- eight"
    expected = ["One --flag, two (three)", "", "Run:", "    focus a", "    focus b"]
    expected += ["Four 4 five", "- six seven", "- eight"]
    assert paragraphs(text) == expected
    assert flow("a-b --no-verify /x/y/z", 10).splitlines() == ["a-b", "--no-verify", "/x/y/z"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_that_stands_twice_is_seen(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one that is called otherwise than its setting, and the denial of a truth value."""
    arguments: Any = importlib.import_module(COMMANDS[name].module).Args
    _, rows = opening_and_rows(shown(name, 80, monkeypatch, capsys))
    names = [row.partition("  ")[0] for row in rows if row.startswith("-")]
    flags = {flag for row in names for flag in re.findall(r"(?:^|, )(--[a-z][a-z0-9-]*)", row)} - {"--help"}
    assert flags
    for flag in flags:
        for words in ([flag, "x", flag, "y"], [f"{flag}=x", f"{flag.replace('-', '_').replace('__', '--', 1)}=y"]):
            if flag == "--support" or getattr(arguments, "last_wins", False):
                assert len(given_flags(words, arguments)) == 2
                continue
            with pytest.raises(ValueError, match=r"expected once, .*got it 2 times"):
                given_flags(words, arguments)


def test_a_flag_with_a_name_of_its_own() -> None:
    arguments = importlib.import_module("focus_agents.cli.convert").Args
    assert flag_names(arguments)["source_format"] == "from"
    assert "source_format" in setting_names(arguments)
    with pytest.raises(ValueError, match="source_format: expected a value, got an empty one"):
        parse(arguments, None, words=["a.json", "b.csv", "--from="])
    assert parse(arguments, None, words=["a.json", "b.csv", "--from", "coco"]).source_format == "coco"
