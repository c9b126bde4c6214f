"""Reading text files that others wrote: nothing outside a folder, in any encoding, numbers that are numbers.

Files are read as downloads have them: in UTF-8, UTF-16, UTF-32 with its mark, or Latin-1; with lines that end as on any
system; with values between commas, semicolons, tabs or blanks; beside files that systems and archives leave behind.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import unicodedata
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from focus_env.errors import DatasetError
from focus_env.regular_files import open_regular

STRAY = frozenset({"__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "@eadir"})
"""Names in small letters, beside those that begin with a dot."""
LARGEST_TEXT, LARGEST_JSON = 2**26, 2**32
"""Bytes; the longest sequence of LaSOT has a quarter of a megabyte, TAO's files have hundreds."""
LARGEST_NUMBER = 1e9
"""Of pixels; beyond it a number is a mistake."""
# Quantifiers that give nothing back: no line takes longer than its length.
DIGITS = r"[+-]?+(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][+-]?+[0-9]++)?+"
BETWEEN = r"(?:\s*+[,;，；]\s*+|\s++)"
NUMBER = re.compile(DIGITS)
SEPARATOR = re.compile(BETWEEN)
LINE_END = re.compile(r"\r\n|\n|\r")
END_OF_TEXT = " \t\r\n\v\f\0\x1a"  # blanks, zeros of a copy, the mark by which old systems end a file


def inside(root: Path, name: str, *, where: str) -> Path:
    """Return a path that a file of the data set names, if it stays in the data set's folder.

    Args:
        root: The data set's folder.
        name: The path relative to it, with forward slashes.
        where: What names it, for the error: a file, with a line or an entry.

    Raises:
        DatasetError: If the path is absolute or empty, goes up, or follows a link to somewhere else.
    """
    parts = PurePosixPath(name).parts
    is_plain = bool(parts) and ".." not in parts and "\\" not in name and "\0" not in name
    if not is_plain or PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive:
        raise DatasetError(f"{where}: expected a path below {root}, got {name!r}; it must be relative and not go up")
    path = root / name
    require_inside(root, path, where)
    return path


def require_inside(root: Path, path: Path, where: str) -> None:
    """Refuse a path that leads out of a folder, links followed.

    Args:
        root: The folder.
        path: The path, which need not be there.
        where: What names it, for the error.

    Raises:
        DatasetError: If it leads somewhere else, or nowhere.
    """
    try:
        target = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, or a name that no file can have
        raise DatasetError(
            f"{where}: expected a path below {root}, got {str(path)!r}, which leads nowhere ({error}); correct the "
            "name, or remove it"
        ) from error
    if not target.is_relative_to(root.resolve()):
        raise DatasetError(
            f"{where}: expected a path below {root}, got {path}, a link to {target}; copy the target of the link"
        )


def is_stray(name: str) -> bool:
    """Return whether a file or folder is one that systems and archives leave behind, which no data set names.

    >>> [is_stray(name) for name in ("._00000001.jpg", ".DS_Store", "Thumbs.db", "__MACOSX", "00000001.jpg")]
    [True, True, True, True, False]
    """
    return name.startswith(".") or name.lower() in STRAY


def as_name(text: str) -> str:
    r"""Return a name that can be printed and stored: controls, and halves of characters, become question marks.

    >>> as_name("caf\udce9\n")
    'caf??'
    """
    return "".join("?" if unicodedata.category(character) in ("Cc", "Cs") else character for character in text)


def read_bytes(path: Path, *, advice: str, root: Path | None = None, max_bytes: int = LARGEST_TEXT) -> bytes:
    """Return what is in a file; arguments and errors are those of `read_text`."""
    if root is not None:
        require_inside(root, path, str(path))
    try:
        with open_regular(path) as file:
            content = file.read(max_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetError(f"{path}: expected this file, found none; {advice}") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: expected a text file that can be read: {error}; replace it") from error
    if len(content) > max_bytes:
        raise DatasetError(
            f"{path}: expected at most {max_bytes} bytes of text, got more; replace it by the data set's"
        )
    return content


def read_text(path: Path, *, advice: str, root: Path | None = None, max_bytes: int = LARGEST_TEXT) -> str:
    """Return a text file: UTF-8, UTF-16, UTF-32 with its mark, or else Latin-1.

    Args:
        path: The file.
        advice: What to do if it is not there.
        root: The folder that it must lie in, links followed; None: anywhere.
        max_bytes: Most bytes that are read.

    Raises:
        DatasetError: If it is not there, is no regular file, leads out of `root`, is too large, or is no text.
    """
    content = read_bytes(path, advice=advice, root=root, max_bytes=max_bytes)
    try:
        return as_text(content)
    except ValueError as error:
        raise DatasetError(
            f"{path}: expected text, got bytes that are none ({error}); replace it by the file of the data set, or "
            "save it as UTF-8"
        ) from error


def as_text(content: bytes) -> str:
    """Return the text that bytes spell, in the encoding that they are in.

    Raises:
        ValueError: If they spell none.
    """
    if content.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return content.decode("utf-32")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = content.decode("utf-16")
        if not text:
            raise ValueError("the mark of UTF-16 and nothing else")
        return text
    if content[1:2] == b"\0" and content[:1] not in (b"", b"\0") and len(content) % 2 == 0:
        return content.decode("utf-16-le")  # without its mark: a text in UTF-8 has no zeros
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        if b"\0" in content:
            raise
        return content.decode("latin-1")  # numbers are the same in all of these


def read_lines(path: Path, *, advice: str, root: Path | None = None) -> list[str]:
    """Return the lines of a text file, without blank ones at its end; see `read_text`."""
    text = read_text(path, advice=advice, root=root).rstrip(END_OF_TEXT)
    return LINE_END.split(text) if text else []


def read_json(path: Path, *, advice: str, root: Path | None = None) -> Any:
    """Return the content of a JSON file; see `read_text`."""
    try:
        return json.loads(read_text(path, advice=advice, root=root, max_bytes=LARGEST_JSON))
    except (ValueError, RecursionError) as error:  # ValueError: also of a number with thousands of digits
        raise DatasetError(
            f"{path}: expected JSON, got something else ({error}); replace it by the file of the data set"
        ) from error


def finite_number(value: object) -> float | None:
    """Return the one reader of numbers, as texts and JSON have them.

    Args:
        value: A text, or a value of JSON.

    Returns:
        The number; None for anything that is no number of pixels: words, `nan` and infinities, also those of JSON, what
        is beyond `LARGEST_NUMBER`, truth values, digits that are not ASCII, and `1_0`, which Python would read.

    >>> [finite_number(value) for value in (" 1.5", "1e2", 7, "nan", "1_0", True, 1e300)]
    [1.5, 100.0, 7.0, None, None, None, None]
    """
    if isinstance(value, str):
        number = float(value) if NUMBER.fullmatch(value.strip()) else math.nan
    elif type(value) in (int, float):  # bool is a kind of int
        number = value if abs(value) <= LARGEST_NUMBER else math.nan  # type: ignore[arg-type, assignment]
    else:
        return None
    return float(number) if abs(number) <= LARGEST_NUMBER else None  # which NaN is not


def json_numbers(values: object, count: int) -> list[float] | None:
    """So many numbers of a list of JSON, none of them written as a text; None if it holds anything else."""
    if not isinstance(values, list) or len(values) != count or any(isinstance(value, str) for value in values):
        return None
    numbers = [number for value in values if (number := finite_number(value)) is not None]
    return numbers if len(numbers) == count else None


def split_fields(line: str) -> list[str]:
    r"""Return the values of a line, between commas, semicolons, tabs or blanks; one separator may end it.

    >>> split_fields("1, 2\t3;4,")
    ['1', '2', '3', '4']
    """
    fields = SEPARATOR.split(line.strip())
    return fields[:-1] if len(fields) > 1 and not fields[-1] else fields


def yaml_fault(error: Exception) -> str:
    """Return what is wrong with a YAML file and where, in one line: PyYAML's own errors have several, and no file.

    Args:
        error: What reading it raised.
    """
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    context, position = getattr(error, "context", None), getattr(error, "position", None)
    if mark is not None and problem is not None:
        during = f", {context}" if context else ""
        return f"a fault in line {mark.line + 1}, column {mark.column + 1}: {problem}{during}"
    first = str(error).partition("\n")[0]  # of a character that cannot be read, behind it stands its place
    return f"a fault in character {position + 1}: {first}" if isinstance(position, int) else first
