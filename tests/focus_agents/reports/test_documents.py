"""Reports as Markdown and as HTML."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest

from focus_agents.reports.documents import Block, Heading, Paragraph, Picture, Table, to_html, to_markdown


@pytest.fixture
def blocks(tmp_path: Path) -> list[Block]:
    picture = tmp_path / "curves.png"
    picture.write_bytes(b"\x89PNG and so on")
    return [
        Paragraph("a < b & c"),
        Heading("Part"),
        Table([["name", "x"], ["iou|giou", "<b>1</b>"]]),
        Picture(picture, 'what "it" shows'),
    ]


def test_markdown(blocks: list[Block]) -> None:
    assert to_markdown("Title", blocks) == (
        "# Title\n\na < b & c\n\n## Part\n\n| name | x |\n| --- | --- |\n| iou\\|giou | <b>1</b> |\n\n"
        '![what "it" shows](curves.png)\n'
    )


def test_html_holds_its_pictures_and_no_foreign_tags(blocks: list[Block]) -> None:
    page = to_html("T<i>", blocks)
    assert page.startswith("<!doctype html>")
    assert "<title>T&lt;i&gt;</title>" in page
    assert "<p>a &lt; b &amp; c</p>" in page
    assert "<tr><th>name</th><th>x</th></tr>\n<tr><td>iou|giou</td><td>&lt;b&gt;1&lt;/b&gt;</td></tr>" in page
    found = re.search(r'src="data:image/png;base64,([^"]+)"', page)
    assert found is not None
    assert base64.b64decode(found[1]) == b"\x89PNG and so on"
    assert 'alt="what &quot;it&quot; shows"' in page
    assert "<i>" not in page
    assert "http" not in page
