"""The box convention: frames and their inverses, IoU, validation, conversion."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from focus_env.boxes import (
    CoordinateFrame,
    box_iou,
    box_to_frame,
    clip_box,
    frame_to_box,
    iou,
    validate_box,
    xywh_to_xyxy,
    xyxy_to_xywh,
)
from focus_env.types import Box

SIDES = st.integers(1, 5000)
SHARES = st.floats(0, 1)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x1, y1 = draw(st.floats(-1e4, 1e4)), draw(st.floats(-1e4, 1e4))
    return Box(x1, y1, x1 + draw(st.floats(0.01, 1e4)), y1 + draw(st.floats(0.01, 1e4)))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        pytest.param((3, 3, 1, 1), (3, 3, 1, 1), 0.0, id="both reversed on both axes"),
        pytest.param((3, 3, 1, 1), (0, 0, 4, 4), 0.0, id="reversed on both axes: sides multiply to a positive"),
        pytest.param((3, 0, 1, 4), (0, 0, 4, 4), 0.0, id="reversed on one axis"),
        pytest.param((3, 0, 1, 2), (0, 0, 2, 2), 0.0, id="reversed on one axis: the areas cancel"),
        pytest.param((2, 2, 2, 2), (2, 2, 2, 2), 0.0, id="two equal points"),
        pytest.param((0, 2, 4, 2), (0, 0, 4, 4), 0.0, id="a line inside a box"),
        pytest.param((math.nan, 0, 1, 1), (0, 0, 1, 1), 0.0, id="nan"),
        pytest.param((0, 0, math.inf, 1), (0, 0, math.inf, 1), 0.0, id="infinite"),
        pytest.param((-math.inf, 0, math.inf, 1), (0, 0, 1, 1), 0.0, id="infinite both ways"),
        pytest.param((0, 0, 1e200, 1e200), (0, 0, 1e200, 1e200), 0.0, id="area overflows"),
        pytest.param((0, 0, 2, 2), (2, 0, 4, 2), 0.0, id="touching sides"),
        pytest.param((0, 0, 2, 2), (5, 5, 6, 6), 0.0, id="apart on both axes"),
        pytest.param((1, 1, 3, 3), (1, 1, 3, 3), 1.0, id="equal"),
        pytest.param((0, 0, 10, 10), (0, 0, 10, 5), 0.5, id="half; adding 1 would give 0.5454"),
        pytest.param((0, 0, 4, 4), (1, 1, 3, 3), 0.25, id="nested"),
        pytest.param((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7, id="overlapping corners"),
        pytest.param((-3, -3, -1, -1), (-2, -3, 0, -1), 1 / 3, id="negative coordinates"),
    ],
)
def test_iou_table(a: tuple[float, ...], b: tuple[float, ...], expected: float) -> None:
    assert iou(a, b) == pytest.approx(expected, abs=1e-12)
    assert iou(b, a) == pytest.approx(expected, abs=1e-12)


@given(boxes(), boxes())
def test_iou_agrees_with_polygons(a: Box, b: Box) -> None:
    first, second = shapely.box(*a), shapely.box(*b)
    expected = first.intersection(second).area / first.union(second).area
    assert box_iou(a, b) == pytest.approx(expected, abs=1e-6)


@given(st.tuples(*[st.floats()] * 4), st.tuples(*[st.floats()] * 4))
def test_iou_of_any_numbers_is_a_share(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    assert 0.0 <= iou(a, b) <= 1.0  # false for nan


def test_iou_broadcasts_to_all_pairs() -> None:
    a = np.array([[0, 0, 2, 2], [0, 0, 4, 4], [9, 9, 8, 8]])
    b = np.array([[0, 0, 2, 2], [0, 0, 4, 2]])
    result = iou(a[:, None], b[None, :])
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, [[1, 0.5], [0.25, 0.5], [0, 0]])
    assert iou(np.zeros((0, 4)), np.zeros((0, 4))).shape == (0,)


@pytest.mark.parametrize("shape", [(), (3,), (2, 5), (0,)])
def test_iou_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"iou: b must have the shape \[\.\.\., 4\]"):
        iou(np.zeros(4), np.zeros(shape))


def test_no_box_overlaps_nothing() -> None:
    assert box_iou(None, Box(0, 0, 1, 1)) == box_iou(Box(0, 0, 1, 1), None) == box_iou(None, None) == 0.0
    assert type(box_iou(Box(0, 0, 2, 2), Box(0, 0, 2, 1))) is float


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (CoordinateFrame.PIXEL, (16, 12, 64, 48)),
        (CoordinateFrame.NORM_1, (0.25, 0.25, 1, 1)),
        (CoordinateFrame.NORM_100, (25, 25, 100, 100)),
        (CoordinateFrame.NORM_1000, (250, 250, 1000, 1000)),
        (CoordinateFrame.RESIZED_PIXEL, (7, 14, 28, 56)),
    ],
)
def test_frames_by_hand(frame: CoordinateFrame, expected: tuple[float, ...]) -> None:
    box = Box(16, 12, 64, 48)
    assert box_to_frame(box, frame, image_wh=(64, 48), input_wh=(28, 56)) == expected
    assert frame_to_box(expected, frame, image_wh=(64, 48), input_wh=(28, 56)) == box


@given(st.sampled_from(CoordinateFrame), SIDES, SIDES, SIDES, SIDES, st.tuples(*[SHARES] * 4))
def test_frames_invert_and_stay_inside(
    frame: CoordinateFrame, width: int, height: int, in_width: int, in_height: int, shares: tuple[float, ...]
) -> None:
    sizes = {"image_wh": (width, height), "input_wh": (in_width, in_height)}
    box = Box(shares[0] * width, shares[1] * height, shares[2] * width, shares[3] * height)
    values = box_to_frame(box, frame, **sizes)
    max_x, max_y = frame.extent(**sizes)
    assert max(values[0], values[2]) <= max_x
    assert max(values[1], values[3]) <= max_y
    assert frame_to_box(values, frame, **sizes) == pytest.approx(box, rel=1e-12, abs=1e-300)
    whole = Box(0, 0, width, height)
    assert box_to_frame(whole, frame, **sizes) == (0, 0, max_x, max_y)
    assert frame_to_box((0, 0, max_x, max_y), frame, **sizes) == whole


def test_whole_pixels_stay_whole() -> None:
    for side in range(1, 300):
        for value in range(side):
            box = Box(value, value, side, side)
            assert frame_to_box(box, CoordinateFrame.PIXEL, image_wh=(side, side)) == box


def test_resized_frame_needs_its_size() -> None:
    with pytest.raises(ValueError, match="'resized_pixel' needs input_wh"):
        box_to_frame(Box(0, 0, 1, 1), CoordinateFrame.RESIZED_PIXEL, image_wh=(4, 4))
    with pytest.raises(ValueError, match=r"image_wh must be \(width, height\), both positive, got \(4, 0\)"):
        frame_to_box((0, 0, 1, 1), CoordinateFrame.NORM_1, image_wh=(4, 0))


@pytest.mark.parametrize(
    ("box", "message"),
    [
        pytest.param((1, 1, 1, 2), "x1 < x2 and y1 < y2", id="no width"),
        pytest.param((1, 3, 2, 2), "x1 < x2 and y1 < y2", id="reversed"),
        pytest.param((0, 0, math.nan, 2), "four finite numbers", id="nan"),
        pytest.param((0, 0, 2), "four finite numbers", id="three numbers"),
        pytest.param((-0.5, 0, 2, 2), r"inside the image of \(8, 6\)", id="left of the image"),
        pytest.param((0, 0, 8.5, 2), r"inside the image of \(8, 6\)", id="right of the image"),
        pytest.param((0, 0, 7, 7), r"inside the image of \(8, 6\)", id="below: width and height confused"),
        pytest.param((0, -1, 7, 5), r"inside the image of \(8, 6\)", id="above"),
    ],
)
def test_validate_box_refuses(box: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"^the box of 'cat-3' must .*{message}"):
        validate_box(box, (8, 6), "the box of 'cat-3'")  # type: ignore[arg-type]


def test_validate_box_admits_the_whole_image() -> None:
    validate_box(Box(0, 0, 8, 6), (8, 6), "box")


def test_corner_and_size_forms() -> None:
    assert xywh_to_xyxy((10.0, 20.0, 5.0, 2.0)) == Box(10, 20, 15, 22)
    assert isinstance(xywh_to_xyxy((10.0, 20.0, 5.0, 2.0)), Box)
    assert xyxy_to_xywh(Box(10, 20, 15, 22)) == (10, 20, 5, 2)
    array = np.array([[[10, 20, 5, 2], [0, 0, 1, 1]]])
    converted = xywh_to_xyxy(array)
    assert converted.dtype == np.float64
    np.testing.assert_array_equal(converted, [[[10, 20, 15, 22], [0, 0, 1, 1]]])
    np.testing.assert_array_equal(xyxy_to_xywh(converted), array)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        pytest.param((8, 0, 9, 2), None, id="beside the image, sharing an edge"),
        pytest.param((-3, -3, -1, -1), None, id="outside"),
        pytest.param((5, 1, 2, 2), None, id="reversed"),
        pytest.param((1, math.nan, 2, 2), None, id="nan"),
        pytest.param((-math.inf, 0, 2, 2), None, id="infinite"),
        pytest.param((-1, -2, 20, 30), Box(0, 0, 8, 6), id="larger than the image"),
        pytest.param((-1, 2, 3, 4), Box(0, 2, 3, 4), id="over the left edge"),
        pytest.param((1, 2, 3, 4), Box(1, 2, 3, 4), id="inside"),
    ],
)
def test_clip_box(box: tuple[float, float, float, float], expected: Box | None) -> None:
    assert clip_box(box, (8, 6)) == expected
