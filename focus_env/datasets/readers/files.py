"""Reading labels of videos, and what becomes of a box; whatever is wrong is named by file and line.

Files are read as downloads have them, see `focus_env.text_files`.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from focus_env.boxes import clip_box, xywh_to_xyxy
from focus_env.errors import DatasetError
from focus_env.images import picture_wh
from focus_env.text_files import (
    BETWEEN,
    DIGITS,
    LARGEST_NUMBER,
    NUMBER,
    finite_number,
    read_lines,
    require_inside,
    split_fields,
)
from focus_env.types import Box, Frame, Note

logger = logging.getLogger(__name__)

XYWH = tuple[float, float, float, float]
"""x_min, y_min, width, height in pixels, as a file has them."""

BOX_LINE = re.compile(r"\s*+" + BETWEEN.join([f"({DIGITS})"] * 4) + r"\s*+[,;，；]?+\s*+")
FRAME = re.compile(r"([0-9]{8})\.(?:jpe?g|png)", re.IGNORECASE)
LEAVE_OUT = "leave the sequence out, with `on_bad` 'skip'"


def read_boxes(path: Path, *, advice: str, root: Path | None = None) -> list[XYWH]:
    """Return the boxes of a file with a line for each frame: x_min,y_min,width,height, see `split_fields`.

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
    """Name the fields of a line that holds no box; or say that they are to be finite, if that is all."""
    fields = split_fields(line)
    are_numbers = len(fields) == 4 and all(NUMBER.fullmatch(field) or _is_not_finite(field) for field in fields)
    return "four finite numbers" if are_numbers else "x_min,y_min,width,height"


def _is_not_finite(field: str) -> bool:
    return field.lower().lstrip("+-") in ("nan", "inf", "infinity")


def _brief(text: str) -> str:
    return repr(text if len(text) <= 100 else f"{text[:100]}…")


def as_flags(values: list[str], *, expected: int, what: str, path: Path) -> list[bool]:
    """Return the 0 and 1 of a label file.

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
    """Return the frames 00000001.jpg, 00000002.jpg, … of a folder; their size is read from the header of the first.

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
            require_inside(root, folder / name, str(folder / name))
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
    """Place a box of a file in its picture, or note why there is none.

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
