"""Splits, shapes and textures to go through, and scenes of random identities."""

from __future__ import annotations

from typing import get_args

import numpy as np

from focus_env.datasets.synthetic.identities import Identity, identity_from_number, num_identities
from focus_env.datasets.synthetic.paints import TEXTURE_GROUPS, Paint, Split, paints
from focus_env.datasets.synthetic.scenes import Scene
from focus_env.datasets.synthetic.shapes import COMMON_FAMILIES, HELD_OUT_FAMILIES, NUM_VARIANTS

SPLITS: tuple[Split, ...] = get_args(Split)
SHAPES = [(family, variant) for family in (*COMMON_FAMILIES, *HELD_OUT_FAMILIES) for variant in range(NUM_VARIANTS)]
TEXTURES = [texture for group in TEXTURE_GROUPS for texture in group]


def paint_of(identity: Identity) -> Paint:
    known = {frozenset(paint.colours): paint.colours for split in SPLITS for paint in paints(split)}
    return Paint(identity.texture, known[frozenset(identity.colours)])


def random_identities(rng: np.random.Generator, count: int) -> list[Identity]:
    """Identities that differ from each other."""
    numbers = rng.choice(num_identities("train"), size=3 * count, replace=False)
    return list(dict.fromkeys(identity_from_number("train", int(number)) for number in numbers))[:count]


def position_of(scene: Scene, identity: Identity) -> int:
    return next(index for index, item in enumerate(scene.objects) if item.identity == identity)
