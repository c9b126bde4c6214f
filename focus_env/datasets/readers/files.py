"""Reading annotation files: nothing outside the data set's folder, and whatever is wrong is named by file and line.

Files are read as downloads have them: in UTF-8, UTF-16, UTF-32 with its mark, or Latin-1; with lines that end as on any
system; with values between commas, semicolons, tabs or blanks; beside files that systems and archives leave behind.
"""

from __future__ import annotations

import codecs
import functools
import json
import logging
import math
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from focus_env.boxes import clip_box, xywh_to_xyxy
from focus_env.errors import DatasetError
from focus_env.images import picture_wh
from focus_env.regular_files import open_regular
from focus_env.types import Box, Frame, Note

logger = logging.getLogger(__name__)

XYWH = tuple[float, float, float, float]
"""x_min, y_min, width, height in pixels, as a file has them."""

STRAY = frozenset({"__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "@eadir"})
"""Names in small letters, beside those that begin with a dot."""
LARGEST_TEXT, LARGEST_JSON = 2**26, 2**32
"""Bytes; the longest sequence of LaSOT has a quarter of a megabyte, TAO's files have hundreds."""
LARGEST_NUMBER = 1e9
"""Of pixels; beyond it a number is a mistake."""
# Quantifiers that give nothing back: no line takes longer than its length.
_DIGITS = r"[+-]?+(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][+-]?+[0-9]++)?+"
_BETWEEN = r"(?:\s*+[,;，；]\s*+|\s++)"
NUMBER = re.compile(_DIGITS)
SEPARATOR = re.compile(_BETWEEN)
BOX_LINE = re.compile(r"\s*+" + _BETWEEN.join([f"({_DIGITS})"] * 4) + r"\s*+[,;，；]?+\s*+")
LINE_END = re.compile(r"\r\n|\n|\r")
END_OF_TEXT = " \t\r\n\v\f\0\x1a"  # blanks, zeros of a copy, the mark by which old systems end a file
FRAME = re.compile(r"([0-9]{8})\.(?:jpe?g|png)", re.IGNORECASE)
LEAVE_OUT = "leave the sequence out, with `on_bad` 'skip'"


def inside(root: Path, name: str, *, where: str) -> Path:
    """A path that a file of the data set names, if it stays in the data set's folder.

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
    _require_inside(root, path, where)
    return path


def _require_inside(root: Path, path: Path, where: str) -> None:
    try:
        target = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, or a name that no file can have
        raise DatasetError(
            f"{where}: expected a path below {root}, got {str(path)!r}, which leads nowhere ({error}); correct the "
            "name, or remove it"
        ) from error
    if not target.is_relative_to(root.resolve()):
        raise DatasetError(
            f"{where}: expected a path below {root}, got {path}, a link to {target}; copy what it leads to"
        )


def is_stray(name: str) -> bool:
    """Whether a file or folder is one that systems and archives leave behind, which no data set names.

    >>> [is_stray(name) for name in ("._00000001.jpg", ".DS_Store", "Thumbs.db", "__MACOSX", "00000001.jpg")]
    [True, True, True, True, False]
    """
    return name.startswith(".") or name.lower() in STRAY


def as_name(text: str) -> str:
    r"""A name that can be printed and stored: controls, and halves of characters, become question marks.

    >>> as_name("caf\udce9\n")
    'caf??'
    """
    return "".join("?" if unicodedata.category(character) in ("Cc", "Cs") else character for character in text)


def read_text(path: Path, *, advice: str, root: Path | None = None, max_bytes: int = LARGEST_TEXT) -> str:
    """A text file: UTF-8, UTF-16, UTF-32 with its mark, or else Latin-1.

    Args:
        path: The file.
        advice: What to do if it is not there.
        root: The folder that it must lie in, links followed; None: anywhere.
        max_bytes: Most bytes that are read.

    Raises:
        DatasetError: If it is not there, is no regular file, leads out of `root`, is too large, or is no text.
    """
    if root is not None:
        _require_inside(root, path, str(path))
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
    try:
        return _as_text(content)
    except ValueError as error:
        raise DatasetError(
            f"{path}: expected text, got bytes that are none ({error}); replace it by the file of the data set, or "
            "save it as UTF-8"
        ) from error


def _as_text(content: bytes) -> str:
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
    """The lines of a text file, without blank ones at its end; see `read_text`."""
    text = read_text(path, advice=advice, root=root).rstrip(END_OF_TEXT)
    return LINE_END.split(text) if text else []


def read_json(path: Path, *, advice: str, root: Path | None = None) -> Any:
    """What a JSON file holds; see `read_text`."""
    try:
        return json.loads(read_text(path, advice=advice, root=root, max_bytes=LARGEST_JSON))
    except (ValueError, RecursionError) as error:  # ValueError: also of a number with thousands of digits
        raise DatasetError(
            f"{path}: expected JSON, got something else ({error}); replace it by the file of the data set"
        ) from error


def finite_number(value: object) -> float | None:
    """The one reader of numbers, as texts and JSON have them.

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
    r"""The values of a line, between commas, semicolons, tabs or blanks; one separator may end it.

    >>> split_fields("1, 2\t3;4,")
    ['1', '2', '3', '4']
    """
    fields = SEPARATOR.split(line.strip())
    return fields[:-1] if len(fields) > 1 and not fields[-1] else fields


def read_boxes(path: Path, *, advice: str, root: Path | None = None) -> list[XYWH]:
    """The boxes of a file with a line for each frame: x_min,y_min,width,height, see `split_fields`.

    Raises:
        DatasetError: If the file is missing or empty, or a line has anything but four finite numbers.
    """
    boxes: list[XYWH] = []
    lines = read_lines(path, advice=advice, root=root)
    if not lines:
        raise DatasetError(
            f"{path}: expected one line per frame, got an empty file; replace it by the data set's, or {LEAVE_OUT}"
        )
    for number, line in enumerate(lines, start=1):
        match = BOX_LINE.fullmatch(line)
        x, y, width, height = map(float, match.groups()) if match else (math.nan,) * 4
        if not max(abs(x), abs(y), abs(width), abs(height)) <= LARGEST_NUMBER:
            where = f"{path}, line {number}"
            raise DatasetError(
                f"{where}: expected {_expected(line)}, got {_brief(line)}; correct the line, or {LEAVE_OUT}"
            )
        boxes.append((x, y, width, height))
    return boxes


def _expected(line: str) -> str:
    """Of a line that holds no box: the name of its fields, or that they are to be finite, if that is all."""
    fields = split_fields(line)
    are_numbers = len(fields) == 4 and all(NUMBER.fullmatch(field) or _is_not_finite(field) for field in fields)
    return "four finite numbers" if are_numbers else "x_min,y_min,width,height"


def _is_not_finite(field: str) -> bool:
    return field.lower().lstrip("+-") in ("nan", "inf", "infinity")


def _brief(text: str) -> str:
    return repr(text if len(text) <= 100 else f"{text[:100]}…")


def as_flags(values: list[str], *, expected: int, what: str, path: Path) -> list[bool]:
    """The 0 and 1 of a label file.

    Args:
        values: As the file has them.
        expected: How many there are to be.
        what: What separates them, e.g. ``"line"``.
        path: The file, for errors.

    Raises:
        DatasetError: If there are more or fewer, or one is neither 0 nor 1.
    """
    if len(values) != expected:
        raise DatasetError(
            f"{path}: expected {expected} {what}s, as in groundtruth.txt, got {len(values)}; one of the two files is "
            f"not whole: replace it by the data set's, or {LEAVE_OUT}"
        )
    plain = {"0": 0.0, "1": 1.0}
    numbers = [plain[value] if value in plain else finite_number(value.rstrip(" \t,;")) for value in values]
    for position, number in enumerate(numbers):
        if number not in (0, 1):
            raise DatasetError(
                f"{path}, {what} {position + 1}: expected 0 (present) or 1 (absent), got {_brief(values[position])}; "
                f"correct it, or {LEAVE_OUT}"
            )
    return [number == 1 for number in numbers]


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, once in a process."""
    logger.warning("%s", message)


def numbered_frames(root: Path, folder: Path, *, prefix: str, expected: int) -> tuple[Frame, ...]:
    """The frames 00000001.jpg, 00000002.jpg, … of a folder; their size is read from the header of the first.

    Endings may be in capitals, and .jpeg or .png; files of other names are passed over.

    Args:
        root: The data set's folder.
        folder: Where the frames are.
        prefix: What their names begin with.
        expected: How many there are to be.

    Raises:
        DatasetError: If a number is missing or there is one too many, a file is a link out of `root`, or the first is
            no picture.
    """
    found: dict[str, tuple[str, bool]] = {}  # by number, the file's name and whether it is a link
    with _scan(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            match = FRAME.fullmatch(entry.name)
            if match and (match[1] not in found or entry.name == f"{match[1]}.jpg"):
                found[match[1]] = entry.name, entry.is_symlink()
    numbers = [f"{number:08d}" for number in range(1, expected + 1)]
    if sorted(found) != numbers:
        odd = min(set(found) ^ set(numbers))
        what, advice = ("too many", "delete it") if odd in found else ("missing", "put it there")
        raise DatasetError(
            f"{folder}: expected frames {numbers[0]}.jpg .. {numbers[-1]}.jpg, one per line of groundtruth.txt, got "
            f"{len(found)} frames; {found[odd][0] if odd in found else f'{odd}.jpg'} is the first that is {what}: "
            f"{advice}, or {LEAVE_OUT}"
        )
    for name, is_link in found.values():
        if is_link:
            _require_inside(root, folder / name, str(folder / name))
    names = [found[number][0] for number in numbers]
    image_wh = picture_wh(folder / names[0])
    return tuple(Frame(f"{prefix}/{name}", image_wh, folder / name) for name in names)


def _scan(folder: Path) -> AbstractContextManager[Iterator[os.DirEntry[str]]]:
    try:
        return os.scandir(folder)
    except OSError as error:
        raise DatasetError(
            f"{folder}: expected a folder of frames, found none ({error.strerror}); unpack it, or {LEAVE_OUT}"
        ) from None


def placed_box(box: XYWH, image_wh: tuple[int, int], *, is_flagged: bool = False) -> tuple[Box | None, Note]:
    """What becomes of a box of a file.

    Args:
        box: Finite numbers.
        image_wh: (width, height) of its picture in pixels.
        is_flagged: Whether the source says that the object cannot be seen.

    Returns:
        The part of the box that lies in the picture, `xyxy`, None where there is none; and what is odd about it.
    """
    _, _, width, height = box
    clipped = clip_box(xywh_to_xyxy(box), image_wh) if width > 0 and height > 0 else None
    if is_flagged:
        return clipped, "flagged_absent"
    if clipped is not None:
        return clipped, ""
    if width < 0 or height < 0:
        return None, "negative_size"
    return None, "no_size" if width == 0 or height == 0 else "outside"
