"""Reading annotation files: nothing outside the data set's folder, and whatever is wrong is named by file and line."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from focus_env.boxes import clip_box, xywh_to_xyxy
from focus_env.errors import DatasetError
from focus_env.images import picture_wh
from focus_env.types import Box, Frame, Note

XYWH = tuple[float, float, float, float]
"""x_min, y_min, width, height in pixels, as a file has them."""


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
            f"{where}: expected a path below {root}, got {str(path)!r}, which leads nowhere ({error}); copy it again"
        ) from error
    if not target.is_relative_to(root.resolve()):
        raise DatasetError(
            f"{where}: expected a path below {root}, got {path}, a link to {target}; copy what it leads to"
        )


def read_text(path: Path, *, advice: str) -> str:
    """A text file.

    Args:
        path: The file.
        advice: What to do if it is not there.

    Raises:
        DatasetError: If it is not there, or is no text.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: expected this file, found none; {advice}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: expected text, got bytes that are none ({error}); copy it again") from error


def read_lines(path: Path, *, advice: str) -> list[str]:
    """The lines of a text file, without blank ones at its end; see `read_text`."""
    return read_text(path, advice=advice).rstrip().splitlines()


def read_json(path: Path, *, advice: str) -> Any:
    """What a JSON file holds; see `read_text`."""
    try:
        return json.loads(read_text(path, advice=advice))
    except (ValueError, RecursionError) as error:  # ValueError: also of a number with thousands of digits
        raise DatasetError(f"{path}: expected JSON, got something else ({error}); copy it again") from error


def read_boxes(path: Path, *, advice: str) -> list[XYWH]:
    """The boxes of a file with a line for each frame: x_min,y_min,width,height.

    Raises:
        DatasetError: If the file is missing or empty, or a line has anything but four finite numbers.
    """
    boxes: list[XYWH] = []
    for number, line in enumerate(read_lines(path, advice=advice), start=1):
        try:
            x, y, width, height = (float(value) for value in line.split(","))
        except ValueError as error:
            raise DatasetError(
                f"{path}, line {number}: expected x_min,y_min,width,height, got {line!r}; copy the file again"
            ) from error
        if not all(map(math.isfinite, (x, y, width, height))):
            raise DatasetError(f"{path}, line {number}: expected four finite numbers, got {line!r}")
        boxes.append((x, y, width, height))
    if not boxes:
        raise DatasetError(f"{path}: expected one line per frame, got an empty file; copy the file again")
    return boxes


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
            f"{path}: expected {expected} {what}s, as in groundtruth.txt, got {len(values)}; copy it again"
        )
    for number, value in enumerate(values, start=1):
        if value.strip() not in ("0", "1"):
            raise DatasetError(f"{path}, {what} {number}: expected 0 (present) or 1 (absent), got {value!r}")
    return [value.strip() == "1" for value in values]


def numbered_frames(root: Path, folder: Path, *, prefix: str, expected: int) -> tuple[Frame, ...]:
    """The frames 00000001.jpg, 00000002.jpg, … of a folder; their size is read from the header of the first.

    Args:
        root: The data set's folder.
        folder: Where the frames are.
        prefix: What their names begin with.
        expected: How many there are to be.

    Raises:
        DatasetError: If a number is missing or there is one too many, a file is a link out of `root`, or the first is
            no picture.
    """
    with os.scandir(folder) if folder.is_dir() else _nothing(folder) as entries:
        found = {entry.name: entry.is_symlink() for entry in entries if entry.name.endswith(".jpg")}
    names = [f"{number:08d}.jpg" for number in range(1, expected + 1)]
    if sorted(found) != names:
        odd = sorted(set(found) ^ set(names))
        raise DatasetError(
            f"{folder}: expected frames {names[0]} .. {names[-1]}, one per line of groundtruth.txt, "
            f"got {len(found)} frames; {odd[0]} is the first that is missing or too many"
        )
    for name, is_link in found.items():
        if is_link:
            _require_inside(root, folder / name, str(folder / name))
    image_wh = picture_wh(folder / names[0])
    return tuple(Frame(f"{prefix}/{name}", image_wh, folder / name) for name in names)


def _nothing(folder: Path) -> Any:
    raise DatasetError(f"{folder}: expected a folder of frames, found none; unpack or copy it again")


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
