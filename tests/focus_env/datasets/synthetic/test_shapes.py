"""Outlines, and that families differ."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import shapely
from shapely import affinity

from focus_env.datasets.synthetic.scenes import LEVELS, MIN_SIDE
from focus_env.datasets.synthetic.shapes import COMMON_FAMILIES, HELD_OUT_FAMILIES, NUM_VARIANTS, outline, outline_area
from tests.focus_env.datasets.synthetic.made_up import SHAPES


@pytest.mark.parametrize(("family", "variant"), SHAPES)
def test_outlines_are_simple_polygons_in_the_unit_circle(family: str, variant: int) -> None:
    points = outline(family, variant)
    polygon = shapely.polygons(points)
    assert polygon.is_valid
    assert polygon.area == pytest.approx(outline_area(family, variant))
    assert np.hypot(*points.T).max() == pytest.approx(1.0)
    assert points.min(axis=0) == pytest.approx(-points.max(axis=0))
    # Wide enough for the smallest radius of all levels to be seen.
    width, height = np.ptp(points, axis=0) * min(level.radius[0] for level in LEVELS.values())
    assert min(width, height) > MIN_SIDE


@pytest.mark.parametrize("names", [COMMON_FAMILIES, HELD_OUT_FAMILIES], ids=["common", "held out"])
def test_families_have_different_silhouettes(names: dict[str, object]) -> None:
    for variant in range(NUM_VARIANTS):
        turned = {}
        for family in names:
            polygon = shapely.polygons(outline(family, variant))
            centred = affinity.translate(polygon, -polygon.centroid.x, -polygon.centroid.y)
            unit = affinity.scale(centred, *2 * [polygon.area**-0.5], origin=(0, 0))
            turned[family] = [affinity.rotate(unit, angle, origin=(0, 0)) for angle in range(0, 360, 15)]
        for first, second in itertools.combinations(names, 2):
            shared = shapely.area(shapely.intersection(turned[first][0], turned[second])).max()
            assert shared / (2 - shared) < 0.87, f"{first} and {second} look alike, variant {variant}"
