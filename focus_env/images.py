"""The one reader of pictures: their size without decoding, and their pixels at the size that is needed.

A picture is as a person sees it. Its size and its pixels are those after the turn that its EXIF orientation asks for,
in 8 bits of sRGB over white, see `focus_env.colours`, and of an animation the first frame. So boxes are in pixels of
the picture as viewers and labelling tools show it.

JPEG decoders can leave out detail while they decode, by 2, 4 or 8, in a fraction of the time; `shown_wh` prefers such
sizes, and `decode` starts from the nearest one above.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from focus_env.colours import as_rgb
from focus_env.errors import DatasetError
from focus_env.picture_files import DECODER_ERRORS, FORMATS, TURNS, has_end, opened, orientation_of
from focus_env.regular_files import open_regular

LARGEST_PICTURE = 64_000_000
"""Pixels beyond which a file is taken for a decompression bomb; a hundred times those of a video frame."""

LEAVE_OUT = ", or leave it out, with `on_bad` 'skip'"
"""Advice about a picture of a data set, beside mending it."""

REDUCTIONS = (8, 4, 2)
WORTH_REDUCING = 0.75
"""A size that costs nothing beyond decoding is taken if it has this share of the pixels that are admitted."""


def shown_wh(image_wh: tuple[int, int], max_pixels: int | None) -> tuple[int, int]:
    """Return the size at which a picture is shown: at most so many pixels, the same shape, never larger than it is.

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


def enlarged_wh(image_wh: tuple[int, int], min_pixels: int) -> tuple[int, int]:
    """Return the size at which a small picture is shown: at least so many pixels, nearly the same shape, never smaller.

    Args:
        image_wh: (width, height) in pixels.
        min_pixels: Least pixels.

    Raises:
        ValueError: If `min_pixels` is less than 1.

    >>> enlarged_wh((64, 48), 12_288), enlarged_wh((1280, 720), 12_288)
    ((128, 96), (1280, 720))
    """
    if min_pixels < 1:
        raise ValueError(f"min_pixels must be at least 1, or None for any number, got {min_pixels!r}")
    width, height = image_wh
    if width * height >= min_pixels:
        return image_wh
    # The whole part of sqrt((a - 1) / b), and one more: the least whole number whose square is at least a / b.
    least = (math.isqrt((width * min_pixels - 1) // height) + 1, math.isqrt((height * min_pixels - 1) // width) + 1)
    return max(width, least[0]), max(height, least[1])


def picture_wh(path: Path) -> tuple[int, int]:
    """Return (width, height) of a picture file as it is shown, from its head.

    Raises:
        DatasetError: If there is none, it is no picture, or it is larger than `LARGEST_PICTURE`.
    """
    return _look_at(path, LEAVE_OUT)[0]


def _look_at(path: Path, otherwise: str) -> tuple[tuple[int, int], str]:
    """Size as shown, and format; errors end with `otherwise`."""
    try:
        with opened(path) as (picture, orientation):
            size, kind = _upright(picture.size, orientation), str(picture.format)
    except FileNotFoundError:
        raise DatasetError(f"{path}: expected a picture, found no file; unpack or copy it again{otherwise}") from None
    except UnidentifiedImageError:
        raise DatasetError(
            f"{path}: expected a picture, got something else than {', '.join(FORMATS)}; convert it{otherwise}"
        ) from None
    except Image.DecompressionBombError as error:
        raise DatasetError(f"{path}: expected a picture of a usual size: {error}; remove it{otherwise}") from error
    except DECODER_ERRORS as error:  # many of them of a damaged head
        raise DatasetError(
            f"{path}: expected a picture that can be read: {error}; replace the file{otherwise}"
        ) from error
    _require_usual_size(size, str(path))
    return size, kind


def _require_usual_size(size: tuple[int, int], where: str) -> None:
    if size[0] * size[1] > LARGEST_PICTURE:
        raise DatasetError(
            f"{where}: expected at most {LARGEST_PICTURE} pixels, got {size[0]} x {size[1]}; it may be a decompression "
            "bomb, remove it"
        )


def _upright(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return a size after the turn, and also one before it."""
    return size if orientation < 5 else (size[1], size[0])


def check_picture(path: Path, file_wh: tuple[int, int]) -> None:
    """Look at the head and the end of a file: has it the size, and was it copied to its end?

    Args:
        path: The file.
        file_wh: (width, height) as it is to be shown.

    Raises:
        DatasetError: If not.
    """
    found, kind = _look_at(path, LEAVE_OUT)
    check_size(found, file_wh, str(path))
    with open_regular(path) as file:
        if not has_end(file, kind):
            raise DatasetError(f"{path}: expected a whole {kind}, got one without an end; copy it again{LEAVE_OUT}")


def check_size(found: tuple[int, int], expected: tuple[int, int], where: str) -> None:
    """See that a picture has the size that its boxes are for.

    Raises:
        DatasetError: If not.
    """
    if tuple(found) == tuple(expected):
        return
    turned = ", which its EXIF orientation may have turned: boxes are in pixels of the picture as it is shown"
    raise DatasetError(
        f"{where}: expected {expected[0]} x {expected[1]} pixels, got {found[0]} x {found[1]}"
        f"{turned if found == expected[::-1] else ''}; put the picture there that its boxes are for{LEAVE_OUT}"
    )


def decode(
    source: Path | bytes, *, file_wh: tuple[int, int], image_wh: tuple[int, int], name: str
) -> npt.NDArray[np.uint8]:
    """Return the pixels of a picture file.

    Args:
        source: The file, or what is in it.
        file_wh: (width, height) that it must have as it is shown.
        image_wh: (width, height) of the result.
        name: Names the picture in errors.

    Returns:
        [H, W, 3] uint8, RGB.

    Raises:
        DatasetError: If it cannot be decoded, is larger than `LARGEST_PICTURE`, or has another size, since boxes would
            then mean something else.
    """
    return _decoded(source, file_wh, image_wh, name, LEAVE_OUT)


def _decoded(
    source: Path | bytes, file_wh: tuple[int, int], image_wh: tuple[int, int], name: str, otherwise: str
) -> npt.NDArray[np.uint8]:
    where = f"picture {name!r}"
    try:
        with opened(source) as (picture, orientation):
            check_size(_upright(picture.size, orientation), file_wh, where)
            _require_usual_size(file_wh, where)
            return _pixels(picture, orientation, image_wh)
    except FileNotFoundError:
        raise DatasetError(f"{where}: expected the file {source!s}, found none; copy it again{otherwise}") from None
    except DECODER_ERRORS as error:
        raise DatasetError(f"{where}: expected a whole picture: {error}; replace the file{otherwise}") from error


def _pixels(picture: Image.Image, orientation: int, image_wh: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return the pixels of an opened picture, at a size."""
    # Turned last, when there are fewest pixels; until then sizes are those of the file.
    file_wh, wanted = picture.size, _upright(image_wh, orientation)
    reduction = next((r for r in REDUCTIONS if _covers(_reduced(file_wh, r), wanted)), 1)
    drafted = picture.draft("RGB", (max(1, file_wh[0] // reduction), max(1, file_wh[1] // reduction)))
    picture.load()
    pixels = as_rgb(picture)
    # The last column and row may lie partly outside the picture; without this, it would be stretched.
    extent = drafted[1] if drafted else (0, 0, *pixels.size)
    is_done = pixels.size == wanted == extent[2:]
    pixels = pixels if is_done else pixels.resize(wanted, box=extent)
    return np.array(pixels.transpose(TURNS[orientation]) if orientation in TURNS else pixels)


def read_picture(source: str | Path | bytes | Image.Image) -> npt.NDArray[np.uint8]:
    """Return the pixels of a picture that somebody gives, as a person sees it.

    Args:
        source: A file, what is in it, or a picture of Pillow in any mode.

    Returns:
        [H, W, 3] uint8, RGB.

    Raises:
        DatasetError: If there is no such file, it is no picture, it cannot be decoded, or it is larger than
            `LARGEST_PICTURE`.
    """
    if isinstance(source, Image.Image):
        where = "picture"
        try:
            _require_usual_size(source.size, where)
            source.load()
            orientation = orientation_of(source)
            return _pixels(source, orientation, _upright(source.size, orientation))
        except DECODER_ERRORS as error:
            raise DatasetError(f"{where}: expected one that Pillow can decode: {error}") from error
    if isinstance(source, bytes):
        try:
            with opened(source) as (picture, orientation):
                size = _upright(picture.size, orientation)
        except DECODER_ERRORS as error:
            raise DatasetError(f"picture: expected one of {', '.join(FORMATS)}: {error}") from error
        return _decoded(source, size, size, "given", "")
    size, _ = _look_at(Path(source), "")
    return _decoded(Path(source), size, size, str(source), "")


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
        """Return the picture of a key, made if it is not here; not to be written into."""
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
"""Pictures that this process has decoded from files; set `max_bytes` for another bound."""
