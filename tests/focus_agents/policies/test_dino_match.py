"""Matching patch features: geometry with features made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from focus_agents.policies.dino_match import (
    DinoMatcher,
    box_from_map,
    coverage,
    grid_wh,
    prototype,
    unit_features,
)
from focus_env.boxes import box_iou
from focus_env.env import observe
from focus_env.spaces import Observation
from focus_env.types import Box, ImageArray
from tests.fakes import make_episode

RNG = np.random.default_rng(0)
CELL = 8
"""Side of the cells of `color_features` in pixels."""


def color_features(image: ImageArray) -> Any:
    """[h, w, 3] share of each of the three pure colours in cells of 8x8 pixels."""
    height, width = image.shape[0] // CELL, image.shape[1] // CELL
    return (image / 255).reshape(height, CELL, width, CELL, 3).mean(axis=(1, 3))


def scene(width: int, height: int, *objects: tuple[Box, int]) -> ImageArray:
    """Objects of one channel each, on blue."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, :, 2] = 255
    for box, channel in objects:
        x1, y1, x2, y2 = map(int, box)
        image[y1:y2, x1:x2] = 0
        image[y1:y2, x1:x2, channel] = 255
    return image


def ask(query: ImageArray, *supports: tuple[ImageArray, Box]) -> Observation:
    return {
        "support_images": tuple(image for image, _ in supports),
        "support_boxes": np.array([box for _, box in supports], np.float64),
        "query_image": query,
    }


class TestCoverage:
    @pytest.mark.parametrize(
        ("box", "expected"),
        [
            pytest.param((0, 0, 30, 20), [[1, 1, 1], [1, 1, 1]], id="whole picture"),
            pytest.param((10, 0, 20, 10), [[0, 1, 0], [0, 0, 0]], id="one cell"),
            pytest.param((12, 2, 14, 7), [[0, 0.1, 0], [0, 0, 0]], id="within a cell"),
            pytest.param((5, 5, 25, 15), [[0.25, 0.5, 0.25], [0.25, 0.5, 0.25]], id="halves"),
            pytest.param((25, 18, 30, 20), [[0, 0, 0], [0, 0, 0.1]], id="in the corner"),
            pytest.param((-9, -9, 5, 10), [[0.5, 0, 0], [0, 0, 0]], id="beyond the picture"),
            pytest.param((40, 0, 50, 20), [[0, 0, 0], [0, 0, 0]], id="outside"),
            pytest.param((20, 0, 10, 20), [[0, 0, 0], [0, 0, 0]], id="reversed"),
            pytest.param((5, 5, 5, 15), [[0, 0, 0], [0, 0, 0]], id="no area"),
        ],
    )
    def test_shares_of_cells(self, box: tuple[float, ...], expected: list[list[float]]) -> None:
        np.testing.assert_allclose(coverage(box, (2, 3), (30, 20)), expected, atol=1e-12)  # type: ignore[arg-type]

    def test_they_add_up_to_the_box(self) -> None:
        box, cells = Box(1.5, 2.25, 17.0, 90.0), coverage(Box(1.5, 2.25, 17.0, 90.0), (7, 5), (33, 100))
        assert cells.sum() * (33 / 5) * (100 / 7) == pytest.approx((box.x2 - box.x1) * (box.y2 - box.y1))


class TestGrid:
    @pytest.mark.parametrize(
        ("image_wh", "expected"),
        [
            ((1, 1), (10, 10)),
            ((5000, 5000), (10, 10)),
            ((200, 100), (14, 7)),
            ((100, 200), (7, 14)),
            ((1, 10_000), (1, 100)),
            ((10_000, 1), (100, 1)),
            ((101, 100), (10, 9)),
        ],
    )
    def test_about_the_shape_and_never_more(self, image_wh: tuple[int, int], expected: tuple[int, int]) -> None:
        assert grid_wh(image_wh, 100) == expected

    def test_one_patch_at_least(self) -> None:
        assert grid_wh((3, 1), 1) == (1, 1)


class TestPrototype:
    def test_mean_weighted_by_coverage(self) -> None:
        cells = np.array([[[1.0, 0.0], [0.0, 1.0]]])
        np.testing.assert_allclose(prototype([cells], [np.array([[3.0, 4.0]])]), [0.6, 0.8])

    def test_pictures_count_alike(self) -> None:
        small, large = np.zeros((1, 1, 2)), np.zeros((4, 4, 2))
        small[..., 0] = large[..., 1] = 1
        np.testing.assert_allclose(prototype([small, large], [np.full((1, 1), 0.1), np.ones((4, 4))]), [0.5**0.5] * 2)

    def test_pictures_with_cells_that_do_not_count_still_count_alike(self) -> None:
        whole, partial = np.zeros((1, 4, 2)), np.zeros((1, 4, 2))
        whole[..., 0] = partial[..., 1] = 1
        partial[0, :3] = np.nan
        np.testing.assert_allclose(prototype([whole, partial], [np.ones((1, 4))] * 2), [0.5**0.5] * 2)

    def test_what_is_no_number_does_not_count(self) -> None:
        cells = np.array([[[1.0, 0.0], [np.nan, 1.0], [0.0, np.inf]]])
        np.testing.assert_allclose(prototype([cells], [np.ones((1, 3))]), [1, 0])
        np.testing.assert_array_equal(prototype([cells * np.nan], [np.ones((1, 3))]), [0, 0])

    def test_nothing_is_zero(self) -> None:
        np.testing.assert_array_equal(prototype([np.ones((2, 2, 3))], [np.zeros((2, 2))]), [0, 0, 0])

    def test_lengths(self) -> None:
        features = np.array([[3.0, 4.0], [0.0, 0.0], [np.inf, 1.0], [np.nan, 1.0]])
        units = unit_features(features)
        np.testing.assert_allclose(units[:2], [[0.6, 0.8], [0, 0]])
        assert np.isnan(units[2:, 0]).all()


def rectangle(rows: slice, columns: slice, *, value: float = 1.0, grid: tuple[int, int] = (6, 8)) -> Any:
    cells = np.zeros(grid)
    cells[rows, columns] = value
    return cells


class TestBoxFromMap:
    """The picture is 10 pixels a cell across, 5 down."""

    WH = (80, 30)

    @pytest.mark.parametrize(
        ("rows", "columns", "expected"),
        [
            pytest.param(slice(2, 4), slice(3, 6), (30, 10, 60, 20), id="inside"),
            pytest.param(slice(2, 3), slice(3, 4), (30, 10, 40, 15), id="one cell"),
            pytest.param(slice(2, 3), slice(0, 8), (0, 10, 80, 15), id="one row"),
            pytest.param(slice(0, 1), slice(0, 1), (0, 0, 10, 5), id="first corner"),
            pytest.param(slice(4, 6), slice(7, 8), (70, 20, 80, 30), id="last corner"),
            pytest.param(slice(0, 6), slice(0, 5), (0, 0, 50, 30), id="more than half"),
        ],
    )
    @pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.5, -1.2), (0.3, 0.3001)])
    def test_cells_come_back(self, rows: slice, columns: slice, expected: Any, low: float, high: float) -> None:
        cells = low + (high - low) * rectangle(rows, columns)
        assert box_from_map(cells, self.WH) == Box(*expected)

    def test_the_part_with_the_maximum_alone(self) -> None:
        cells = rectangle(slice(0, 4), slice(0, 3), value=0.9) + rectangle(slice(4, 6), slice(6, 8))
        assert box_from_map(cells, self.WH) == Box(60, 20, 80, 30)

    def test_edges_lie_between_cells_where_these_are_half_alike(self) -> None:
        cells = rectangle(slice(2, 4), slice(3, 6))
        cells[2:4, 6] = 0.45  # the threshold is at 0.5, not far from its centre
        box = box_from_map(cells, self.WH)
        assert tuple(box)[:2] == (30, 10)
        assert box.y2 == 20
        assert 60 < box.x2 <= 65

    @pytest.mark.parametrize("value", [0.0, 0.7, -2.0, np.nan, np.inf])
    def test_a_flat_map_is_the_whole_picture(self, value: float) -> None:
        assert box_from_map(np.full((6, 8), value), self.WH) == Box(0, 0, 80, 30)
        assert box_from_map(np.full((1, 1), value), (3, 900)) == Box(0, 0, 3, 900)

    def test_rounding_is_no_place_that_stands_out(self) -> None:
        assert box_from_map(0.3 + 1e-8 * RNG.normal(size=(6, 8)), self.WH) == Box(0, 0, 80, 30)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_what_is_no_number_is_least_alike(self, value: float) -> None:
        cells = rectangle(slice(2, 4), slice(3, 6))
        cells[0, 0] = cells[5, 7] = value
        assert box_from_map(cells, self.WH) == Box(30, 10, 60, 20)

    def test_noise_does_not_move_it_far(self) -> None:
        cells = rectangle(slice(10, 20), slice(5, 12), grid=(37, 37)) + 0.1 * RNG.normal(size=(37, 37))
        assert box_iou(box_from_map(cells, (37, 37)), Box(5, 10, 12, 20)) > 0.8


class TestMatching:
    def find(self, query: ImageArray, *supports: tuple[ImageArray, Box]) -> Box:
        return DinoMatcher(color_features)(ask(query, *supports), RNG)

    @pytest.mark.parametrize("query_wh", [(96, 64), (64, 160), (800, 24)])
    @pytest.mark.parametrize("shots", [1, 3])
    def test_the_object_of_the_support_and_not_the_other(self, query_wh: tuple[int, int], shots: int) -> None:
        wanted, other = Box(40, 8, 56, 16), Box(8, 8, 24, 16)
        query = scene(*query_wh, (wanted, 0), (other, 1))
        supports = []
        for shot in range(shots):
            box = Box(8 + 8 * shot, 8, 32, 32)
            supports.append((scene(64 + 16 * shot, 48, (box, 0), (Box(40, 32, 56, 48), 1)), box))
        assert self.find(query, *supports) == wanted

    def test_a_support_box_smaller_than_a_cell(self) -> None:
        box = Box(18, 19, 22, 21)
        support = scene(64, 48, (Box(16, 16, 24, 24), 0))
        assert self.find(scene(96, 64, (Box(40, 8, 56, 16), 0)), (support, box)) == Box(40, 8, 56, 16)

    def test_a_support_box_that_is_background_for_the_most_part(self) -> None:
        support = scene(64, 48, (Box(24, 16, 40, 24), 0))
        query = scene(96, 64, (Box(40, 8, 56, 16), 0))
        assert self.find(query, (support, Box(16, 8, 48, 32))) == Box(40, 8, 56, 16)

    def test_a_support_box_at_the_border(self) -> None:
        box = Box(48, 32, 64, 48)
        query = scene(96, 64, (Box(80, 0, 96, 24), 0))
        assert self.find(query, (scene(64, 48, (box, 0)), box)) == Box(80, 0, 96, 24)

    def test_a_support_box_that_is_the_whole_picture(self) -> None:
        query = scene(96, 64, (Box(8, 16, 24, 40), 0))
        assert self.find(query, (scene(64, 48, (Box(0, 0, 64, 48), 0)), Box(0, 0, 64, 48))) == Box(8, 16, 24, 40)

    @pytest.mark.parametrize("value", [1.0, 0.0, np.nan])
    def test_features_that_are_all_equal(self, value: float) -> None:
        matcher = DinoMatcher(lambda image: np.full((3, 4, 5), value))
        question = observe(make_episode(1))
        assert matcher(question, RNG) == Box(0, 0, 80, 60)

    def test_some_features_that_are_no_numbers(self) -> None:
        def features(image: ImageArray) -> Any:
            cells = color_features(image)
            cells[0, 0], cells[-1, -1, 0] = np.nan, np.inf
            return cells

        box, wanted = Box(16, 16, 40, 40), Box(40, 8, 56, 16)
        question = ask(scene(96, 64, (wanted, 0)), (scene(64, 48, (box, 0)), box))
        assert DinoMatcher(features)(question, RNG) == wanted
