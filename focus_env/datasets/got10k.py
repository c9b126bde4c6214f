"""GOT-10k: from files to tracks (https://got-10k.aitestunion.com, Huang et al., arXiv:1810.11981).

Layout, with one line per frame in the label files:

    <root>/{train,val}/list.txt                       one sequence name per line
    <root>/{train,val}/<sequence>/%08d.jpg            frames, from 00000001
    <root>/{train,val}/<sequence>/groundtruth.txt     x_min,y_min,width,height in pixels
    <root>/{train,val}/<sequence>/absence.label       1 where the object is absent, else 0
    <root>/{train,val}/<sequence>/meta_info.ini       "key: value" lines, object_class among them

What is made of defects:

    absence flag 1, or a width or height <= 0         no box in that frame
    a box that reaches beyond the picture             clipped; no box where nothing of it is left
    object_class missing                              category None
    a file missing, a line too many or too few,       DatasetError: file, line, what was expected and found
    anything but numbers, a frame number left out

The size of a sequence's frames is read from the header of its first one: ``resolution`` in meta_info.ini says
the same, and where it does not, the file is right. No frame is decoded until its picture is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import overload

from PIL import Image, UnidentifiedImageError

from focus_env.errors import DatasetError
from focus_env.types import Box, Frame, Track

SPLITS = ("train", "val")


class Got10kTracks(Sequence[Track]):
    """The sequences of a split, read from their files each time one is asked for.

    Args:
        root: The folder that holds ``train`` and ``val``.
        split: ``"train"`` or ``"val"``.

    Raises:
        ValueError: If the split does not exist.
        DatasetError: If the split is not there, or is ``"test"``, whose boxes are not public.
    """

    def __init__(self, root: str | Path, *, split: str) -> None:
        if split == "test":
            raise DatasetError(
                "GOT-10k publishes only the first box of each test sequence, so no query could be scored; "
                "use split 'val'"
            )
        if split not in SPLITS:
            raise ValueError(f"GOT-10k split must be one of {SPLITS}, got {split!r}")
        self._folder = Path(root) / split
        self._split = split
        self._names = [line.strip() for line in _lines(self._folder / "list.txt") if line.strip()]

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> Track: ...
    @overload
    def __getitem__(self, index: slice) -> list[Track]: ...
    def __getitem__(self, index: int | slice) -> Track | list[Track]:
        if isinstance(index, slice):
            return [self._read(name) for name in self._names[index]]
        return self._read(self._names[index])

    def _read(self, name: str) -> Track:
        folder = self._folder / name
        corners = _read_boxes(folder / "groundtruth.txt")
        flags = _read_flags(folder / "absence.label", expected=len(corners))
        frames = _read_frames(folder, prefix=f"{self._split}/{name}", expected=len(corners))
        boxes = tuple(
            None if is_absent else _clip(box, frame.image_wh)
            for box, is_absent, frame in zip(corners, flags, frames, strict=True)
        )
        return Track(identity=name, frames=frames, boxes=boxes, category=_read_category(folder))


def _lines(path: Path) -> list[str]:
    """The lines of a text file, without blank ones at its end."""
    if not path.is_file():
        raise DatasetError(
            f"{path}: expected this file of GOT-10k, found none; "
            "pass as root the folder that holds train/list.txt and val/list.txt"
        )
    try:
        return path.read_text(encoding="utf-8").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: expected text, got bytes that are none ({error}); copy it again") from error


def _read_boxes(path: Path) -> list[Box]:
    """The boxes of groundtruth.txt as `xyxy`, whatever their size."""
    boxes = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            x, y, width, height = (float(value) for value in line.split(","))
        except ValueError as error:
            raise DatasetError(
                f"{path}, line {number}: expected x_min,y_min,width,height, got {line!r}; copy the file again"
            ) from error
        if not all(map(math.isfinite, (x, y, width, height))):
            raise DatasetError(f"{path}, line {number}: expected four finite numbers, got {line!r}")
        boxes.append(Box(x, y, x + width, y + height))
    if not boxes:
        raise DatasetError(f"{path}: expected one line per frame, got an empty file; copy the file again")
    return boxes


def _read_flags(path: Path, *, expected: int) -> list[bool]:
    lines = [line.strip() for line in _lines(path)]
    if len(lines) != expected:
        raise DatasetError(f"{path}: expected {expected} lines, as in groundtruth.txt, got {len(lines)}; copy it again")
    for number, line in enumerate(lines, start=1):
        if line not in ("0", "1"):
            raise DatasetError(f"{path}, line {number}: expected 0 (present) or 1 (absent), got {line!r}")
    return [line == "1" for line in lines]


def _read_frames(folder: Path, *, prefix: str, expected: int) -> tuple[Frame, ...]:
    found = sorted(path.name for path in folder.glob("*.jpg"))
    names = [f"{number:08d}.jpg" for number in range(1, expected + 1)]
    if found != names:
        odd = sorted(set(found) ^ set(names))
        raise DatasetError(
            f"{folder}: expected frames {names[0]} .. {names[-1]}, one per line of groundtruth.txt, "
            f"got {len(found)} frames; {odd[0]} is the first that is missing or too many"
        )
    try:
        with Image.open(folder / names[0]) as picture:  # reads the header alone
            image_wh = picture.size
    except UnidentifiedImageError as error:
        raise DatasetError(
            f"{folder / names[0]}: expected a JPEG file, got something else; copy the sequence again"
        ) from error
    return tuple(Frame(f"{prefix}/{name}", image_wh, folder / name) for name in names)


def _read_category(folder: Path) -> str | None:
    for line in _lines(folder / "meta_info.ini"):
        key, _, value = line.partition(":")
        if key.strip() == "object_class":
            return value.strip() or None
    return None


def _clip(box: Box, image_wh: tuple[int, int]) -> Box | None:
    """The part of a box inside the picture; None where it has no area."""
    width, height = image_wh
    x1, y1 = max(box.x1, 0.0), max(box.y1, 0.0)
    x2, y2 = min(box.x2, float(width)), min(box.y2, float(height))
    return Box(x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None
