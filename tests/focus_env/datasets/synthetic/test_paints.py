"""Colours and textures: each in one split, and told apart on every shape."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw

from focus_env.datasets.synthetic.paints import TEXTURE_GROUPS, TEXTURE_VARIANTS, paints, texture_at, texture_mix
from focus_env.datasets.synthetic.shapes import outline
from tests.focus_env.datasets.synthetic.made_up import SHAPES, SPLITS, TEXTURES


def test_every_paint_belongs_to_one_split() -> None:
    owned = [paint for split in ("train", "val", "test") for paint in paints(split)]  # type: ignore[arg-type]
    assert len(owned) == len(set(owned)) == 256
    assert paints("test_shapes") == paints("test")
    for split in SPLITS:
        textures = {paint.texture for paint in paints(split)}
        assert textures == {"solid", *TEXTURES}


def test_unknown_texture() -> None:
    with pytest.raises(ValueError, match=r"texture must be 'solid' or one of .*got 'plaid'"):
        texture_at("plaid", 0, np.zeros(1), np.zeros(1))


def test_textures_are_told_apart_on_every_shape() -> None:
    side = 48
    tiles = {(name, v): texture_mix(name, v, side) for name in TEXTURES for v in range(TEXTURE_VARIANTS)}
    for family, variant in SHAPES:
        picture = Image.new("L", (side, side))
        vertices = ((outline(family, variant) + 1) * side / 2 - 0.5).ravel().tolist()
        ImageDraw.Draw(picture).polygon(vertices, fill=1)
        inside = np.asarray(picture) > 0
        for (name, setting), tile in tiles.items():
            share = tile[inside].mean()
            assert 0.15 < share < 0.85, f"{name}{setting} shows one colour only on {family}{variant}"
        # These come in the same two colours, so they must differ by where the colours are.
        for group in TEXTURE_GROUPS:
            for first, second in itertools.combinations(group, 2):
                for setting in range(TEXTURE_VARIANTS):
                    gap = np.abs(tiles[first, setting] - tiles[second, setting])[inside].mean()
                    assert gap > 0.25, f"{first}{setting} and {second}{setting} on {family}{variant}"
