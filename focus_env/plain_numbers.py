"""Numbers where they come in: in texts of people, in arrays of any library, as the size of a picture."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np
import numpy.typing as npt


def is_plain(text: str) -> bool:
    """Return whether a text that Python reads as a number is one to people, too.

    Python reads `1_0` as 10, and digits of any script, which nobody means.

    >>> [is_plain(text) for text in ("10", "-1e-5", "nan", "1_0", "\u0661")]
    [True, True, True, False, False]
    """
    return "_" not in text and text.isascii()


def require_whole(value: Any, name: str) -> None:
    """Refuse what is no whole number; a truth value is none.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"{name} must be a whole number, got {value!r:.80}")


def as_numbers(values: Any) -> npt.NDArray[np.float64]:
    """Return numbers in lists, or in arrays of any library, as an array float64.

    Raises:
        ValueError: If there is something else among them: texts, None, truth values, complex numbers.
        Exception: Whatever another library raises for an object of its own.
    """
    array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    is_real = array.dtype.kind in "iuf" or (
        array.dtype.kind == "O"
        and all(isinstance(value, numbers.Real) and not isinstance(value, bool) for value in array.flat)
    )
    if not is_real:
        raise ValueError(f"no numbers, but an array of {array.dtype} of the shape {list(array.shape)}")
    return array.astype(np.float64, copy=False)


def as_size(size: Any, name: str) -> tuple[int, int]:
    """Return the size of a picture, if it is one.

    Args:
        size: Meant as (width, height) in pixels.
        name: What it is, for the message.

    Raises:
        ValueError: If these are not two positive, finite numbers.
    """
    try:
        width, height = size
        if 0 < width < math.inf and 0 < height < math.inf:
            return width, height
    except (TypeError, ValueError):  # told below
        pass
    raise ValueError(f"{name} must be (width, height), both positive, got {size!r:.80}")
