"""Pixels: boxes fit them, light stays within its bounds, textures turn with their objects."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from focus_env.datasets.synthetic.drawing import BACKGROUND_DRAWS, LIGHT_DRAWS, draw_scene
from focus_env.datasets.synthetic.identities import Identity
from focus_env.datasets.synthetic.scenes import DRAWS_PER_OBJECT, LEVELS, PlacedObject, arrange
from focus_env.datasets.synthetic.shapes import outline
from focus_env.types import Box
from tests.focus_env.datasets.synthetic.made_up import TEXTURES, position_of, random_identities


@pytest.mark.parametrize("level", LEVELS)
def test_the_box_bounds_the_pixels_that_the_target_changes(level: int) -> None:
    """Draw each scene with and without its target: the pixels that differ are those where it is seen."""
    size = 112
    rng = np.random.default_rng(level)
    errors = []
    for _ in range(60):
        identities = random_identities(rng, LEVELS[level].num_objects[1])
        scene = arrange(identities, rng.random((len(identities), DRAWS_PER_OBJECT)).tolist(), LEVELS[level], size)
        draws = {
            "background_draws": rng.random(BACKGROUND_DRAWS).tolist(),
            "light_draws": rng.random(LIGHT_DRAWS).tolist(),
        }
        target = position_of(scene, identities[0])
        others = scene.objects[:target] + scene.objects[target + 1 :]
        with_target, without = (
            draw_scene(objects, **draws, level=LEVELS[level], size=size) for objects in (scene.objects, others)
        )
        rows, columns = np.nonzero((with_target != without).any(axis=2))
        seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        errors.append(np.abs(np.subtract(seen, scene.target_box)).max())
    if level <= 3:
        assert max(errors) <= 1.0
    else:  # an occluder may leave a sliver, which the polygon has and the pixels have not
        assert np.quantile(errors, 0.95) <= 1.05


@settings(max_examples=60, deadline=None)
@given(
    level=st.sampled_from(sorted(LEVELS)),
    draws=st.lists(st.floats(0, 1, exclude_max=True), min_size=LIGHT_DRAWS, max_size=LIGHT_DRAWS),
)
def test_light_dims_within_the_bounds_of_the_level(level: int, draws: list[float]) -> None:
    background = [0.3] * BACKGROUND_DRAWS
    full = dataclasses.replace(LEVELS[level], light=1.0, tint=0.0)
    lit, unlit = (
        draw_scene([], background_draws=background, light_draws=draws, level=used, size=56).astype(float)
        for used in (LEVELS[level], full)
    )
    assert (lit <= unlit).all()
    darkest = LEVELS[level].light * (1 - LEVELS[level].tint)
    assert (lit >= np.floor(unlit * (darkest - 2 / 256)) - 1).all()  # each of three steps rounds down


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
@pytest.mark.parametrize("texture", TEXTURES)
def test_the_texture_turns_and_shears_with_the_object(texture: str, quarter_turns: int) -> None:
    size = 112
    identity = Identity("corner", 1, texture, 1, ("white", "blue"))
    full = dataclasses.replace(LEVELS[1], light=1.0)
    pictures = []
    for turns in (0, quarter_turns):
        cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[turns]
        turn = np.array(((cos, sin), (-sin, cos)))  # as np.rot90: from x towards -y
        matrix = turn @ ((44.0, 9.0), (3.0, 40.0))
        points = outline(identity.family, identity.shape_variant) @ matrix.T + size / 2
        bounds = Box(*points.min(axis=0).tolist(), *points.max(axis=0).tolist())
        item = PlacedObject(identity, points, tuple(matrix.ravel().tolist()), (size / 2, size / 2), bounds)
        draws = {"background_draws": [0.1] * BACKGROUND_DRAWS, "light_draws": [0.5] * LIGHT_DRAWS}
        pictures.append(draw_scene([item], **draws, level=full, size=size).astype(int))
        if turns == 0:
            columns, rows = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
            inside = shapely.contains_xy(shapely.polygons(points).buffer(-2), columns, rows)
    turned_back = np.rot90(pictures[1], -quarter_turns)
    gap = np.abs(turned_back - pictures[0])[inside].mean()
    assert inside.sum() > 1000
    assert pictures[0][inside].std(axis=0).max() > 30
    assert gap < 8, "the texture does not follow the object"
