"""Reports in Markdown, and the same as one HTML file with its pictures inside.

A report is a list of parts, each a block of Markdown. Text from outside, such as a label that a user has chosen, goes
through `plain`, `paragraph` or `code`, so that both files show it as it is.
"""

from __future__ import annotations

import base64
import html
import mimetypes
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token

from focus_env.files import write_text

_MARKS = re.compile(
    r"""
      [\\`|~$]                    # escapes, code, cells, and GitHub's strike-through and formulas
    | \*(?=\S) | (?<=\S)\*        # emphasis; a star between blanks is none
    | (?<![^\W_])_ | _(?![^\W_])  # emphasis; an underscore inside a word is none
    | \](?=\()                    # links and pictures
    | <(?=[A-Za-z/!?])            # tags
    | &(?=\#?\w+;)                # entities
    """,
    re.VERBOSE,
)
"""Characters that would be marks of Markdown where they stand."""

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
{body}</body>
</html>
"""


def plain(text: str) -> str:
    """Return text as Markdown that shows it as it is, in one line: for a cell of a table, or inside a paragraph."""
    return _MARKS.sub(r"\\\g<0>", " ".join(text.split()))


def paragraph(text: str) -> str:
    """Return text as a paragraph of Markdown that shows it as it is."""
    text = re.sub(r"^(\d+)([.)])", r"\1\\\2", plain(text))  # a numbered list
    return re.sub(r"^[#>\[+*-]", r"\\\g<0>", text)  # a heading, a quotation, a definition, a list


def code(text: str) -> str:
    """Return text as code inside a paragraph of Markdown."""
    text = " ".join(text.split())
    if "`" not in text:
        return f"`{text}`"
    fence = "`" * (1 + max(map(len, re.findall("`+", text))))
    return f"{fence} {text} {fence}"


def picture(path: Path, caption: str) -> str:
    """Return a picture in Markdown, which names its file beside the report."""
    return f"![{plain(caption)}]({quote(path.name)})"


def to_markdown(parts: Sequence[str]) -> str:
    """Return blocks of Markdown, the title first, as one text."""
    return "\n\n".join(parts) + "\n"


def write_document(path: Path, markdown: str) -> None:
    """Write a report as Markdown, and the same beside it as one HTML file.

    Args:
        path: The Markdown file, beside which the pictures lie.
        markdown: As for `to_html`.

    Raises:
        OSError: If a picture is not there, or a file cannot be written.
    """
    write_text(path.with_suffix(".html"), to_html(markdown, path.parent))
    write_text(path, markdown)


def to_html(markdown: str, folder: Path) -> str:
    """Return Markdown as one HTML file with its pictures inside.

    Args:
        markdown: CommonMark with tables, whose first line is its title. Tags in it are shown, not obeyed.
        folder: The folder of the pictures that it names.

    Raises:
        OSError: If a picture is not there.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    for opening, token, closing in zip(tokens, tokens[1:], tokens[2:], strict=False):
        children = token.children or []
        for child in children:
            if child.type == "image":
                child.attrSet("src", _data_uri(folder / unquote(str(child.attrGet("src")))))
        if [child.type for child in children] == ["image"]:  # alone, so that there is a place for its caption
            opening.tag = closing.tag = "figure"
            caption = html.escape(_text(children[0]))
            children.append(Token("html_inline", "", 0, content=f"<figcaption>{caption}</figcaption>"))
    body = parser.renderer.render(tokens, parser.options, {})
    return _PAGE.format(title=html.escape(_text(tokens[1])), body=body)


def _text(token: Token) -> str:
    """Return the text of a heading or of a picture's caption, without marks."""
    return "".join(child.content for child in token.children or ())


def _data_uri(file: Path) -> str:
    kind = mimetypes.guess_type(file.name)[0]
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
