"""Shape families: outlines of objects as polygons around the origin.

An outline is one simple polygon (no holes, no self-contact), [V, 2] float64, x right, y down, centred on its
bounds and scaled so that the farthest vertex is at distance 1. Its frame is the object's own; a pose carries
it into a picture.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import shapely

Part = Literal["whole", "left", "right"]
"""How much of an object there is: all, or what lies left or right of the middle of its bounds, in its own frame."""

Outline = npt.NDArray[np.float64]
"""[V, 2] float64, closed implicitly, within the unit circle."""

NUM_VARIANTS = 4
"""How many outlines each family has: its parameters at four settings that a person tells apart."""


def _arc(start: float, stop: float, count: int, radius: float = 1.0) -> list[tuple[float, float]]:
    """Return points on a circle around the origin, from angle `start` to `stop` (radians), both included."""
    angles = (start + (stop - start) * step / (count - 1) for step in range(count))
    return [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


def _polar(radius: Callable[[float], float], count: int) -> list[tuple[float, float]]:
    """Return points at `radius(angle)` around the origin, at `count` angles evenly spaced."""
    angles = [2 * math.pi * step / count for step in range(count)]
    return [(radius(angle) * math.cos(angle), radius(angle) * math.sin(angle)) for angle in angles]


def _ellipse(variant: int) -> Sequence[tuple[float, float]]:
    aspect = (1.0, 0.75, 0.55, 0.4)[variant]
    return [(x, aspect * y) for x, y in _polar(lambda _: 1.0, 32)]


def _rectangle(variant: int) -> Sequence[tuple[float, float]]:
    height = (1.0, 0.72, 0.5, 0.35)[variant]
    return [(-1, -height), (1, -height), (1, height), (-1, height)]


def _triangle(variant: int) -> Sequence[tuple[float, float]]:
    apex, height = ((0.0, 1.73), (0.0, 1.1), (1.0, 1.6), (-0.4, 2.6))[variant]
    return [(-1, 0), (1, 0), (apex, -height)]


def _star(variant: int) -> Sequence[tuple[float, float]]:
    points, inner = ((5, 0.42), (4, 0.36), (6, 0.5), (8, 0.55))[variant]
    return [
        (radius * math.sin(math.pi * step / points), -radius * math.cos(math.pi * step / points))
        for step in range(2 * points)
        for radius in ((1.0, inner)[step % 2],)
    ]


def _cross(variant: int) -> Sequence[tuple[float, float]]:
    arm, length = ((0.22, 1.0), (0.45, 0.8), (0.28, 0.65), (0.36, 1.0))[variant]
    return [
        (arm, -1), (arm, -arm), (length, -arm), (length, arm), (arm, arm), (arm, 1),
        (-arm, 1), (-arm, arm), (-length, arm), (-length, -arm), (-arm, -arm), (-arm, -1),
    ]  # fmt: skip


def _gear(variant: int) -> Sequence[tuple[float, float]]:
    teeth, root = ((6, 0.66), (8, 0.7), (10, 0.74), (7, 0.55))[variant]
    pitch = 2 * math.pi / teeth
    corners = ((-0.3, root), (-0.2, 1.0), (0.2, 1.0), (0.3, root))
    return [
        (radius * math.cos(pitch * (tooth + turn)), radius * math.sin(pitch * (tooth + turn)))
        for tooth in range(teeth)
        for turn, radius in corners
    ]


def _flower(variant: int) -> Sequence[tuple[float, float]]:
    petals, depth = ((3, 0.45), (4, 0.65), (5, 0.4), (6, 0.4))[variant]
    return _polar(lambda angle: 1 - depth + depth * abs(math.cos(petals * angle / 2)), 12 * petals)


def _corner(variant: int) -> Sequence[tuple[float, float]]:
    width, height = ((0.5, 2.0), (0.75, 2.0), (0.6, 1.4), (0.45, 2.8))[variant]
    return [(0, 0), (2, 0), (2, width), (width, width), (width, height), (0, height)]


def _tee(variant: int) -> Sequence[tuple[float, float]]:
    stem, height = ((0.25, 2.0), (0.4, 2.0), (0.3, 1.4), (0.25, 2.8))[variant]
    return [
        (-1, 0),
        (1, 0),
        (1, 0.55),
        (stem, 0.55),
        (stem, height),
        (-stem, height),
        (-stem, 0.55),
        (-1, 0.55),
    ]


def _sector(variant: int) -> Sequence[tuple[float, float]]:
    half = math.radians((45, 90, 120, 150)[variant])
    arc = _arc(-half, half, 24)
    return arc if variant == 1 else [*arc, (0.0, 0.0)]


def _hourglass(variant: int) -> Sequence[tuple[float, float]]:
    waist, height = ((0.12, 1.0), (0.3, 1.0), (0.15, 1.5), (0.2, 0.7))[variant]
    return [(-1, -height), (1, -height), (waist, 0), (1, height), (-1, height), (-waist, 0)]


def _horseshoe(variant: int) -> Sequence[tuple[float, float]]:
    half, inner = ((150, 0.5), (130, 0.6), (100, 0.5), (155, 0.35))[variant]
    stop = math.radians(half)
    return [*_arc(-stop, stop, 24), *_arc(stop, -stop, 24, inner)]


def _arrow(variant: int) -> Sequence[tuple[float, float]]:
    shaft, neck = ((0.3, 0.0), (0.45, 0.2), (0.25, 0.35), (0.3, -0.4))[variant]
    return [(1, 0), (neck, 0.85), (neck, shaft), (-1, shaft), (-1, -shaft), (neck, -shaft), (neck, -0.85)]


def _crescent(variant: int) -> Sequence[tuple[float, float]]:
    shift = (0.45, 0.6, 0.75, 0.95)[variant]
    # Both circles have radius 1; they meet where x = shift / 2.
    meet = math.acos(shift / 2)
    outer = _arc(meet, 2 * math.pi - meet, 28)
    inner = [(shift + math.cos(angle), math.sin(angle)) for angle in np.linspace(math.pi + meet, math.pi - meet, 20)]
    return [*outer, *inner[1:-1]]


def _heart(variant: int) -> Sequence[tuple[float, float]]:
    width, notch = ((1.0, 5.0), (1.3, 5.0), (0.8, 6.0), (1.1, 3.0))[variant]
    return [
        (
            width * 16 * math.sin(angle) ** 3,
            -(13 * math.cos(angle) - notch * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)),
        )
        for angle in (2 * math.pi * step / 36 for step in range(36))
    ]


def _bolt(variant: int) -> Sequence[tuple[float, float]]:
    width, waist = ((1.2, 0.2), (1.6, 0.2), (1.4, 0.5), (2.0, 0.35))[variant]
    half = [(0.1, -1.5), (-0.75, waist), (-0.1, waist)]
    return [(width * x, y) for x, y in (*half, *((-x, -y) for x, y in half))]


def _drop(variant: int) -> Sequence[tuple[float, float]]:
    tip = (1.8, 2.3, 1.5, 3.0)[variant]
    tangent = math.acos(1 / tip)  # where a line from the tip touches the unit circle
    return [
        (0.0, -tip),
        *((math.sin(a), -math.cos(a)) for a in np.linspace(tangent, 2 * math.pi - tangent, 26)),
    ]


COMMON_FAMILIES: dict[str, Callable[[int], Sequence[tuple[float, float]]]] = {
    "ellipse": _ellipse,
    "rectangle": _rectangle,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "gear": _gear,
    "flower": _flower,
    "corner": _corner,
    "tee": _tee,
    "sector": _sector,
    "hourglass": _hourglass,
    "horseshoe": _horseshoe,
}
"""The families of the splits train, val and test."""

HELD_OUT_FAMILIES: dict[str, Callable[[int], Sequence[tuple[float, float]]]] = {
    "arrow": _arrow,
    "crescent": _crescent,
    "heart": _heart,
    "bolt": _bolt,
    "drop": _drop,
}
"""The families of the split test_shapes, which no other split shows."""


@functools.cache
def outline(family: str, variant: int, part: Part = "whole") -> Outline:
    """Return the outline of a shape, or of a half of the shape.

    Args:
        family: A key of `COMMON_FAMILIES` or `HELD_OUT_FAMILIES`.
        variant: 0 .. `NUM_VARIANTS` - 1.
        part: The part of the shape; a half fills the unit circle as the whole does.

    Returns:
        [V, 2] float64, read-only, centred on its bounds, farthest vertex at distance 1.

    Raises:
        ValueError: If the half is in pieces, see `has_halves`.
    """
    build = COMMON_FAMILIES.get(family) or HELD_OUT_FAMILIES[family]
    points = np.array(build(variant), dtype=np.float64)
    points -= (points.min(axis=0) + points.max(axis=0)) / 2
    if part != "whole":
        points = _half(points, part)
        points -= (points.min(axis=0) + points.max(axis=0)) / 2
    points /= np.hypot(points[:, 0], points[:, 1]).max()
    points.setflags(write=False)
    return points


@functools.cache
def has_halves(family: str) -> bool:
    """Tell whether each half of every outline of a family is in one piece."""
    try:
        for variant in range(NUM_VARIANTS):
            outline(family, variant, "left")
            outline(family, variant, "right")
    except ValueError:
        return False
    return True


def _half(points: Outline, part: Part) -> Outline:
    """Return the part of an outline on one side of the y axis."""
    reach = float(np.abs(points).max()) + 1
    # A vertex that lies beside the axis by a rounding would leave a spike along it.
    points = np.where(np.abs(points) < 1e-9, 0.0, points)
    side = shapely.box(-reach, -reach, 0, reach) if part == "left" else shapely.box(0, -reach, reach, reach)
    # Not simplified: to leave out a vertex can make an outline touch itself.
    cut = shapely.intersection(shapely.polygons(points), side)
    if cut.geom_type != "Polygon" or cut.interiors or not cut.is_valid:
        raise ValueError(f"the {part} half of this outline: expected one piece without holes, got a {cut.geom_type}")
    return np.array(cut.exterior.coords, dtype=np.float64)[:-1]


@functools.cache
def outline_area(family: str, variant: int, part: Part = "whole") -> float:
    """Return the area of `outline(family, variant, part)`, in its own unit (the unit circle has pi)."""
    x, y = outline(family, variant, part).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
