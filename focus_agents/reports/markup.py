"""HTML out of Python: text is always escaped, and only what is made here is not."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from importlib import resources

VOID = frozenset({"img", "input", "meta", "br", "link"})
"""Elements without content."""
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")
"""Characters that no HTML file may hold."""
BASE_STYLE = resources.files(__package__).joinpath("base.css").read_text(encoding="utf-8")
"""Colours and type of all pages, light and dark."""


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def escape(text: object) -> Html:
    """Return text as HTML that shows it as it is, unless it is `Html`; also inside of quotation marks."""
    if isinstance(text, Html):
        return text
    readable = str(text).encode("utf-8", "replace").decode("utf-8")  # lone surrogates have no place in a file
    return Html(html.escape(_CONTROLS.sub("\N{REPLACEMENT CHARACTER}", readable)))


def join(parts: Iterable[object], separator: str = "") -> Html:
    """Return parts one after another, each escaped unless it is `Html`."""
    return Html(separator.join(map(escape, parts)))


def tag(name: str, /, *content: object, **attributes: object) -> Html:
    """Return an element.

    Args:
        name: Of the element.
        content: Escaped, unless it is `Html`.
        attributes: `_` at the end of a name is dropped, any other becomes `-`. None and False leave an attribute out,
            True gives it without a value.

    >>> tag("p", "a < b", class_="note")
    '<p class="note">a &lt; b</p>'
    """
    shown = ""
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        label = key.rstrip("_").replace("_", "-")
        shown += f" {label}" if value is True else f' {label}="{escape(value)}"'
    opening = f"<{name}{shown}>"
    return Html(opening if name in VOID and not content else f"{opening}{join(content)}</{name}>")
