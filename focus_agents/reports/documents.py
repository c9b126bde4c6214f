"""A report as blocks, and the blocks as Markdown or as one HTML file."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from focus_agents.reports.tables import markdown_table

Rows = Sequence[Sequence[str]]
"""A table; the first row is the heading."""


@dataclass(frozen=True, slots=True)
class Heading:
    """Opens a part."""

    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """Rows, the first one the heading."""

    rows: Rows


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG file and what it shows."""

    path: Path
    caption: str


Block = Heading | Paragraph | Table | Picture


def to_markdown(title: str, blocks: Sequence[Block]) -> str:
    """The report as Markdown, which names the pictures by their files beside it."""
    parts = [f"# {title}"]
    for block in blocks:
        match block:
            case Heading(text):
                parts.append(f"## {text}")
            case Paragraph(text):
                parts.append(text)
            case Table(rows):
                parts.append(markdown_table(rows))
            case Picture(path, caption):
                parts.append(f"![{caption}]({path.name})")
    return "\n\n".join(parts) + "\n"


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """The report as one HTML file, pictures inside it."""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for block in blocks:
        match block:
            case Heading(text):
                parts.append(f"<h2>{html.escape(text)}</h2>")
            case Paragraph(text):
                parts.append(f"<p>{html.escape(text)}</p>")
            case Table(rows):
                parts.append(_html_table(rows))
            case Picture(path, caption):
                data = base64.b64encode(path.read_bytes()).decode()
                parts.append(
                    f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
                    f"<figcaption>{html.escape(caption)}</figcaption></figure>"
                )
    return _PAGE.format(title=html.escape(title), body="\n".join(parts))


def _html_table(rows: Rows) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "<table>\n" + "\n".join([line(rows[0], "th"), *(line(row, "td") for row in rows[1:])]) + "\n</table>"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; }}
th, td {{ padding: 0.3rem 0.7rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }}
img {{ max-width: 100%; }}
figure {{ margin: 1rem 0; }}
figcaption {{ color: #666; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""
