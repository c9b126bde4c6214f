"""Figures and tables for people: the same rows as Markdown and for a terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from focus_agents.reports.documents import plain
from focus_agents.runs.figures import in_digits

_NAMES_WIDTH = 24
"""Characters of the first column that are not broken, however narrow the terminal."""


def figure(value: Mapping[str, Any] | None, *, signed: bool = False) -> str:
    """Return a `mean` with its `interval`, times 100, with a sign where it is a difference; nothing for None."""
    if value is None:
        return ""
    bounds = [100 * bound for bound in value["interval"]]
    mean, low, high = in_digits(100 * value["mean"], bounds, digits=1, is_signed=signed)
    return f"{mean} [{low}, {high}]"


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as Markdown, the first as the heading; cells are shown as they are."""
    lines = ["| " + " | ".join(map(plain, row)) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines)


def text_table(rows: Sequence[Sequence[str]], title: str) -> Table:
    """Return rows for a terminal, the first as the heading; intervals stand below their means, to save width."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    names_width = min(_NAMES_WIDTH, max(len(row[0]) for row in rows))
    for column, name in enumerate(rows[0]):
        table.add_column(name, overflow="fold", min_width=None if column else names_width)
    for row in rows[1:]:
        table.add_row(*(re.sub(r" \[(\S+), (\S+)\]$", r"\n\1-\2", cell) for cell in row))
    return table
