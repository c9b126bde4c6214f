"""Reports as Markdown and as HTML."""

from __future__ import annotations

import base64
import html
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from focus_agents.reports.documents import code, paragraph, picture, plain, to_html, to_markdown, write_document
from focus_agents.reports.tables import markdown_table
from focus_agents.studies.rewards.report import render_report
from tests.places import ROOT

PNG = b"\x89PNG and so on"

HOSTILE = (
    "<b>|x",
    "</td><script>alert(1)</script>",
    "a\\|b",
    "\\",
    "`code` and ``more|``",
    "*a* **b** _c_ __d__ ~~e~~ ~f~ 2*3 $g$",
    "![a](b.png) [c](d) [e][f] <http://g.h> [^1]",
    "&lt; &#60; &amp;lt; AT&T",
    "<!-- no --> <?x?>",
    "a\nb | c\n\nd",
    "- a",
    "* a",
    "+ a",
    "1. a",
    "12) a",
    "# a",
    "> a",
    "--- a",
    "[a]: /b",
    "copy_support:last [4.2, 5.8] mIoU * 100",
)


@pytest.fixture
def parts(tmp_path: Path) -> list[str]:
    file = tmp_path / "the curves.png"
    file.write_bytes(PNG)
    return [
        f"# {plain('T<i>')}",
        paragraph("a < b & c"),
        "## Part",
        markdown_table([["name", "x"], ["iou|giou", "<b>1</b>"]]),
        picture(file, 'what "it" shows'),
    ]


def body(page: str) -> str:
    return page.split("<body>\n")[1].split("</body>")[0]


def test_markdown(parts: list[str]) -> None:
    assert to_markdown(parts) == (
        "# T\\<i>\n\na < b & c\n\n## Part\n\n| name | x |\n| --- | --- |\n| iou\\|giou | \\<b>1\\</b> |\n\n"
        '![what "it" shows](the%20curves.png)\n'
    )


def test_html_holds_its_pictures_and_no_foreign_tags(parts: list[str], tmp_path: Path) -> None:
    page = to_html(to_markdown(parts), tmp_path)
    assert page.startswith("<!doctype html>")
    assert "<title>T&lt;i&gt;</title>" in page
    assert "<h1>T&lt;i&gt;</h1>" in page
    assert "<p>a &lt; b &amp; c</p>" in page
    assert "<tr>\n<th>name</th>\n<th>x</th>\n</tr>" in page
    assert "<tr>\n<td>iou|giou</td>\n<td>&lt;b&gt;1&lt;/b&gt;</td>\n</tr>" in page
    found = re.search(r'<figure><img src="data:image/png;base64,([^"]+)"', page)
    assert found is not None
    assert base64.b64decode(found[1]) == PNG
    assert 'alt="what &quot;it&quot; shows"' in page
    assert "<figcaption>what &quot;it&quot; shows</figcaption></figure>" in page
    assert "<i>" not in page
    assert "http" not in page


def test_tags_in_markdown_are_shown(tmp_path: Path) -> None:
    page = to_html("# <i>T</i>\n\n<script>alert(1)</script>\n\nA <b>b</b>.\n", tmp_path)
    assert body(page) == (
        "<h1>&lt;i&gt;T&lt;/i&gt;</h1>\n<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>\n<p>A &lt;b&gt;b&lt;/b&gt;.</p>\n"
    )
    assert "<title>&lt;i&gt;T&lt;/i&gt;</title>" in page


def test_a_title_is_plain_in_the_head(tmp_path: Path) -> None:
    assert "<title>Of iou and _giou_</title>" in to_html("# Of `iou` and \\_giou\\_\n", tmp_path)


def test_a_picture_among_words_has_no_caption(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    page = to_html("# T\n\nSee ![this](a.png).\n", tmp_path)
    assert re.search(r'<p>See <img src="data:image/png;base64,[^"]+" alt="this" />.</p>', page)
    assert "<figcaption>" not in page


def test_a_picture_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.png"):
        write_document(tmp_path / "report.md", f"# T\n\n{picture(Path('nothing.png'), 'c')}\n")
    assert list(tmp_path.iterdir()) == []


def check_shown_as_it_is(text: str) -> None:
    shown = " ".join(text.split())
    page = to_html(to_markdown(["# T", markdown_table([["x", text], [text, "y"]])]), Path())
    cells = re.findall(r"<t[hd]>(.*?)</t[hd]>", page, re.DOTALL)
    assert [html.unescape(cell) for cell in cells] == ["x", shown, shown, "y"]
    if shown:
        page = to_html(to_markdown(["# T", paragraph(text), f"x {plain(text)} y", f"x {code(text)} y"]), Path())
        found = re.findall(r"<p>(.*?)</p>\n", page, re.DOTALL)
        assert [html.unescape(line) for line in found[:2]] == [shown, f"x {shown} y"]
        assert html.unescape(found[2]) == f"x <code>{shown}</code> y"


@pytest.mark.parametrize("text", HOSTILE)
def test_text_is_shown_as_it_is(text: str) -> None:
    check_shown_as_it_is(text)


@settings(max_examples=1000)
@given(st.text(st.sampled_from("ab1 \n\t\\`|~$*_[]()<>!&#;:/.=+-\"'"), max_size=12))
def test_any_text_is_shown_as_it_is(text: str) -> None:
    check_shown_as_it_is(text)


def test_figures_need_no_escapes() -> None:
    for text in ("copy_support:last", "64.6 [61.7, 67.2]", "-0.2 [-2.4, +2.1]", "mIoU * 100", "acc@0.5 (3 seeds)"):
        assert plain(text) == text


def test_both_files_are_written(parts: list[str], tmp_path: Path) -> None:
    markdown = to_markdown([*parts, "Größe"])
    write_document(tmp_path / "report.md", markdown)
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == markdown
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page == to_html(markdown, tmp_path)
    assert "<p>Größe</p>" in page
    assert {file.name for file in tmp_path.iterdir()} == {"report.md", "report.html", "the curves.png"}


def test_the_report_on_rewards_is_what_its_figures_make() -> None:
    docs = ROOT / "docs"
    summary = json.loads((docs / "rewards_report.json").read_text())
    pictures = (docs / "rewards_report_curves.png", docs / "rewards_report_answers.png")
    markdown = render_report(summary, *pictures, command="focus rewards --report-dir docs")
    assert (docs / "rewards_report.md").read_text() == markdown
    assert (docs / "rewards_report.html").read_text() == to_html(markdown, docs)
