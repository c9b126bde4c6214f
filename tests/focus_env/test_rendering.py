"""Pictures: where the colours are, that nothing is changed in place, and sizes a person can see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from focus_env import rendering
from focus_env.errors import DatasetError
from focus_env.rendering import (
    ANSWER_COLOUR,
    ANSWER_COLOURS,
    TARGET_COLOUR,
    Colour,
    draw_boxes,
    draw_heat,
    render_episode,
    render_localization,
    render_row,
    stack_rows,
)
from focus_env.types import Box, Episode, Exemplar, Frame, ImageArray
from tests.fakes import FakeDataset, make_episode, make_frame

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


def test_the_hotter_a_cell_the_more_of_it_shows() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[...] = (200, 100, 0)
    before = image.copy()
    heated = draw_heat(image, np.array([[0.0, 2.0, 1.0], [1.0, 0.0, 0.5]]))
    assert np.array_equal(image, before)
    assert heated.dtype == np.uint8
    assert heated.shape == image.shape
    shares = np.array([[0.12, 1.0, 0.56], [0.56, 0.12, 0.34]]).repeat(20, 0).repeat(20, 1)
    np.testing.assert_allclose(heated, shares[..., None] * image, atol=1)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])
def test_heat_is_shown_by_its_own_most(scale: float) -> None:
    image = np.full((8, 8, 3), 255, np.uint8)
    heat = np.random.default_rng(0).random((4, 2))
    assert np.array_equal(draw_heat(image, scale * heat), draw_heat(image, heat))
    assert draw_heat(image, heat).max() == 255


def test_no_heat_leaves_an_image_dark() -> None:
    dark = draw_heat(np.full((8, 8, 3), 200, np.uint8), np.zeros((2, 2)))
    assert np.unique(dark).tolist() == [24]


SUPPORTS = [
    (np.full((64, 96, 3), (90, 0, 0), np.uint8), Box(12, 8, 60, 40)),
    (np.full((80, 48, 3), (0, 90, 0), np.uint8), Box(6, 10, 36, 40)),
]
QUERY = np.full((60, 80, 3), (0, 0, 90), np.uint8)
ANSWER = Box(20, 10, 60, 40)


def tiles(sheet: ImageArray, hue: int, top: int = 0) -> Box:
    """The place of the picture whose one channel is lit, in the sheet from row `top` on."""
    others = [channel for channel in range(3) if channel != hue]
    rows, columns = np.nonzero((sheet[top:, :, hue] > 0) & (sheet[top:][:, :, others] == 0).all(-1))
    return Box(columns.min(), top + rows.min(), columns.max() + 1, top + rows.max() + 1)


def drawn(sheet: ImageArray, tile: Box, colour: tuple[int, int, int]) -> Box | None:
    """The box of a colour within a tile, from the tile's corner."""
    x1, y1, x2, y2 = (int(value) for value in tile)
    return where(sheet[y1:y2, x1:x2], colour)


def test_a_localization_shows_what_was_given_and_what_was_answered() -> None:
    sheet = render_localization(SUPPORTS, QUERY, ANSWER)
    places = [tiles(sheet, hue) for hue in range(3)]
    assert [place.y2 - place.y1 for place in places] == [160, 160, 160]
    assert places[0].x2 < places[1].x1 < places[1].x2 < places[2].x1
    assert places[2].x1 - places[1].x2 > places[1].x1 - places[0].x2, "the query stands apart"
    shown = [(box, TARGET_COLOUR) for _, box in SUPPORTS] + [(ANSWER, ANSWER_COLOUR)]
    for place, scale, (box, colour) in zip(places, (2.5, 2, 160 / 60), shown, strict=True):
        assert drawn(sheet, place, colour) == pytest.approx([scale * value for value in box], abs=3)
        other = ANSWER_COLOUR if colour == TARGET_COLOUR else TARGET_COLOUR
        assert drawn(sheet, place, other) is None
    without = render_localization(SUPPORTS, QUERY, None)
    assert without.shape == sheet.shape
    assert drawn(without, places[2], ANSWER_COLOUR) is None
    assert drawn(without, places[1], TARGET_COLOUR) is not None
    assert where(render_localization([], QUERY, ANSWER)[36:], TARGET_COLOUR) is None


def test_attention_stands_in_a_second_row(monkeypatch: pytest.MonkeyPatch) -> None:
    captions: list[str] = []
    original = rendering._with_caption

    def spy(tile: ImageArray, height: int, items: Sequence[tuple[str, Colour | None]]) -> ImageArray:
        captions.extend(text for text, _ in items)
        return original(tile, height, items)

    monkeypatch.setattr(rendering, "_with_caption", spy)
    heats = [np.zeros((4, 6)), np.zeros((5, 3)), np.zeros((2, 2))]
    heats[0][0, 5], heats[1][4, 0], heats[2][...] = 0.25, 0.5, 0.2
    sheet = render_localization(SUPPORTS, QUERY, ANSWER, heats)
    assert captions == ["support 1", "support 2", "query", "by query 25%", "by query 50%", "by answer 80%"]
    plain = render_localization(SUPPORTS, QUERY, ANSWER)
    assert np.array_equal(sheet[: len(plain) - 6], plain[:-6])
    second = [tiles(sheet, hue, len(plain)) for hue in range(3)]
    for place, hue, lit in zip(second, range(3), ((200, 0, 240, 40), (0, 128, 32, 160), (0, 0, 213, 160)), strict=True):
        x1, y1, x2, y2 = (int(value) for value in place)
        # A cell in full light has the picture's own colour, 90; the others have 12 % of it.
        bright = drawn(sheet, place, tuple(90 * (channel == hue) for channel in range(3)))  # type: ignore[arg-type]
        assert bright == pytest.approx(lit, abs=1)
        assert set(np.unique(sheet[y1:y2, x1:x2, hue])) >= ({90} if hue == 2 else {11, 90})
    for place, (box, colour), scale in zip(
        second,
        [(SUPPORTS[0][1], TARGET_COLOUR), (SUPPORTS[1][1], TARGET_COLOUR), (ANSWER, ANSWER_COLOUR)],
        (2.5, 2, 160 / 60),
        strict=True,
    ):
        assert drawn(sheet, place, colour) == pytest.approx([scale * value for value in box], abs=3)


def test_attention_is_for_every_picture() -> None:
    with pytest.raises(ValueError, match="zip"):
        render_localization(SUPPORTS, QUERY, None, [np.ones((2, 2))] * 2)
    render_localization(SUPPORTS, QUERY, None, [np.zeros((2, 2))] * 3)  # nothing was looked at


def test_a_row_that_cannot_be_drawn_says_why() -> None:
    """A sheet comes after the work, and one bad picture does not cost it."""

    class Damaged(FakeDataset):
        def __getitem__(self, index: int) -> Episode:
            raise DatasetError("frame 3 is damaged\nat its end")

    row = render_row(Damaged(), 1)
    assert row.dtype == np.uint8
    assert np.ptp(row) > 0
    assert np.array_equal(render_row(FakeDataset(), 1), render_episode(FakeDataset()[1]))
    assert stack_rows([row, render_row(FakeDataset(), 1)]).ndim == 3
