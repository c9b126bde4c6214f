"""The one box convention, its converters, and the overlap of two boxes.

A box is `xyxy`: float, absolute pixels of the original image, x right, y down, continuous area. A box from 3
to 5 is 2 wide; nothing here adds 1. Coordinates run from 0 to the width (or height) inclusive, so (0, 0,
width, height) is the whole image. Models speak other frames; those exist only where text is read or written,
and `CoordinateFrame` names them.
"""

from __future__ import annotations

import enum
import math
from typing import overload

import numpy as np
import numpy.typing as npt

from focus_env.plain_numbers import as_numbers, as_size
from focus_env.types import Box, BoxArray

TINY = 16
"""An image with a shorter side has boxes of a pixel."""

Coordinates = tuple[float, float, float, float]
"""Four numbers in the order x_min, y_min, x_max, y_max, in a frame that goes with them."""

CLIP_TOLERANCE = 0.01
"""Share of the picture's width or height by which a box may leave the picture; a pixel where that is more."""


class CoordinateFrame(enum.StrEnum):
    """The unit in which a text writes coordinates; per axis, from the upper left corner."""

    PIXEL = "pixel"
    """Pixels of the original image, 0 to width and 0 to height."""
    NORM_1 = "norm_1"
    """Shares of the width and height, 0 to 1."""
    NORM_100 = "norm_100"
    """Hundredths of the width and height, 0 to 100; enough for pictures of up to 100 pixels."""
    NORM_1000 = "norm_1000"
    """Thousandths of the width and height, 0 to 1000 (Qwen2-VL, Qwen3-VL, InternVL, GLM-4V)."""
    NORM_1024 = "norm_1024"
    """1024ths of the width and height, 0 to 1024 (PaliGemma, whose location tokens end at 1023)."""
    RESIZED_PIXEL = "resized_pixel"
    """Pixels of the image as it enters the model, after resizing (Qwen2.5-VL)."""

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise ValueError(f"the unit of coordinates must be one of {', '.join(cls)}, got {value!r:.80}")

    def extent(self, *, image_wh: tuple[int, int], input_wh: tuple[int, int] | None = None) -> tuple[float, float]:
        """Largest x and y that the frame admits.

        Args:
            image_wh: (width, height) of the original image in pixels.
            input_wh: (width, height) of the image as the model sees it; needed by `RESIZED_PIXEL` alone.

        Raises:
            ValueError: If a size is not positive, or `RESIZED_PIXEL` comes without `input_wh`.
        """
        image_wh = as_size(image_wh, "image_wh")
        if self is CoordinateFrame.PIXEL:
            return float(image_wh[0]), float(image_wh[1])
        if self is CoordinateFrame.NORM_1:
            return 1.0, 1.0
        if self is CoordinateFrame.NORM_100:
            return 100.0, 100.0
        if self is CoordinateFrame.NORM_1000:
            return 1000.0, 1000.0
        if self is CoordinateFrame.NORM_1024:
            return 1024.0, 1024.0
        input_wh = as_size(
            input_wh, "the frame 'resized_pixel' needs input_wh, the size at which the model sees the image; it"
        )
        return float(input_wh[0]), float(input_wh[1])


def box_to_frame(
    box: Box,
    frame: CoordinateFrame,
    *,
    image_wh: tuple[int, int],
    input_wh: tuple[int, int] | None = None,
) -> Coordinates:
    """Express a pixel box in another frame, without rounding.

    Args:
        box: `xyxy` in pixels of the original image.
        frame: The frame of the result.
        image_wh: (width, height) of the original image in pixels.
        input_wh: (width, height) as the model sees it; needed by `RESIZED_PIXEL` alone.

    Returns:
        (x_min, y_min, x_max, y_max) in `frame`.

    Raises:
        ValueError: If a size is missing or not positive.

    >>> box_to_frame(Box(32, 0, 64, 24), CoordinateFrame.NORM_1000, image_wh=(64, 48))
    (500.0, 0.0, 1000.0, 500.0)
    """
    box = as_box(box, "box_to_frame: box")
    return _rescale(box, image_wh, frame.extent(image_wh=image_wh, input_wh=input_wh))


def frame_to_box(
    values: Coordinates,
    frame: CoordinateFrame,
    *,
    image_wh: tuple[int, int],
    input_wh: tuple[int, int] | None = None,
) -> Box:
    """Express coordinates of a frame in pixels of the original image; the inverse of `box_to_frame`.

    Nothing is checked, swapped or clamped here; see `focus_env.parsing` for what a model may write.

    Args:
        values: (x_min, y_min, x_max, y_max) in `frame`.
        frame: The frame of `values`.
        image_wh: (width, height) of the original image in pixels.
        input_wh: (width, height) as the model sees it; needed by `RESIZED_PIXEL` alone.

    Returns:
        `xyxy` in pixels of the original image.

    Raises:
        ValueError: If a size is missing or not positive.
    """
    values = as_box(values, "frame_to_box: values")
    return Box(*_rescale(values, frame.extent(image_wh=image_wh, input_wh=input_wh), image_wh))


def as_box(box: object, name: str, *, image_wh: tuple[int, int] | None = None, tolerance: float = 0.0) -> Box:
    """Return four numbers as a box: those of a `Box`, tuple, list or array.

    Args:
        box: The four numbers, meant as `xyxy` in pixels.
        name: What the box is, for the message, e.g. ``"box of support 1"``.
        image_wh: (width, height) of its image in pixels; None: it may lie anywhere, and numbers that look like shares
            of the image are not seen.
        tolerance: As in `validate_box`; what reaches beyond the image is cut off.

    Raises:
        ValueError: If these are not four numbers; or with `image_wh`, if they are no box inside the image, or are
            shares of its width and height.
    """
    if image_wh is None and (isinstance(box, Box) or _is_plain(box)):
        return box if isinstance(box, Box) else Box(*box)  # type: ignore[misc]
    try:
        values = as_numbers(box)
    except Exception as error:  # of whatever library the object is
        raise ValueError(f"{name}: expected four numbers x1, y1, x2, y2 in pixels, got {box!r:.80}: {error}") from error
    if values.shape != (4,):
        got = f"an array of the shape {list(values.shape)}" if isinstance(box, np.ndarray) else f"{box!r:.80}"
        raise ValueError(f"{name}: expected four numbers x1, y1, x2, y2 in pixels, got {got}")
    found = box if isinstance(box, Box) else Box(*(float(value) for value in values))
    if image_wh is not None:
        refuse_shares(found, image_wh, name)
        validate_box(found, image_wh, name, tolerance=tolerance)
        inside = clip_box(found, image_wh) if tolerance else found
        if inside is None:
            raise ValueError(f"{name} must lie inside the image of {image_wh} (width, height), got {tuple(found)}")
        found = found if inside == found else inside
    return found


def _is_plain(box: object) -> bool:
    """Return whether these are four floats, which need no look at by NumPy; answers are read by the million."""
    return isinstance(box, tuple) and len(box) == 4 and all(type(value) is float for value in box)


def refuse_shares(box: Coordinates, image_wh: tuple[int, int], name: str) -> None:
    """Refuse a box of less than a pixel in the upper left corner, which is one in shares of the image.

    Raises:
        ValueError: If it is one, and the image is not tiny.
    """
    if are_shares(box, image_wh):
        raise ValueError(
            f"{name} must be in pixels of the image of {image_wh} (width, height), got {tuple(box)}, which looks like "
            "shares of it; multiply x by the width and y by the height; or if this pixel is meant, give a box that "
            "reaches a little beyond it, such as 0, 0, 1.01, 1.01"
        )


def are_shares(box: Coordinates, image_wh: tuple[int, int]) -> bool:
    """Return whether a box meant in pixels is less than one in the upper left corner, and so in shares of the image.

    A tiny image has boxes of a pixel.
    """
    return min(image_wh) >= TINY and all(0 <= value <= 1 for value in box) and box[0] < box[2] and box[1] < box[3]


def _rescale(values: Coordinates, from_wh: tuple[float, float], to_wh: tuple[float, float]) -> Coordinates:
    # Multiply first, divide second: whole numbers then stay whole where they can.
    return (
        values[0] * to_wh[0] / from_wh[0],
        values[1] * to_wh[1] / from_wh[1],
        values[2] * to_wh[0] / from_wh[0],
        values[3] * to_wh[1] / from_wh[1],
    )


def iou(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Intersection over union, element by element.

    Args:
        a: [..., 4] `xyxy`, in any one frame.
        b: [..., 4] `xyxy` in the same frame; broadcast against `a`. For all pairs, pass `a[:, None]` and
            `b[None, :]`.

    Returns:
        [...] float64 in [0, 1]. A pair with a reversed, zero-area or non-finite box gets 0, never nan.

    Raises:
        ValueError: If the last axis is not 4 long, or the shapes do not broadcast.
    """
    a, b = as_boxes(a, "iou: a"), as_boxes(b, "iou: b")
    # A reversed box shares no positive side with any box, so its pairs get 0 whatever its area comes to. Products of
    # columns, since np.prod along an axis of two takes several times as long.
    with np.errstate(over="ignore", invalid="ignore"):
        wh_a, wh_b = a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2]
        area_a, area_b = wh_a[..., 0] * wh_a[..., 1], wh_b[..., 0] * wh_b[..., 1]
        sides = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0.0)
        intersection = sides[..., 0] * sides[..., 1]
        union = area_a + area_b - intersection  # nan where sides are infinite or areas overflow
        ratio: npt.NDArray[np.float64] = np.divide(intersection, union, out=np.zeros(union.shape), where=union > 0)
    return ratio


def as_boxes(boxes: npt.ArrayLike, name: str) -> BoxArray:
    """Return boxes, in lists or arrays of any library, as one array [..., 4] float64.

    Raises:
        ValueError: If they are something else.
    """
    try:
        array = as_numbers(boxes)
    except Exception as error:  # lists of different lengths, words, None, whatever another library raises
        raise ValueError(f"{name} must have the shape [..., 4], got {boxes!r:.80}: {error}") from error
    if array.ndim == 0 or array.shape[-1] != 4:
        raise ValueError(f"{name} must have the shape [..., 4], got {list(array.shape)}")
    return array


def box_iou(a: Box | None, b: Box | None) -> float:
    """Intersection over union of two boxes; 0 if either is None.

    >>> box_iou(Box(0, 0, 2, 2), Box(1, 0, 3, 2))
    0.3333333333333333
    """
    if a is None or b is None:
        return 0.0
    return float(iou(as_box(a, "box_iou: a"), as_box(b, "box_iou: b")))


def validate_box(box: Coordinates, image_wh: tuple[int, int], name: str, *, tolerance: float = 0.0) -> None:
    """Refuse what is not a box inside the image.

    Args:
        box: Four numbers, meant as `xyxy` in pixels.
        image_wh: (width, height) of the image in pixels.
        name: What the box is, for the message, e.g. ``"target_box of episode 'cat-3/17'"``.
        tolerance: Share of the width or height by which the box may leave the image; with any, a pixel is allowed.

    Raises:
        ValueError: If a coordinate is not finite or lies outside the image, or the box has no area.
    """
    if len(box) != 4 or not all(math.isfinite(value) for value in box):
        raise ValueError(f"{name} must be four finite numbers x1, y1, x2, y2 in pixels, got {tuple(box)}")
    x1, y1, x2, y2 = box
    if not (x1 < x2 and y1 < y2):
        raise ValueError(
            f"{name} must be xyxy with x1 < x2 and y1 < y2 in pixels, got {tuple(box)}; "
            "if it is x, y, width, height, convert it with xywh_to_xyxy"
        )
    room_x, room_y = (max(1.0, tolerance * side) if tolerance else 0.0 for side in image_wh)
    if x1 < -room_x or y1 < -room_y or x2 > image_wh[0] + room_x or y2 > image_wh[1] + room_y:
        raise ValueError(
            f"{name} must lie inside the image of {image_wh} (width, height), got {tuple(box)}; "
            "cut it with clip_box, or check that box and image belong together"
        )


@overload
def xywh_to_xyxy(box: Coordinates) -> Box: ...
@overload
def xywh_to_xyxy(box: npt.NDArray[np.floating | np.integer]) -> BoxArray: ...
def xywh_to_xyxy(box: Coordinates | npt.NDArray[np.floating | np.integer]) -> Box | BoxArray:
    """Convert upper left corner and size to two corners.

    Args:
        box: Four numbers, or an array [..., 4], each x, y, width, height.

    Returns:
        A `Box` for four numbers, else an array [..., 4] float64; `xyxy`.
    """
    if isinstance(box, np.ndarray):
        array = np.asarray(box, dtype=np.float64)
        return np.concatenate([array[..., :2], array[..., :2] + array[..., 2:]], axis=-1)
    x, y, width, height = as_box(box, "xywh_to_xyxy: box")
    return Box(x, y, x + width, y + height)


@overload
def xyxy_to_xywh(box: Coordinates) -> Coordinates: ...
@overload
def xyxy_to_xywh(box: npt.NDArray[np.floating | np.integer]) -> BoxArray: ...
def xyxy_to_xywh(box: Coordinates | npt.NDArray[np.floating | np.integer]) -> Coordinates | BoxArray:
    """Convert two corners to upper left corner and size; the inverse of `xywh_to_xyxy`.

    Args:
        box: A `Box`, or an array [..., 4], `xyxy`.

    Returns:
        A plain tuple for a `Box`, else an array [..., 4] float64; x, y, width, height.
    """
    if isinstance(box, np.ndarray):
        array = np.asarray(box, dtype=np.float64)
        return np.concatenate([array[..., :2], array[..., 2:] - array[..., :2]], axis=-1)
    x1, y1, x2, y2 = as_box(box, "xyxy_to_xywh: box")
    return (x1, y1, x2 - x1, y2 - y1)


def clip_box(box: Coordinates, image_wh: tuple[int, int]) -> Box | None:
    """Cut a box to the image.

    Args:
        box: `xyxy` in pixels; may reach beyond the image.
        image_wh: (width, height) of the image in pixels.

    Returns:
        The part inside the image, or None where nothing with an area is left (also for a reversed or
        non-finite box).
    """
    box = as_box(box, "clip_box: box")
    width, height = image_wh
    x1, y1 = max(box[0], 0.0), max(box[1], 0.0)
    x2, y2 = min(box[2], float(width)), min(box[3], float(height))
    is_box = all(math.isfinite(value) for value in box) and x1 < x2 and y1 < y2
    return Box(x1, y1, x2, y2) if is_box else None
