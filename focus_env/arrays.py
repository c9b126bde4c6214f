"""Pictures as people have them, as arrays: a path, a picture of Pillow, the bytes or the stream of a file, an array.

An array says how it is meant by its shape and its numbers:

[H, W], [H, W, 1]   grey
[H, W, 3]           RGB; an array [3, H, W] is refused
[H, W, 2 or 4]      the last channel is alpha; shown over white
bool                False is black, True is white
whole numbers up to 255 are 8 bits, those up to 65535 are 16, of which the upper 8 are shown
floats              from 0 to 1 are shares, those up to 255 are 8 bits
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from focus_env.errors import DatasetError
from focus_env.images import read_picture
from focus_env.picture_files import LARGEST_FILE

Picture = str | Path | bytes | bytearray | memoryview | BinaryIO | Image.Image | npt.NDArray[Any]
"""A picture as people have it; arrays of other libraries are taken, too."""

EXPECTED = "a path, a picture of Pillow, or an array [H, W, 3] uint8"
_MODES = {2: "LA", 4: "RGBA"}


def as_picture(value: Any, name: str) -> npt.NDArray[np.uint8]:
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
    if isinstance(value, bytearray | memoryview):
        value = bytes(value)
    elif isinstance(value, io.IOBase):
        value = _content(value, name)
    if isinstance(value, str) and "://" in value:
        raise ValueError(
            f"{name}: expected {EXPECTED}, got the address {value!r:.80}; fetch the file, and pass its path"
        )
    if isinstance(value, str | Path):
        value = Path(os.path.expanduser(value))
    if isinstance(value, Path | bytes | Image.Image):
        try:
            return read_picture(value)
        except DatasetError as error:
            raise ValueError(f"{name}: {error}") from error
    if value is None or not (hasattr(value, "__array__") or isinstance(value, list | tuple)):
        raise ValueError(f"{name}: expected {EXPECTED}, got {type(value).__name__}")
    try:
        array = np.asarray(_on_the_cpu(value))
    except Exception as error:  # of whatever library the object is
        raise ValueError(f"{name}: expected {EXPECTED}, got {type(value).__name__}, no array: {error}") from error
    return _from_array(array, name)


def _on_the_cpu(value: Any) -> Any:
    """Return a tensor of torch as one that NumPy can read."""
    if not hasattr(value, "detach"):
        return value
    tensor = value.detach().cpu()
    return tensor.float() if "bfloat16" in str(tensor.dtype) else tensor


def _content(file: Any, name: str) -> bytes:
    """Return the rest of an open file, up to the limit of a picture's file."""
    try:
        content = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: expected a file that is open for reading: {error}") from error
    if not isinstance(content, bytes) or len(content) > LARGEST_FILE:
        raise ValueError(f"{name}: expected a file of at most {LARGEST_FILE} bytes, opened in binary mode")
    return content


def _from_array(array: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
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
        grey: npt.NDArray[np.uint8] = np.repeat(levels.reshape(*levels.shape[:2], 1), 3, axis=2)
        return grey
    if levels.shape[2] == 3:
        return levels
    return read_picture(Image.fromarray(np.ascontiguousarray(levels), _MODES[levels.shape[2]]))


def _in_8_bits(array: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    """Return the numbers of an array as levels from 0 to 255; see the module."""
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
        f"{name}: expected levels from 0 to 255, or fractions from 0 to 1, got {array.dtype} from {low:g} to {high:g}; "
        "undo the normalization"
    )


def _require_pixels(array: npt.NDArray[Any], name: str) -> None:
    if 0 in array.shape:
        raise ValueError(f"{name}: expected a picture with pixels, got the shape {list(array.shape)}")
