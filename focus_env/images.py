"""Picture files: their size without decoding, and their pixels at the size that is needed.

JPEG decoders can leave out detail while they decode, by 2, 4 or 8, in a fraction of the time; `shown_wh` prefers such
sizes, and `decode` starts from the nearest one above.
"""

from __future__ import annotations

import io
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from focus_env.errors import DatasetError

LARGEST_PICTURE = 64_000_000
"""Pixels beyond which a file is taken for a decompression bomb; a hundred times those of a video frame."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
"""What a file may be. Pillow reads many more, whose readers meet less care, and one of which starts a program."""

REDUCTIONS = (8, 4, 2)
JPEG_END = b"\xff\xd9"
LONGEST_TAIL = 1024  # bytes that may follow the end; some cameras write them
WORTH_REDUCING = 0.75
"""A size that costs nothing beyond decoding is taken if it has this share of the pixels that are admitted."""


def shown_wh(image_wh: tuple[int, int], max_pixels: int | None) -> tuple[int, int]:
    """The size at which a picture is shown: at most so many pixels, the same shape, never larger than it is.

    Args:
        image_wh: (width, height) in pixels.
        max_pixels: Most pixels; None: any number.

    Returns:
        The size itself if it fits; else a half, a quarter or an eighth of it, rounded up, if that fits and has three
        quarters of `max_pixels`; else the largest that fits.

    Raises:
        ValueError: If `max_pixels` is less than 1.

    >>> shown_wh((1280, 720), 276_480), shown_wh((1920, 1080), 276_480), shown_wh((640, 360), 276_480)
    ((640, 360), (701, 394), (640, 360))
    """
    width, height = image_wh
    if max_pixels is not None and max_pixels < 1:
        raise ValueError(f"max_pixels must be at least 1, or None for any number, got {max_pixels!r}")
    if max_pixels is None or width * height <= max_pixels:
        return image_wh
    for reduction in REDUCTIONS:
        reduced = _reduced(image_wh, reduction)
        if WORTH_REDUCING * max_pixels <= reduced[0] * reduced[1] <= max_pixels:
            return reduced
    # isqrt(a // b) is the whole part of sqrt(a / b), which floats sometimes miss by one.
    fitting = math.isqrt(width * max_pixels // height), math.isqrt(height * max_pixels // width)
    # A picture may be so thin that one pixel is more than its share.
    return min(max(1, fitting[0]), max_pixels), min(max(1, fitting[1]), max_pixels)


def picture_wh(path: Path) -> tuple[int, int]:
    """(width, height) of a picture file, from its header.

    Raises:
        DatasetError: If there is none, it is no picture, or it is larger than `LARGEST_PICTURE`.
    """
    try:
        with Image.open(path, formats=FORMATS) as picture:
            size = picture.size
    except FileNotFoundError:
        raise DatasetError(f"{path}: expected a picture, found no file; unpack or copy the data set again") from None
    except UnidentifiedImageError:
        raise DatasetError(
            f"{path}: expected a picture, got something else than {', '.join(FORMATS)}; copy it again, or convert it"
        ) from None
    except Image.DecompressionBombError as error:
        raise DatasetError(f"{path}: expected a picture of a usual size: {error}; remove it") from error
    except (OSError, ValueError) as error:  # ValueError: of a damaged head
        raise DatasetError(f"{path}: expected a picture that can be read: {error}; copy it again") from error
    _require_usual_size(size, str(path))
    return size


def _require_usual_size(size: tuple[int, int], where: str) -> None:
    if size[0] * size[1] > LARGEST_PICTURE:
        raise DatasetError(
            f"{where}: expected at most {LARGEST_PICTURE} pixels, got {size[0]} x {size[1]}; it may be a decompression "
            "bomb, remove it"
        )


def check_picture(path: Path, file_wh: tuple[int, int]) -> None:
    """Look at the head and the end of a file: has it the size, and if it is a JPEG, was it copied to its end?

    Raises:
        DatasetError: If not.
    """
    if (found := picture_wh(path)) != file_wh:
        raise DatasetError(f"{path}: expected {file_wh[0]} x {file_wh[1]} pixels, got {found[0]} x {found[1]}")
    if path.suffix.lower() in (".jpg", ".jpeg"):
        with path.open("rb") as file:
            file.seek(-min(LONGEST_TAIL, path.stat().st_size), os.SEEK_END)
            if JPEG_END not in file.read():
                raise DatasetError(f"{path}: expected a whole JPEG, got one without an end; copy it again")


def decode(
    source: Path | bytes, *, file_wh: tuple[int, int], image_wh: tuple[int, int], name: str
) -> npt.NDArray[np.uint8]:
    """The pixels of a picture file.

    Args:
        source: The file, or what is in it.
        file_wh: (width, height) that it must have.
        image_wh: (width, height) of the result, not larger.
        name: Names the picture in errors.

    Returns:
        [H, W, 3] uint8, RGB.

    Raises:
        DatasetError: If it cannot be decoded, is larger than `LARGEST_PICTURE`, or has another size, since boxes would
            then mean something else.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as picture:
            if picture.size != file_wh:
                raise DatasetError(
                    f"picture {name!r}: expected {file_wh[0]} x {file_wh[1]} pixels, got {picture.size[0]} x "
                    f"{picture.size[1]}; index the data set again"
                )
            _require_usual_size(file_wh, f"picture {name!r}")
            reduction = next((r for r in REDUCTIONS if _covers(_reduced(file_wh, r), image_wh)), 1)
            drafted = picture.draft("RGB", (max(1, file_wh[0] // reduction), max(1, file_wh[1] // reduction)))
            pixels = picture.convert("RGB")
            # The last column and row may lie partly outside the picture; without this, it would be stretched.
            extent = drafted[1] if drafted else (0, 0, *pixels.size)
            is_done = pixels.size == image_wh == extent[2:]
            return np.array(pixels if is_done else pixels.resize(image_wh, box=extent))
    except FileNotFoundError:
        raise DatasetError(f"picture {name!r}: expected the file {source!s}, found none; copy it again") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"picture {name!r}: expected a whole picture: {error}; copy it again") from error


def _reduced(image_wh: tuple[int, int], reduction: int) -> tuple[int, int]:
    return -(-image_wh[0] // reduction), -(-image_wh[1] // reduction)


def _covers(image_wh: tuple[int, int], other_wh: tuple[int, int]) -> bool:
    return image_wh[0] >= other_wh[0] and image_wh[1] >= other_wh[1]


class PictureCache:
    """The pictures that were asked for last, up to a number of bytes; threads may share it.

    Args:
        max_bytes: Of pixels, together. 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._pictures: OrderedDict[Hashable, npt.NDArray[np.uint8]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
        """The picture of a key, made if it is not here; not to be written into."""
        with self._lock:
            if key in self._pictures:
                self._pictures.move_to_end(key)
                return self._pictures[key]
        picture = make()
        with self._lock:
            if key not in self._pictures and picture.nbytes <= self.max_bytes:
                self._pictures[key] = picture
                self.num_bytes += picture.nbytes
            while self.num_bytes > self.max_bytes:
                self.num_bytes -= self._pictures.popitem(last=False)[1].nbytes
        return picture


RECENT = PictureCache(256 * 2**20)
"""What this process has decoded from files; set `max_bytes` for another bound."""
