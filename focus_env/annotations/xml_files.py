"""XML that others wrote: elements with their lines, and nothing that a parser could be made to fetch or blow up."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from focus_env.errors import DatasetError
from focus_env.text_files import as_text, read_bytes

LARGEST_XML = 2**30
DEEPEST = 100
"""Elements within each other; formats of annotations have six."""
DECLARED = re.compile(rb"""^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9._-]{1,40})["']""")
NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
ADVICE = "replace the file by a whole one"


@dataclass(slots=True)
class Element:
    """An element of XML.

    Attributes:
        name: Its tag.
        line: Where it begins in its file, from 1.
        attributes: As they are written.
        children: In their order.
        text: What stands in it before its first child.
    """

    name: str
    line: int
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def all(self, name: str) -> list[Element]:
        """Return the children of a name."""
        return [child for child in self.children if child.name == name]

    def find(self, *names: str) -> Element | None:
        """Return the first child of the first name, of that the first child of the second, and so on."""
        found: Element | None = self
        for name in names:
            found = next((child for child in found.children if child.name == name), None) if found else None
        return found

    def read(self, *names: str) -> str:
        """Return the text of such a child; empty where there is none."""
        found = self.find(*names)
        return found.text.strip() if found else ""


def read_xml(path: Path, *, root: Path) -> Element:
    """Return the outermost element of a file.

    Args:
        path: The file.
        root: The folder that it must lie in, links followed.

    Raises:
        DatasetError: If it is not there or no XML, declares entities (which XML bombs and the theft of other files are
            made of), or is nested deeper than `DEEPEST`.
    """
    content = read_bytes(path, advice=ADVICE, root=root, max_bytes=LARGEST_XML)
    declared = DECLARED.match(content)
    try:
        # Expat itself knows few encodings; given a text, it takes no notice of the one that is declared.
        text = content.decode(declared[1].decode()) if declared else as_text(content)
    except (LookupError, ValueError) as error:
        raise DatasetError(f"{path}: expected XML, got a text in no known encoding ({error}); {ADVICE}") from error
    reader = _Reader(path)
    try:
        reader.parser.Parse(text.lstrip("\ufeff"), True)
    except (expat.ExpatError, ValueError) as error:
        raise DatasetError(f"{path}: expected XML, got something else ({error}); {ADVICE}") from error
    return reader.top.children[0]


class _Reader:
    def __init__(self, path: Path) -> None:
        self.top = Element("", 0, {})
        self._path = path
        self._open = [self.top]
        self.parser = expat.ParserCreate(encoding="utf-8")
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = lambda name: self._open.pop()
        self.parser.CharacterDataHandler = self._characters
        self.parser.EntityDeclHandler = self._refuse
        self.parser.UnparsedEntityDeclHandler = self._refuse
        self.parser.ExternalEntityRefHandler = self._refuse

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._open) > DEEPEST:
            raise DatasetError(
                f"{self._path}, line {self.parser.CurrentLineNumber}: expected at most {DEEPEST} elements within each "
                f"other, got more; {ADVICE}"
            )
        element = Element(name, self.parser.CurrentLineNumber, attributes)
        self._open[-1].children.append(element)
        self._open.append(element)

    def _characters(self, text: str) -> None:
        if not self._open[-1].children:
            self._open[-1].text += text

    def _refuse(self, *declared: object) -> int:
        raise DatasetError(
            f"{self._path}, line {self.parser.CurrentLineNumber}: expected XML without entities of its own, got one; "
            "remove the DOCTYPE"
        )


def escaped(text: str) -> str:
    """Return a text as it stands between tags."""
    return escape(NO_XML.sub("?", text))


def quoted(text: str) -> str:
    """Return a text as it stands behind an attribute's name, quotes included."""
    return quoteattr(NO_XML.sub("?", text))
