"""Pages of the documentation, as tests read them."""

from __future__ import annotations

import contextlib
import io
import re

import tyro

from focus_agents.cli.command_line import CONFIG
from tests.places import ROOT

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(name: str, title: str) -> str:
    return page(name).split(f"\n## {title}\n")[1].split("\n## ")[0]


def run_tyro(arguments: type, words: list[str]) -> tuple[int, str]:
    """The exit code of parsing `words`, and what it prints."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            tyro.cli(arguments, args=words, config=CONFIG)
        except SystemExit as stop:
            return int(stop.code or 0), output.getvalue()
    return 0, output.getvalue()


def with_any_figures(line: str) -> re.Pattern[str]:
    """What matches a line with other numbers of either sign."""
    return re.compile(re.sub(r"(?:\\[+-])?\d+(?:\\\.\d+)?", r"[+-]?\\d+(?:\\.\\d+)?", re.escape(line)))
