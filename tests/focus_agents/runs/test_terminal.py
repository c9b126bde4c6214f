"""The console: a text is a line, whatever the width, and a table is whole."""

from __future__ import annotations

import ast
import io

import pytest
from rich.table import Table

from focus_agents.runs.terminal import PlainConsole
from tests.places import ROOT

PATH = "/a/long path/" + "x" * 150 + "/[red]samples/validation.png"


@pytest.mark.parametrize("is_terminal", [False, True])
@pytest.mark.parametrize("width", [10, 40, 80])
def test_a_text_is_one_line_as_it_is(width: int, is_terminal: bool) -> None:
    console = PlainConsole(file=io.StringIO(), width=width, force_terminal=is_terminal)
    console.print(f"pictures: {PATH}")
    console.print(f"warning: 12 of {PATH} :smile:", style="yellow")
    with console.status("working"):
        console.print("policy: 0.5")
    shown = console.file.getvalue().splitlines()
    assert f"pictures: {PATH}" in shown
    assert any(f"warning: 12 of {PATH} :smile:" in line for line in shown)
    assert any(line.startswith("policy: 0.5") or "policy: 0.5" in line for line in shown)


@pytest.mark.parametrize(("width", "is_terminal"), [(40, True), (40, False), (80, False)])
def test_a_table_loses_no_column_and_breaks_no_figure(width: int, is_terminal: bool) -> None:
    table = Table(title="mIoU")
    for column in range(9):
        table.add_column(f"column{column}", overflow="fold")
    table.add_row(*(f"66.{column}-69.4" for column in range(9)))
    console = PlainConsole(file=io.StringIO(), width=width, force_terminal=is_terminal, color_system=None)
    console.print(table)
    shown = console.file.getvalue()
    assert all(f"column{column}" in shown and f"66.{column}-69.4" in shown for column in range(9))
    assert console.width == width


def test_a_table_that_fits_is_laid_out_for_the_terminal() -> None:
    table = Table()
    table.add_column("text")
    table.add_row("word " * 30)
    console = PlainConsole(file=io.StringIO(), width=40, force_terminal=True, color_system=None)
    console.print(table)
    assert max(map(len, console.file.getvalue().splitlines())) <= 40


def test_nothing_prints_by_another_console() -> None:
    """So that no line is forgotten."""
    for file in (ROOT / "focus_agents").rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
        names = {node.func.id for node in calls if isinstance(node.func, ast.Name)}
        assert "Console" not in names, file
