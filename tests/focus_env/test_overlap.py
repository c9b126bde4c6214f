"""GIoU, DIoU and CIoU against the published formulas, number by number, and the two shortcuts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from focus_env.boxes import iou
from focus_env.overlap import (
    CIOU_MINIMUM,
    DIOU_MINIMUM,
    GIOU_MINIMUM,
    ciou,
    covers_image,
    diou,
    giou,
    repeats_support,
    to_shares,
)

Box = tuple[float, float, float, float]

TORCHVISION_EPS = 1e-7
MINIMA = {giou: GIOU_MINIMUM, diou: DIOU_MINIMUM, ciou: CIOU_MINIMUM}
FAMILY = [pytest.param(function, id=function.__name__) for function in MINIMA]


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x1, y1 = draw(st.floats(0, 1000)), draw(st.floats(0, 1000))
    return (x1, y1, x1 + draw(st.floats(1, 1000)), y1 + draw(st.floats(1, 1000)))


# ---- the formulas as published, for one pair, with the small constants that torchvision adds


def plain_iou(a: Box, b: Box) -> tuple[float, float]:
    """IoU and union."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union, union


def plain_hull(a: Box, b: Box) -> Box:
    return (min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))


def plain_giou(a: Box, b: Box) -> float:
    """arXiv:1902.09630, algorithm 1; torchvision.ops.generalized_box_iou."""
    value, union = plain_iou(a, b)
    x1, y1, x2, y2 = plain_hull(a, b)
    area = (x2 - x1) * (y2 - y1)
    return value - (area - union) / area


def plain_diou(a: Box, b: Box) -> float:
    """arXiv:1911.08287, equation 7; torchvision.ops.distance_box_iou."""
    x1, y1, x2, y2 = plain_hull(a, b)
    diagonal = (x2 - x1) ** 2 + (y2 - y1) ** 2 + TORCHVISION_EPS
    distance = ((a[0] + a[2]) / 2 - (b[0] + b[2]) / 2) ** 2 + ((a[1] + a[3]) / 2 - (b[1] + b[3]) / 2) ** 2
    return plain_iou(a, b)[0] - distance / diagonal


def plain_ciou(a: Box, b: Box) -> float:
    """arXiv:1911.08287, equations 8 to 11; torchvision.ops.complete_box_iou."""
    angle_a, angle_b = (math.atan((box[2] - box[0]) / (box[3] - box[1])) for box in (a, b))
    v = 4 / math.pi**2 * (angle_b - angle_a) ** 2
    alpha = v / (1 - plain_iou(a, b)[0] + v + TORCHVISION_EPS)
    return plain_diou(a, b) - alpha * v


PLAIN: dict[Callable[..., Any], Callable[[Box, Box], float]] = {giou: plain_giou, diou: plain_diou, ciou: plain_ciou}


@pytest.mark.parametrize("function", FAMILY)
@given(a=boxes(), b=boxes())
def test_the_published_formula(function: Callable[..., Any], a: Box, b: Box) -> None:
    assert function(a, b) == pytest.approx(PLAIN[function](a, b), abs=1e-6)


@pytest.mark.parametrize("function", FAMILY)
def test_the_published_formula_on_many_boxes(function: Callable[..., Any]) -> None:
    """Broadcast to all pairs, among them equal boxes, nested ones and such as lie far apart."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 600, size=(60, 2))
    first = np.concatenate([corners, corners + rng.uniform(1, 400, size=(60, 2))], axis=1)
    second = np.concatenate([first[:20], first[20:40] * [1, 1, 1.1, 1.1]])
    expected = [[PLAIN[function](tuple(a), tuple(b)) for b in second] for a in first]
    result = function(first[:, None], second[None])
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("function", "a", "b", "expected"),
    [
        pytest.param(giou, (0, 0, 2, 2), (0, 0, 2, 2), 1.0, id="giou: equal"),
        pytest.param(diou, (0, 0, 2, 2), (0, 0, 2, 2), 1.0, id="diou: equal"),
        pytest.param(ciou, (0, 0, 2, 2), (0, 0, 2, 2), 1.0, id="ciou: equal, 0 / 0 in its last part"),
        pytest.param(ciou, (0, 0, 1e-9, 1e9), (0, 0, 1e-9, 1e9), 1.0, id="ciou: equal and thin"),
        pytest.param(giou, (0, 0, 1, 1), (2, 0, 3, 1), -1 / 3, id="giou: a box's width apart"),
        pytest.param(giou, (0, 0, 4, 4), (1, 1, 3, 3), 0.25, id="giou: nested, the hull adds nothing"),
        pytest.param(diou, (0, 0, 4, 4), (1, 1, 3, 3), 0.25, id="diou: nested about one centre"),
        pytest.param(diou, (0, 0, 1, 1), (2, 0, 3, 1), -0.4, id="diou: a box's width apart"),
        pytest.param(ciou, (0, 0, 1, 1), (2, 0, 3, 1), -0.4, id="ciou: of one shape"),
    ],
)
def test_by_hand(function: Callable[..., Any], a: Box, b: Box, expected: float) -> None:
    assert function(a, b) == pytest.approx(expected, abs=1e-12)


def test_how_far_down_they_go() -> None:
    """A flat box and a tall one, far apart: all parts are near their worst."""
    flat, tall = (0, 0, 10, 1e-3), (1e5, 1e5, 1e5 + 1e-3, 1e5 + 10)
    for function, least in MINIMA.items():
        assert least < function(flat, tall) < least + 1e-3


NO_BOXES = [
    pytest.param((3, 0, 1, 2), id="reversed"),
    pytest.param((3, 3, 1, 1), id="reversed on both axes"),
    pytest.param((2, 2, 2, 2), id="a point"),
    pytest.param((0, 2, 4, 2), id="a line"),
    pytest.param((math.nan,) * 4, id="nan"),
    pytest.param((0, 0, math.inf, 1), id="infinite"),
    pytest.param((0, 0, 1e200, 1e200), id="too large for its area"),
    pytest.param((0, 0, 1e-200, 1e-200), id="too small for its area"),
    pytest.param((0, 0, 1e160, 1e-160), id="too large for its diagonal"),
]


@pytest.mark.parametrize("function", FAMILY)
@pytest.mark.parametrize("box", NO_BOXES)
def test_what_is_no_box_has_the_least(function: Callable[..., Any], box: Box) -> None:
    pairs = [(box, (0, 0, 2, 2)), ((0, 0, 2, 2), box), (box, box)]
    if box == (0, 0, 1e-200, 1e-200):
        pairs = pairs[2:]  # beside a real box it is a very small one
    assert [float(function(*pair)) for pair in pairs] == [MINIMA[function]] * len(pairs)


@pytest.mark.parametrize("function", FAMILY)
@given(a=st.tuples(*[st.floats()] * 4), b=st.tuples(*[st.floats()] * 4))
def test_any_numbers_give_a_value_in_range(function: Callable[..., Any], a: Box, b: Box) -> None:
    assert MINIMA[function] <= function(a, b) <= 1.0  # false for nan


@pytest.mark.parametrize("function", FAMILY)
@given(a=boxes(), b=boxes())
def test_never_more_than_the_iou_and_the_same_both_ways(function: Callable[..., Any], a: Box, b: Box) -> None:
    assert function(a, b) <= iou(a, b) + 1e-12
    assert function(a, b) == pytest.approx(float(function(b, a)), abs=1e-12)


@pytest.mark.parametrize("function", FAMILY)
def test_other_shapes_are_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"boxes: b must have the shape \[\.\.\., 4\], got \[3\]"):
        function(np.zeros(4), np.zeros(3))
    assert function(np.zeros((0, 4)), np.zeros((0, 4))).shape == (0,)


def test_shortcuts() -> None:
    """Rows: a box of 95 %, one of 94.9 %, none; each in an image of its own size."""
    boxes = np.array([[0, 0, 95, 10], [0, 0, 200, 18.98], [math.nan] * 4])
    image_wh = np.array([[100, 10], [200, 20], [50, 50]])
    assert covers_image(boxes, image_wh).tolist() == [True, False, False]
    shares = to_shares(boxes, image_wh)
    np.testing.assert_array_equal(shares[0], [0, 0, 0.95, 1])
    supports = np.full((3, 2, 4), math.nan)
    supports[0, 1] = [0, 0, 1, 1]
    supports[1, 0] = [0, 0, 1, 0.9]
    assert repeats_support(shares, supports).tolist() == [[False, True], [False, False], [False, False]]
