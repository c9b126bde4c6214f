"""Measures of two boxes beyond their IoU: GIoU, DIoU, CIoU, and two shortcuts that earn IoU without looking.

All are functions of arrays, element by element, for boxes `xyxy` in any one frame. What is no box (reversed, without
area, not finite) gets the least value, never nan.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from focus_env.boxes import as_boxes, iou
from focus_env.types import Box, Episode

Floats = npt.NDArray[np.float64]

GIOU_MINIMUM, DIOU_MINIMUM, CIOU_MINIMUM = -1.0, -1.0, -1.5
"""No pair of boxes goes below these, nor quite reaches them; pairs that are no boxes get them."""

WHOLE_IMAGE_SHARE = 0.95
"""An answer that covers at least this share of the query's area answers the whole image."""
COPY_IOU = 0.95
"""An answer that overlaps a support box by at least this IoU, both relative to their images, copies it."""


def giou(a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    """Generalized IoU: IoU - (hull - union) / hull, the hull being the area of the smallest box around both.

    Args:
        a: [..., 4] `xyxy`.
        b: [..., 4] `xyxy` in the same frame; broadcast against `a`.

    Returns:
        [...] float64 in [-1, 1]: 1 for equal boxes, towards -1 the farther they are apart for their size.

    Source: Rezatofighi et al. (2019), arXiv:1902.09630; torchvision's `generalized_box_iou`.
    """
    pair = _measure(a, b)
    with np.errstate(all="ignore"):
        values = pair.iou - (pair.hull - pair.union) / pair.hull
    return np.where(pair.are_boxes, np.clip(values, GIOU_MINIMUM, 1.0), GIOU_MINIMUM)


def diou(a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    """Distance IoU: IoU - d² / c², d being the distance of the centres, c the diagonal of the smallest box around both.

    Args:
        a: [..., 4] `xyxy`.
        b: [..., 4] `xyxy` in the same frame; broadcast against `a`.

    Returns:
        [...] float64 in [-1, 1].

    Source: Zheng et al. (2020), arXiv:1911.08287; torchvision's `distance_box_iou`, which adds 1e-7 to c².
    """
    pair = _measure(a, b)
    return np.where(pair.are_boxes, np.clip(_diou(pair), DIOU_MINIMUM, 1.0), DIOU_MINIMUM)


def ciou(a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    """Complete IoU: DIoU - v² / (1 - IoU + v), v = 4 / pi² (atan(w_a / h_a) - atan(w_b / h_b))² comparing the shapes.

    Args:
        a: [..., 4] `xyxy`.
        b: [..., 4] `xyxy` in the same frame; broadcast against `a`.

    Returns:
        [...] float64 in [-1.5, 1]: v is below 1, and so v² / (1 - IoU + v) below 1/2 where the IoU is 0.

    Source: Zheng et al. (2020), arXiv:1911.08287; torchvision's `complete_box_iou`, which adds 1e-7 to the denominator
    and to c².
    """
    pair = _measure(a, b)
    with np.errstate(all="ignore"):
        angles = np.arctan(pair.wh_a[0] / pair.wh_a[1]) - np.arctan(pair.wh_b[0] / pair.wh_b[1])
        v = (4 / math.pi**2) * angles * angles
        penalty = v * v / (1 - pair.iou + v)
        values = _diou(pair) - np.where(v > 0, penalty, 0.0)  # 0 / 0 for equal boxes
    return np.where(pair.are_boxes, np.clip(values, CIOU_MINIMUM, 1.0), CIOU_MINIMUM)


class _Pair(NamedTuple):
    """Values that the formulas share, each [...]; only those where `are_boxes` holds mean anything."""

    are_boxes: npt.NDArray[np.bool_]
    iou: Floats
    union: Floats
    hull: Floats
    hull_wh: tuple[Floats, Floats]
    wh_a: tuple[Floats, Floats]
    wh_b: tuple[Floats, Floats]
    offset: tuple[Floats, Floats]
    """Of the centres."""


def _measure(a: npt.ArrayLike, b: npt.ArrayLike) -> _Pair:
    a, b = as_boxes(a, "boxes: a"), as_boxes(b, "boxes: b")
    ax1, ay1, ax2, ay2 = a[..., 0], a[..., 1], a[..., 2], a[..., 3]
    bx1, by1, bx2, by2 = b[..., 0], b[..., 1], b[..., 2], b[..., 3]
    with np.errstate(all="ignore"):
        wh_a, wh_b = (ax2 - ax1, ay2 - ay1), (bx2 - bx1, by2 - by1)
        width = np.minimum(ax2, bx2) - np.maximum(ax1, bx1)
        height = np.minimum(ay2, by2) - np.maximum(ay1, by1)
        intersection = np.maximum(width, 0.0) * np.maximum(height, 0.0)
        union = wh_a[0] * wh_a[1] + wh_b[0] * wh_b[1] - intersection
        hull_wh = np.maximum(ax2, bx2) - np.minimum(ax1, bx1), np.maximum(ay2, by2) - np.minimum(ay1, by1)
        hull = hull_wh[0] * hull_wh[1]
        # The squared diagonal must be finite, too; that of the hull is the largest number here.
        is_finite = (hull_wh[0] * hull_wh[0] + hull_wh[1] * hull_wh[1] < np.inf) & (hull < np.inf)
        sides = np.minimum(np.minimum(wh_a[0], wh_a[1]), np.minimum(wh_b[0], wh_b[1]))
        return _Pair(
            are_boxes=(sides > 0) & (union > 0) & is_finite,
            iou=intersection / union,
            union=union,
            hull=hull,
            hull_wh=hull_wh,
            wh_a=wh_a,
            wh_b=wh_b,
            offset=(((ax1 - bx1) + (ax2 - bx2)) / 2, ((ay1 - by1) + (ay2 - by2)) / 2),
        )


def _diou(pair: _Pair) -> Floats:
    with np.errstate(all="ignore"):
        distance = pair.offset[0] * pair.offset[0] + pair.offset[1] * pair.offset[1]
        diagonal = pair.hull_wh[0] * pair.hull_wh[0] + pair.hull_wh[1] * pair.hull_wh[1]
        values: Floats = pair.iou - distance / diagonal
    return values


def to_shares(boxes: npt.ArrayLike, image_wh: npt.ArrayLike) -> Floats:
    """Pixel boxes as shares of their images' widths and heights.

    Args:
        boxes: [..., 4] `xyxy` in pixels.
        image_wh: [..., 2] width and height in pixels, for the same leading axes.

    Returns:
        [..., 4] float64.
    """
    wh = np.asarray(image_wh, dtype=np.float64)
    shares: Floats = np.asarray(boxes, dtype=np.float64) / np.concatenate((wh, wh), axis=-1)
    return shares


def support_shares(episode: Episode) -> Floats:
    """Return an episode's support boxes as shares of the widths and heights of their own images: [K, 4] float64."""
    boxes = np.array([exemplar.box for exemplar in episode.support], dtype=np.float64).reshape(-1, 4)
    sizes = np.array([exemplar.frame.image_wh for exemplar in episode.support], dtype=np.float64).reshape(-1, 2)
    return to_shares(boxes, sizes)


def covers_image(boxes: npt.ArrayLike, image_wh: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Tell which boxes answer the whole image: an IoU with it of `WHOLE_IMAGE_SHARE` or more.

    Args:
        boxes: [..., 4] `xyxy` in pixels; nan where there is no box.
        image_wh: [..., 2] width and height in pixels.

    Returns:
        [...] bool.
    """
    wh = np.asarray(image_wh, dtype=np.float64)
    whole = np.concatenate((np.zeros_like(wh), wh), axis=-1)
    return iou(boxes, whole) >= WHOLE_IMAGE_SHARE


def repeats_support(shares: npt.ArrayLike, support_shares: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Tell which boxes repeat support boxes: an IoU of `COPY_IOU` or more, each relative to its own image.

    Args:
        shares: [..., 4] `xyxy` as shares, see `to_shares`; nan where there is no box.
        support_shares: [..., K, 4] likewise; nan where there are fewer than K supports.

    Returns:
        [..., K] bool.
    """
    return iou(np.asarray(shares, dtype=np.float64)[..., None, :], support_shares) >= COPY_IOU


def name_shortcuts(box: Box, image_wh: tuple[int, int], shown: npt.ArrayLike) -> list[str]:
    """Name the shortcuts that an answer takes, for captions.

    Args:
        box: The answer, `xyxy` in pixels of the query.
        image_wh: (width, height) of the query.
        shown: [K, 4] the support boxes as shares, see `support_shares`.

    Returns:
        "whole image" and "copies support 2", as far as they hold; supports are numbered from 1.
    """
    whole = ["whole image"] if covers_image(box, image_wh) else []
    copied = np.flatnonzero(repeats_support(to_shares(box, image_wh), np.asarray(shown, dtype=np.float64)))
    return whole + [f"copies support {number + 1}" for number in copied]
