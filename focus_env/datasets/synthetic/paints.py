"""Paints: the texture and the colours that fill an object, and which split each of them belongs to."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Split = Literal["train", "val", "test", "test_shapes"]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 38, 44),
    "orange": (255, 138, 20),
    "yellow": (255, 226, 40),
    "green": (38, 158, 64),
    "cyan": (40, 208, 222),
    "blue": (38, 72, 222),
    "purple": (142, 48, 186),
    "pink": (255, 142, 196),
    "white": (250, 250, 246),
    "black": (26, 26, 32),
}
"""RGB in full light."""

MIN_CONTRAST = 130.0
"""Least Euclidean RGB distance between the two colours of one paint."""

TEXTURE_GROUPS = (("stripes", "dots", "gradient"), ("checks", "rings", "spokes"))
"""Two-colour textures. A pair of colours is given to a split once per group, so that within a split the same
two colours come in three textures."""

TEXTURE_VARIANTS = 4
"""Settings of a texture: coarse or fine, along or across the object."""


class Paint(NamedTuple):
    """The fill of an object.

    Attributes:
        texture: ``"solid"`` or a name in `TEXTURE_GROUPS`.
        colours: One name for solid, else two in the order of `COLOURS`. Which of the two is the ground
            is the identity's choice, so that a swap never turns an object of one split into one of another.
    """

    texture: str
    colours: tuple[str, ...]


def contrast(first: str, second: str) -> float:
    """Euclidean RGB distance of two colours, 0 .. 441."""
    return math.dist(COLOURS[first], COLOURS[second])


def _slot_split(slot: int) -> Split:
    """Return the split that owns residue `slot` of ten: eight for training, one each for validation and test."""
    return "val" if slot % 10 == 8 else "test" if slot % 10 == 9 else "train"


@functools.cache
def paints(split: Split) -> tuple[Paint, ...]:
    """Return all paints of a split, in a fixed order.

    A paint belongs to one of train, val and test, whatever the shape it fills; test_shapes uses those of
    test.
    """
    split = "test" if split == "test_shapes" else split
    pairs = [pair for pair in itertools.combinations(COLOURS, 2) if contrast(*pair) >= MIN_CONTRAST]
    owned = [Paint("solid", (name,)) for slot, name in enumerate(COLOURS) if _slot_split(slot) == split]
    for group_index, group in enumerate(TEXTURE_GROUPS):
        owned += [
            Paint(texture, pair)
            for slot, pair in enumerate(pairs)
            if _slot_split(slot * 3 + group_index * 5) == split
            for texture in group
        ]
    return tuple(owned)


def texture_at(
    texture: str, variant: int, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Compute a texture by its formula.

    Args:
        texture: ``"solid"``, ``"halves"`` (left and right, in the first variant) or a name in `TEXTURE_GROUPS`.
        variant: 0 .. `TEXTURE_VARIANTS` - 1: coarse along, coarse across, fine along, fine across.
        x: Points in the object's own frame, -1 .. 1, any shape.
        y: The same.

    Returns:
        Fraction of the second colour at each point, 0 .. 1.
    """
    if variant % 2:
        x, y = y, x
    is_coarse = variant < 2
    periods = 2.4 if is_coarse else 4.0
    u, v = periods * (x + 1) / 2, periods * (y + 1) / 2
    if texture == "solid":
        return np.zeros_like(x)
    if texture == "halves":
        return (x > 0).astype(float)
    if texture == "stripes":
        return (u % 1 < 0.5).astype(float)
    if texture == "dots":
        return (np.hypot(u % 1 - 0.5, v % 1 - 0.5) < 0.31).astype(float)
    if texture == "gradient":
        return np.clip((x + 1) / 2 if is_coarse else 1.6 * np.abs(x), 0, 1)
    if texture == "checks":
        return ((np.floor(u) + np.floor(v)) % 2).astype(float)
    if texture == "rings":
        return (np.hypot(x, y) * periods * 0.75 % 1 < 0.5).astype(float)
    if texture == "spokes":
        turns = np.arctan2(y, x) / (2 * math.pi) * (4 if is_coarse else 7)
        return (turns % 1 < 0.5).astype(float)
    raise ValueError(f"texture must be 'solid' or one of {TEXTURE_GROUPS}, got {texture!r}")


def texture_mix(texture: str, variant: int, side: int) -> npt.NDArray[np.float64]:
    """Return a texture in the object's own frame, as pixels.

    Args:
        texture: As in `texture_at`.
        variant: As in `texture_at`.
        side: Pixels across [-1, 1].

    Returns:
        [side, side] fraction of the second colour, 0 .. 1, smooth at edges.
    """
    oversampling = 4
    count = side * oversampling
    axis = (np.arange(count) + 0.5) / count * 2 - 1
    x, y = np.meshgrid(axis, axis)
    mix = texture_at(texture, variant, x, y)
    smooth: npt.NDArray[np.float64] = mix.reshape(side, oversampling, side, oversampling).mean(axis=(1, 3))
    return smooth
