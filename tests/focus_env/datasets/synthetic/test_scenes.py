"""Where objects lie, and what is seen of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from focus_env.datasets.synthetic.identities import Identity
from focus_env.datasets.synthetic.scenes import (
    DRAWS_PER_OBJECT,
    LEVELS,
    MIN_SIDE,
    MIN_VISIBLE,
    PlacedObject,
    arrange,
    visible_box,
)
from focus_env.types import Box
from tests.focus_env.datasets.synthetic.made_up import position_of, random_identities

SQUARE = Identity("rectangle", 0, "solid", 0, ("red",))


def _placed(identity: Identity, points: list[tuple[float, float]]) -> PlacedObject:
    """An object with a given outline; its matrix is the one that gives a `SQUARE` of side 20 its area."""
    array = np.array(points)
    side = 10 * np.sqrt(2)  # the square's outline has half-diagonal 1
    bounds = Box(*array.min(axis=0).tolist(), *array.max(axis=0).tolist())
    return PlacedObject(identity, array, (side, 0.0, 0.0, side), (0.0, 0.0), bounds)


def _rectangle(x1: float, y1: float, x2: float, y2: float) -> PlacedObject:
    return _placed(SQUARE, [(x1, y1), (x2, y1), (x2, y2), (x1, y2)])


@pytest.mark.parametrize(
    ("case", "above", "expected", "share"),
    [
        ("covered", [_rectangle(0, 0, 50, 50)], None, 0.0),
        ("covered by two", [_rectangle(0, 0, 20, 50), _rectangle(20, 0, 50, 50)], None, 0.0),
        ("nothing above", [], Box(10, 10, 30, 30), 1.0),
        ("left half covered", [_rectangle(0, 0, 20, 50)], Box(20, 10, 30, 30), 0.5),
        ("a band across the middle", [_rectangle(0, 15, 50, 25)], Box(10, 10, 30, 30), 0.5),
        ("a corner", [_rectangle(25, 25, 50, 50)], Box(10, 10, 30, 30), 1 - 25 / 400),
        (
            "all but a corner",
            [_rectangle(0, 0, 50, 25), _rectangle(0, 0, 25, 50)],
            Box(25, 25, 30, 30),
            25 / 400,
        ),
        ("near", [_rectangle(31, 10, 50, 30)], Box(10, 10, 30, 30), 1.0),
        (
            "boxes meet, outlines do not",
            [_placed(SQUARE, [(50, 5), (50, 50), (5, 50)])],
            Box(10, 10, 30, 30),
            1 - 12.5 / 400,
        ),
    ],
)
def test_visible_box(case: str, above: list[PlacedObject], expected: Box | None, share: float) -> None:
    box, seen = visible_box(_rectangle(10, 10, 30, 30), above, 100)
    assert box == expected
    assert seen == pytest.approx(share)


@pytest.mark.parametrize(
    ("target", "expected", "share"),
    [
        (_rectangle(-5, 10, 15, 30), Box(0, 10, 15, 30), 0.75),
        (_rectangle(50, 50, 70, 70), Box(50, 50, 60, 60), 0.25),
        (_rectangle(-20, 0, 0, 20), None, 0.0),
        (_rectangle(40, 40, 60, 60), Box(40, 40, 60, 60), 1.0),
    ],
)
def test_what_lies_outside_the_picture_is_not_seen(target: PlacedObject, expected: Box | None, share: float) -> None:
    box, seen = visible_box(target, [], 60)
    assert box == expected
    assert seen == pytest.approx(share)


@pytest.mark.parametrize("level", LEVELS)
def test_the_target_stays_recognisable(level: int) -> None:
    size = 112
    rng = np.random.default_rng(level)
    for _ in range(150):
        identities = random_identities(rng, LEVELS[level].num_objects[1])
        draws = rng.random((len(identities), DRAWS_PER_OBJECT)).tolist()
        scene = arrange(identities, draws, LEVELS[level], size)
        assert {item.identity for item in scene.objects} == set(identities)
        target = position_of(scene, identities[0])
        box, share = visible_box(scene.objects[target], scene.objects[target + 1 :], size)
        assert box == scene.target_box
        assert share >= MIN_VISIBLE
        assert min(box.x2 - box.x1, box.y2 - box.y1) >= MIN_SIDE * size


@pytest.mark.parametrize("level", [4, 5])
@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_a_target_that_would_be_hidden_is_brought_to_the_top_and_inside(level: int, place: float) -> None:
    """All objects are drawn alike, so that each wants the same place; the target is the lowest."""
    identities = [SQUARE._replace(colours=(name,)) for name in ("red", "green", "blue", "white")]
    draws = [[0.5, 0.9, 0.5, 0.5, height / 4, *(DRAWS_PER_OBJECT - 5) * [place]] for height in range(4)]
    scene = arrange(identities, draws, LEVELS[level], 112)
    target = scene.objects[-1]
    assert target.identity == identities[0]
    assert visible_box(target, [], 112) == (scene.target_box, 1.0)
    corners = (*target.points.min(axis=0), *target.points.max(axis=0))
    np.testing.assert_allclose(corners, scene.target_box, atol=1e-9)
    # The texture moves along with the outline.
    np.testing.assert_allclose(target.centre, (np.add(corners[:2], corners[2:])) / 2)


def test_objects_stand_apart_where_nothing_may_be_occluded() -> None:
    rng = np.random.default_rng(0)
    touching = 0
    for _ in range(300):
        identities = random_identities(rng, 3)
        scene = arrange(identities, rng.random((3, DRAWS_PER_OBJECT)).tolist(), LEVELS[3], 112)
        boxes = shapely.box(*np.array([item.bounds for item in scene.objects]).T)
        touching += any(one.intersects(other) for one, other in itertools.combinations(boxes, 2))
    assert touching / 300 < 0.05


def test_the_target_cannot_be_told_by_its_place() -> None:
    """Later objects must go where there is room: placed first, the target was nearest to the centre in 38 of 100."""
    size, num_objects, num_scenes = 64, 4, 1500
    rng = np.random.default_rng(0)
    is_nearest = []
    for _ in range(num_scenes):
        identities = random_identities(rng, num_objects)
        scene = arrange(identities, rng.random((num_objects, DRAWS_PER_OBJECT)).tolist(), LEVELS[3], size)
        distances = [
            np.hypot((x1 + x2 - size) / 2, (y1 + y2 - size) / 2) for x1, y1, x2, y2 in (o.bounds for o in scene.objects)
        ]
        is_nearest.append(int(np.argmin(distances)) == position_of(scene, identities[0]))
    chance = 1 / num_objects
    assert abs(np.mean(is_nearest) - chance) <= 4 * np.sqrt(chance * (1 - chance) / num_scenes)


@settings(max_examples=200)
@given(left=st.floats(-30, 130), top=st.floats(-30, 130), side=st.floats(1, 60))
def test_moved_inside(left: float, top: float, side: float) -> None:
    moved = _rectangle(left, top, left + side, top + side).moved_inside(112)
    x1, y1, x2, y2 = moved.bounds
    assert 0 <= x1 < x2 <= 112
    assert 0 <= y1 < y2 <= 112
    assert all(isinstance(value, float) for value in moved.bounds)
    np.testing.assert_allclose(moved.bounds, (*moved.points[0], *moved.points[2]), atol=1e-9)
    if left >= 0 and left + side <= 112:
        assert x1 == left
