"""Picture files before they are decoded: what they may be, how they are turned, and whether they have an end."""

from __future__ import annotations

import contextlib
import io
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image, UnidentifiedImageError

from focus_env.regular_files import open_regular

LARGEST_FILE = 2**29
"""Bytes beyond which no file is read as a picture: eight for each pixel of the largest."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Formats that a file may have, whatever its name ends in. Pillow reads more, and of these one starts a program."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation, what shows the picture upright."""
LONGEST_EXIF = 2**20

DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, EOFError, RuntimeError,
    MemoryError, struct.error, Image.DecompressionBombError,
)  # fmt: skip
"""Errors that Pillow raises of damaged files."""
JPEG_END = b"\xff\xd9"
JPEG_SCAN = b"\xda"
JPEG_MARK = re.compile(rb"\xff++([^\xff])")
JPEG_MARK_IN_PIXELS = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""But for those that only divide the pixels."""
PNG_END = b"IEND"
MOST_PNG_CHUNKS = 2**17
"""Twice those of the largest file in chunks of a usual size; a hostile one has more, of no length."""
LONGEST_TAIL = 1024
"""Bytes at the end of a file that are looked at first for an end. Phones put films of megabytes behind it."""


@contextlib.contextmanager
def opened(source: Path | bytes, formats: tuple[str, ...] = FORMATS) -> Iterator[tuple[Image.Image, int]]:
    """Open a picture, which is not decoded yet, and still as its file has it.

    Args:
        source: The file, or what is in it.
        formats: What it may be.

    Yields:
        The picture, and its EXIF orientation: a key of `TURNS`, or 1.

    Raises:
        OSError: If there is no regular file, it is no picture, or it has more than `LARGEST_FILE` bytes.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else open_regular(source) as file:
        if (length := file.seek(0, os.SEEK_END)) > LARGEST_FILE:
            raise OSError(f"expected a picture of at most {LARGEST_FILE} bytes, got {length}")
        file.seek(0)
        try:
            picture = Image.open(file, formats=formats)
        except UnidentifiedImageError:
            raise UnidentifiedImageError(f"cannot identify it as one of {', '.join(formats)}") from None
        with picture:
            if picture.format == "PNG":
                _complete_png(picture, file)
            yield picture, orientation_of(picture)


def orientation_of(picture: Image.Image) -> int:
    """Return the turn that the pixels need: a key of `TURNS`, or 1, also where the file's word for it is damaged."""
    if picture.format == "TIFF":  # Pillow turns these itself
        return 1
    try:
        # Not the PNG's own `getexif`, which decodes the pixels first.
        orientation = Image.Image.getexif(picture).get(ExifTags.Base.Orientation)
    except DECODER_ERRORS:
        return 1
    return orientation if isinstance(orientation, int) and orientation in TURNS else 1


def _complete_png(picture: Image.Image, file: BinaryIO) -> None:
    """Put right what Pillow does not know of a PNG before it is decoded."""
    hole = picture.info.get("transparency")
    if picture.mode == "L" and isinstance(hole, int):  # written in the bits of the file, which may be 2 or 4
        picture.info["transparency"] = hole * {"L;2": 85, "L;4": 17}.get(str(picture.tile[0][3]), 1)  # type: ignore[attr-defined]
    if "exif" in picture.info or "Raw profile type exif" in picture.info:
        return
    place = file.tell()
    for name, length in _png_chunks(file):  # EXIF may lie behind the pixels
        if name == b"eXIf" and length <= LONGEST_EXIF:
            picture.info["exif"] = file.read(length)
            break
    file.seek(place)


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Name and length of each part of a PNG, while the file stands at what is in it."""
    place = 8
    for _ in range(MOST_PNG_CHUNKS):
        file.seek(place)
        if len(head := file.read(8)) < 8:
            return
        length, name = struct.unpack(">I4s", head)
        yield name, length
        place += length + 12


def has_end(file: BinaryIO, kind: str) -> bool:
    """Return whether a file of a format was copied to its end, as far as the format says so.

    Args:
        file: The whole file.
        kind: Its format, as Pillow names it.
    """
    length = file.seek(0, os.SEEK_END)
    file.seek(-min(LONGEST_TAIL, length), os.SEEK_END)
    tail = file.read()
    if kind in ("JPEG", "MPO"):
        return JPEG_END in tail or _is_whole_jpeg(file)
    if kind == "PNG":
        return PNG_END in tail or any(name == PNG_END for name, _ in _png_chunks(file))
    return True  # Pillow opens no WebP that is cut, and others do not say


def _is_whole_jpeg(file: BinaryIO) -> bool:
    """Return whether the pixels have an end, which may lie far before that of the file."""
    file.seek(0)
    content = file.read(LARGEST_FILE)
    place = 2
    while (mark := JPEG_MARK.match(content, place)) and mark[1] != JPEG_END[1:]:
        place = mark.end() + int.from_bytes(content[mark.end() : mark.end() + 2])
        if mark[1] == JPEG_SCAN:
            found = JPEG_MARK_IN_PIXELS.search(content, place)
            if found is None:
                return False
            place = found.start()
    return mark is not None
