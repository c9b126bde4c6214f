"""Pictures: where the colours are, that nothing is changed in place, and sizes a person can see."""

from __future__ import annotations

import numpy as np
import pytest

from focus_env.rendering import (
    ANSWER_COLOUR,
    ANSWER_COLOURS,
    TARGET_COLOUR,
    draw_boxes,
    render_episode,
    stack_rows,
)
from focus_env.types import Box, Episode, Exemplar, Frame, ImageArray
from tests.fakes import make_episode, make_frame

RED = (255, 0, 0)


def where(image: ImageArray, colour: tuple[int, int, int]) -> Box | None:
    """The box around all pixels of exactly this colour."""
    rows, columns = np.nonzero((image == colour).all(axis=-1))
    if len(rows) == 0:
        return None
    return Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_a_box_is_drawn_where_it_is() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    drawn = draw_boxes(image, [(Box(50, 20, 150, 80), RED, "")])
    assert image.max() == 0
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    outline = where(drawn, RED)
    assert outline == pytest.approx((50, 20, 150, 80), abs=2)
    assert (drawn[26:74, 56:144] == 0).all(), "the inside stays visible"


@pytest.mark.parametrize(
    "box",
    [
        pytest.param(Box(0, 0, 200, 100), id="whole image"),
        pytest.param(Box(199.4, 99.4, 199.6, 99.6), id="less than a pixel"),
        pytest.param(Box(50.1, 50.1, 50.3, 50.3), id="between two pixels"),
        pytest.param(Box(-50, -50, 20, 20), id="reaching out of the image"),
    ],
)
def test_extreme_boxes_leave_a_mark(box: Box) -> None:
    drawn = draw_boxes(np.zeros((100, 200, 3), np.uint8), [(box, RED, "a label")])
    assert drawn.shape == (100, 200, 3)
    assert where(drawn, RED) is not None


def test_a_label_is_drawn_in_the_image() -> None:
    for box in (Box(50, 40, 150, 80), Box(50, 0, 150, 100)):
        image = np.zeros((100, 200, 3), np.uint8)
        plain = draw_boxes(image, [(box, RED, "")])
        labelled = draw_boxes(image, [(box, RED, "answer")])
        is_label = (plain != labelled).any(axis=-1)
        assert is_label.sum() > 300


def test_a_later_box_lies_over_an_earlier_one() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    box = Box(50, 20, 150, 80)
    drawn = draw_boxes(image, [(box, RED, ""), (box, (0, 0, 255), "")])
    assert where(drawn, RED) is None


@pytest.mark.parametrize(
    ("image_wh", "low", "high"),
    [((20, 10), 160, 220), ((112, 112), 224, 260), ((300, 200), 200, 240), ((1920, 1080), 320, 360)],
)
def test_tiles_have_a_size_for_people(image_wh: tuple[int, int], low: int, high: int) -> None:
    width, height = image_wh
    box = Box(width / 4, height / 4, width / 2, height / 2)
    support = Exemplar(make_frame("support", image_wh, box), box)
    row = render_episode(Episode("e", (support,), make_frame("query", image_wh, box), box, "i"))
    assert low < row.shape[0] < high
    assert row.shape[1] > 1.5 * low


def test_a_very_wide_image_does_not_blow_up_the_row() -> None:
    frame = Frame("wide", (4000, 20), np.zeros((20, 4000, 3), np.uint8))
    row = render_episode(Episode("e", (), frame, Box(0, 0, 2000, 20), "i"))
    assert row.shape[1] < 600


def test_supports_and_target_are_green_and_answers_are_not() -> None:
    episode = make_episode(shots=2)
    row = render_episode(episode, [("answer", Box(0, 0, 20, 20), ANSWER_COLOUR), ("other", None, ANSWER_COLOURS[1])])
    is_green = (row == TARGET_COLOUR).all(axis=-1).any(axis=0)
    starts = np.nonzero(is_green[1:] & ~is_green[:-1])[0]
    assert len(starts) >= 3
    assert where(row, ANSWER_COLOUR) is not None
    assert where(row, ANSWER_COLOURS[1]) is not None, "an answer without a box stands in the caption"
    assert where(render_episode(episode), ANSWER_COLOUR) is None


def test_an_absent_target_has_no_green_in_the_query() -> None:
    row = render_episode(make_episode(shots=0, target_box=None))
    assert where(row, TARGET_COLOUR) is None


def test_the_target_is_scaled_with_its_image() -> None:
    box = Box(20, 10, 60, 40)
    plain = np.zeros((60, 80, 3), np.uint8)
    row = render_episode(Episode("e", (), Frame("q", (80, 60), plain), box, "i"))
    tile = where(row, (0, 0, 0))  # the ground of the query, and so its place in the row
    green = row.copy()
    green[185:] = 0  # without the caption
    outline = where(green, TARGET_COLOUR)
    assert tile is not None
    assert outline is not None
    scale = 180 / 60
    expected = [tile.x1 + 20 * scale, tile.y1 + 10 * scale, tile.x1 + 60 * scale, tile.y1 + 40 * scale]
    assert outline == pytest.approx(expected, abs=3)


def test_rows_are_stacked_unchanged_and_in_order() -> None:
    rows = [np.full((30, 50, 3), 10, np.uint8), np.full((20, 90, 3), 20, np.uint8)]
    sheet = stack_rows(rows, ["first", "second"])
    first, second = where(sheet, (10, 10, 10)), where(sheet, (20, 20, 20))
    assert first is not None
    assert second is not None
    assert (first.x2 - first.x1, first.y2 - first.y1) == (50, 30)
    assert (second.x2 - second.x1, second.y2 - second.y1) == (90, 20)
    assert first.y2 < second.y1
    assert where(sheet, TARGET_COLOUR) is not None, "the legend"
    bare = stack_rows(rows, legend=())
    assert where(bare, TARGET_COLOUR) is None
    assert bare.shape[0] < sheet.shape[0]


def test_bad_sheets() -> None:
    with pytest.raises(ValueError, match="at least one row, got none"):
        stack_rows([])
    with pytest.raises(ValueError, match="one title per row, got 2 titles for 1 rows"):
        stack_rows([np.zeros((5, 5, 3), np.uint8)], ["a", "b"])
