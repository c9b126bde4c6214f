"""Pictures as people have them, at the border where they come in: a path, a picture of Pillow, bytes, an array.

An array says how it is meant by its shape and its numbers:

[H, W], [H, W, 1]   grey
[H, W, 3]           RGB; an array [3, H, W] is refused
[H, W, 2 or 4]      the last channel is alpha; shown over white
bool                False is black, True is white
whole numbers       up to 255 are 8 bits, those up to 65535 are 16, of which the upper 8 are shown
floats              from 0 to 1 are shares, those up to 255 are 8 bits
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from focus_env.boxes import as_box
from focus_env.errors import DatasetError
from focus_env.images import read_picture
from focus_env.types import Box, ImageArray

Picture = str | Path | bytes | Image.Image | npt.NDArray[Any]
"""A picture as people have it; arrays of other libraries are taken, too."""
FourNumbers = Box | Sequence[float] | npt.NDArray[Any]
"""A box as people have it."""

EXPECTED = "a path, a picture of Pillow, or an array [H, W, 3] uint8"
_MODES = {2: "LA", 4: "RGBA"}


def as_picture(value: Any, name: str) -> ImageArray:
    """Return a picture as an array; see the module for what it may be.

    Args:
        value: The picture. An array [H, W, 3] uint8 is given back as it is.
        name: Which argument it is, for messages, e.g. `"query"`.

    Returns:
        [H, W, 3] uint8, RGB.

    Raises:
        ValueError: If it is no picture.
    """
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] == 3:
        _require_pixels(value, name)
        return value
    if isinstance(value, str | Path | bytes | Image.Image):
        try:
            return read_picture(value)
        except DatasetError as error:
            raise ValueError(f"{name}: {error}") from error
    if value is None or not (hasattr(value, "__array__") or isinstance(value, list | tuple)):
        raise ValueError(f"{name}: expected {EXPECTED}, got {type(value).__name__}")
    try:
        array = np.asarray(value)
    except Exception as error:  # of whatever library the object is
        raise ValueError(f"{name}: expected {EXPECTED}, got {type(value).__name__}, no array: {error}") from error
    return _from_array(array, name)


def as_supports(supports: Any) -> list[tuple[ImageArray, Box]]:
    """Return pictures with a box each, as arrays and boxes.

    Args:
        supports: Pairs of a picture, whatever `as_picture` takes, and a box `xyxy` in its pixels: a `Box`, tuple, list
            or array.

    Raises:
        ValueError: If there is none, one is no such pair, or a box is not inside its picture or in shares of it.
    """
    is_listed = isinstance(supports, Iterable) and not isinstance(supports, str | bytes | Mapping | np.ndarray)
    pairs = list(supports) if is_listed else []
    if not pairs:
        got = ", got none" if is_listed else f", as in [(picture, box)], got {type(supports).__name__}"
        raise ValueError(f"supports: expected at least one picture with a box{got}")
    found = []
    for number, pair in enumerate(pairs, start=1):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            got = f"{len(pair)} things" if isinstance(pair, tuple | list) else type(pair).__name__
            raise ValueError(f"support {number}: expected a picture with a box, as in (picture, box), got {got}")
        picture = as_picture(pair[0], f"picture of support {number}")
        image_wh = picture.shape[1], picture.shape[0]
        found.append((picture, as_box(pair[1], f"box of support {number}", image_wh=image_wh)))
    return found


def _from_array(array: npt.NDArray[Any], name: str) -> ImageArray:
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and min(array.shape[1:]) > 4:
        raise ValueError(
            f"{name}: expected channels last, as in [H, W, 3], got the shape {list(array.shape)}; transpose it with "
            "array.transpose(1, 2, 0)"
        )
    is_picture = array.ndim == 2 or (array.ndim == 3 and 1 <= array.shape[2] <= 4)
    if not is_picture:
        raise ValueError(f"{name}: expected {EXPECTED}, got an array of the shape {list(array.shape)}")
    _require_pixels(array, name)
    levels = _in_8_bits(array, name)
    if levels.ndim == 2 or levels.shape[2] == 1:
        grey: ImageArray = np.repeat(levels.reshape(*levels.shape[:2], 1), 3, axis=2)
        return grey
    if levels.shape[2] == 3:
        return levels
    return read_picture(Image.fromarray(np.ascontiguousarray(levels), _MODES[levels.shape[2]]))


def _in_8_bits(array: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    """The numbers of an array as levels from 0 to 255; see the module."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return np.where(array, 255, 0).astype(np.uint8)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name}: expected numbers, as in uint8, got an array of {array.dtype}")
    low, high = float(array.min()), float(array.max())
    if array.dtype.kind in "iu" and low >= 0 and high <= 65535:
        upper: npt.NDArray[np.uint8] = (array >> 8 if high > 255 else array).astype(np.uint8)
        return upper
    if array.dtype.kind == "f" and low >= 0 and high <= 255:
        levels: npt.NDArray[np.uint8] = np.rint(array * 255 if high <= 1 else array).astype(np.uint8)
        return levels
    raise ValueError(
        f"{name}: expected levels from 0 to 255, or shares from 0 to 1, got {array.dtype} from {low:g} to {high:g}; "
        "undo what normalised it"
    )


def _require_pixels(array: npt.NDArray[Any], name: str) -> None:
    if 0 in array.shape:
        raise ValueError(f"{name}: expected a picture with pixels, got the shape {list(array.shape)}")
