"""`--help` as text that flows: paragraphs are as wide as the terminal, whatever the width of the source is.

The parser's library joins two lines of a docstring only if the second begins with a letter, without indentation. So the
lines of a setting's docstring stay as in the source. The library also prints a command's description without a width.
This module does both by paragraphs. Indented lines, which are commands to paste, and lists stay as they are written.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import shutil
import textwrap
from collections.abc import Iterator

from tyro import _strings

JOINER = "remove_single_line_breaks"
"""The library's function that joins the lines of a docstring, for descriptions and flags alike."""
_LIST_MARK = re.compile(r"([-*•]|[0-9]+[.)]) ")


def paragraphs(text: str) -> list[str]:
    """Return a text's paragraphs, each a line; an empty one stands for a blank line.

    Args:
        text: A docstring. What is indented, and each entry of a list, is a paragraph of its own.
    """
    found: list[str] = []
    is_open = False
    for line in text.strip().splitlines():
        line = line.rstrip()
        is_indented = line.startswith((" ", "\t"))
        if is_open and line and not is_indented and not _LIST_MARK.match(line):
            found[-1] += f" {line}"
        else:
            found.append(line)
        is_open = bool(line) and not is_indented
    return found


def flow(text: str, width: int) -> str:
    """Return a text with its paragraphs broken at a width; commands, flags and paths are not cut."""
    wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(line if line.startswith((" ", "\t")) else wrapper.fill(line) for line in paragraphs(text))


@contextlib.contextmanager
def flowing_help(description: str | None) -> Iterator[None]:
    """Within it, the parser's help has texts that flow.

    Args:
        description: The text that the help opens with, which the library does not break at any width.
    """
    before = getattr(_strings, JOINER, None)
    if before is None:  # another release of the library, whose own way is readable too
        yield
        return
    width = shutil.get_terminal_size().columns

    def join(text: str) -> str:
        return flow(text, width) if text == description else "\n".join(paragraphs(inspect.cleandoc(text)))

    setattr(_strings, JOINER, join)
    try:
        yield
    finally:
        setattr(_strings, JOINER, before)
