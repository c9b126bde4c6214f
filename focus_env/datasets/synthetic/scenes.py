"""Scenes: which objects stand where, and the box of what can be seen of one of them.

A scene is a pure function of uniform draws, so whoever holds the draws holds the scene. `drawing` draws it
from the polygons that are overlaid here, so picture and box agree.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import shapely

from focus_env.datasets.synthetic.identities import Identity
from focus_env.datasets.synthetic.shapes import Outline, outline, outline_area
from focus_env.types import Box

NUM_CANDIDATES = 24
"""How many places are tried for each object."""

DRAWS_PER_OBJECT = 5 + 2 * NUM_CANDIDATES
"""Rotation, size, stretch, shear, height in the stack, and (x, y) of each candidate place."""

MIN_VISIBLE = 0.6
"""Least share of the target's area that is seen."""

MIN_SIDE = 0.06
"""Least side of the target's box, as a share of the picture's side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """The difficulty of scenes.

    Attributes:
        num_objects: Least and most objects in a scene, the target included.
        rotation: Largest angle by which objects are turned either way, radians.
        radius: Least and most radius of an object, as a fraction of the picture's side.
        light: Least brightness anywhere, as a fraction of full light.
        tint: Largest fraction by which a colour channel may be dimmed.
        max_overlap: Largest overlap of two objects' boxes, as a fraction of the smaller box.
        background: Lightness and contrast of the background's texture, as a fraction of their most.
        cut: Largest fraction of an object's width or height that may lie outside the picture.
    """

    num_objects: tuple[int, int]
    rotation: float
    radius: tuple[float, float]
    light: float
    tint: float
    max_overlap: float
    background: float
    cut: float


LEVELS: dict[int, Level] = {
    1: Level(
        num_objects=(1, 1),
        rotation=0.5,
        radius=(0.18, 0.28),
        light=0.85,
        tint=0.0,
        max_overlap=0.0,
        background=0.3,
        cut=0.0,
    ),
    2: Level(
        num_objects=(2, 2),
        rotation=1.0,
        radius=(0.14, 0.22),
        light=0.75,
        tint=0.05,
        max_overlap=0.0,
        background=1.0,
        cut=0.0,
    ),
    3: Level(
        num_objects=(4, 4),
        rotation=math.pi,
        radius=(0.12, 0.21),
        light=0.7,
        tint=0.1,
        max_overlap=0.0,
        background=1.0,
        cut=0.0,
    ),
    4: Level(
        num_objects=(4, 5),
        rotation=math.pi,
        radius=(0.12, 0.22),
        light=0.6,
        tint=0.1,
        max_overlap=0.3,
        background=1.0,
        cut=0.15,
    ),
    5: Level(
        num_objects=(6, 8),
        rotation=math.pi,
        radius=(0.10, 0.25),
        light=0.45,
        tint=0.15,
        max_overlap=0.4,
        background=1.0,
        cut=0.25,
    ),
}
"""From easy to hard."""


class PlacedObject(NamedTuple):
    """An object in its pose.

    Attributes:
        identity: What is drawn.
        points: [V, 2] its outline in pixels of the picture.
        matrix: (a, b, c, d) of the linear map [[a, b], [c, d]] from the object's frame to pixels.
        centre: Where the object's origin is, pixels.
        bounds: (x1, y1, x2, y2) of `points`.
    """

    identity: Identity
    points: Outline
    matrix: tuple[float, float, float, float]
    centre: tuple[float, float]
    bounds: Box

    def area(self) -> float:
        """Area of the whole outline in square pixels."""
        a, b, c, d = self.matrix
        return outline_area(self.identity.family, self.identity.shape_variant, self.identity.part) * abs(a * d - b * c)

    def moved_inside(self, size: int) -> PlacedObject:
        """Return the same object, shifted as little as needed to lie inside a picture of side `size`."""
        x1, y1, x2, y2 = self.bounds
        if x1 >= 0 and y1 >= 0 and x2 <= size and y2 <= size:
            return self
        dx = max(0.0, -x1) - max(0.0, x2 - size)
        dy = max(0.0, -y1) - max(0.0, y2 - size)
        return self._replace(
            points=self.points + np.array((dx, dy)),
            centre=(self.centre[0] + dx, self.centre[1] + dy),
            # Rounding must not leave the box outside by a hair.
            bounds=Box(max(x1 + dx, 0.0), max(y1 + dy, 0.0), min(x2 + dx, float(size)), min(y2 + dy, float(size))),
        )


class Scene(NamedTuple):
    """Placed objects, the lowest first, and the box of the target's visible part."""

    objects: list[PlacedObject]
    target_box: Box


def overlap(first: Box, second: Box) -> float:
    """Return the area that two boxes share, as a fraction of the smaller box's area."""
    left, top, right, bottom = first
    x1, y1, x2, y2 = second
    width = (right if right < x2 else x2) - (left if left > x1 else x1)
    height = (bottom if bottom < y2 else y2) - (top if top > y1 else y1)
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / min((right - left) * (bottom - top), (x2 - x1) * (y2 - y1))


def pose_matrix(radius: float, angle: float, stretch: float, shear: float) -> tuple[float, float, float, float]:
    """Return the linear map from an object's frame to pixels.

    Args:
        radius: Radius of the object, pixels.
        angle: Angle by which the object is turned, radians.
        stretch: 0 .. 1: along or across the object, by an eighth at most; 0.5 is no stretch.
        shear: 0 .. 1, likewise.

    Returns:
        (a, b, c, d), see `PlacedObject`.
    """
    wide = math.exp((stretch - 0.5) * 0.25)
    slant = (shear - 0.5) * 0.3
    cos, sin = radius * math.cos(angle), radius * math.sin(angle)
    return cos * wide, (cos * slant - sin) / wide, sin * wide, (sin * slant + cos) / wide


def _transformed(identity: Identity, matrix: tuple[float, float, float, float]) -> Outline:
    """Return the outline in pixels around the object's origin, [V, 2]."""
    a, b, c, d = matrix
    points: Outline = outline(identity.family, identity.shape_variant, identity.part) @ np.array(((a, c), (b, d)))
    return points


def put(
    identity: Identity, matrix: tuple[float, float, float, float], centre: tuple[float, float], size: int
) -> PlacedObject:
    """Put an object in a pose at a place, or at the nearest place where the object is inside the picture."""
    points = _transformed(identity, matrix) + centre
    xs, ys = points.T.tolist()
    bounds = Box(min(xs), min(ys), max(xs), max(ys))
    return PlacedObject(identity, points, matrix, centre, bounds).moved_inside(size)


def _place(
    identity: Identity, draws: Sequence[float], level: Level, size: int, others: Sequence[PlacedObject]
) -> PlacedObject:
    """Pose an object and put it at the first candidate place that is free enough, or at the freest."""
    turn, scale, stretch, shear = draws[:4]
    radius = size * (level.radius[0] + scale * (level.radius[1] - level.radius[0]))
    matrix = pose_matrix(radius, (2 * turn - 1) * level.rotation, stretch, shear)
    points = _transformed(identity, matrix)
    xs, ys = points.T.tolist()
    left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
    width, height = right - left, bottom - top
    # The box's corner (x1, y1) is drawn so that at most the share `cut` of the object lies outside.
    low_x, low_y = -level.cut * width, -level.cut * height
    room_x, room_y = size - width - 2 * low_x, size - height - 2 * low_y
    least = math.inf
    for k in range(5, DRAWS_PER_OBJECT, 2):
        x1, y1 = low_x + draws[k] * room_x, low_y + draws[k + 1] * room_y
        here = Box(x1, y1, x1 + width, y1 + height)
        worst = 0.0
        for other in others:
            worst = max(worst, overlap(here, other.bounds))
            if worst >= least:
                break
        if worst < least:
            bounds, least = here, worst
        if worst <= level.max_overlap:
            break
    centre = (bounds.x1 - left, bounds.y1 - top)
    return PlacedObject(identity, points + centre, matrix, centre, bounds)


@functools.lru_cache(maxsize=8)
def _picture_polygon(size: int) -> Any:
    return shapely.box(0, 0, size, size)


def visible_box(target: PlacedObject, above: Sequence[PlacedObject], size: int) -> tuple[Box | None, float]:
    """Return the tight bounds of an object's visible part, and that part's fraction of the object's area.

    Args:
        target: The object.
        above: The objects drawn over the target.
        size: Side of the square picture in pixels; parts outside of the picture are not visible.

    Returns:
        `xyxy` in pixels (None if no part is visible), and the fraction, 0 .. 1.
    """
    x1, y1, x2, y2 = target.bounds
    is_inside = x1 >= 0 and y1 >= 0 and x2 <= size and y2 <= size
    over = [other for other in above if overlap(target.bounds, other.bounds) > 0]
    if is_inside and not over:
        return target.bounds, 1.0
    seen = shapely.polygons(target.points)
    if not is_inside:
        seen = shapely.intersection(seen, _picture_polygon(size))
    for other in over:
        seen = shapely.difference(seen, shapely.polygons(other.points))
    if seen.area == 0:  # nothing, or a line where the object touches the border
        return None, 0.0
    return Box(*seen.bounds), float(seen.area) / target.area()


def arrange(identities: Sequence[Identity], draws: Sequence[Sequence[float]], level: Level, size: int) -> Scene:
    """Place objects, the first of which is the target.

    Where too little of the target would be seen (less than `MIN_VISIBLE` of its area, or less than `MIN_SIDE`
    across), it is brought to the top and wholly inside the picture.

    Args:
        identities: At least one.
        draws: For each object, `DRAWS_PER_OBJECT` uniform numbers in [0, 1).
        level: How hard the scene is.
        size: Side of the square picture in pixels.
    """
    # The lowest first, whichever is the target: later ones must go where there is room, which is seldom the middle, so
    # a target that is always placed first could be told by its place.
    order = sorted(range(len(identities)), key=lambda index: draws[index][4])
    placed: list[PlacedObject] = []
    for index in order:
        placed.append(_place(identities[index], draws[index], level, size, placed))
    height = order.index(0)
    box, share = visible_box(placed[height], placed[height + 1 :], size)
    if box is None or share < MIN_VISIBLE or min(box.x2 - box.x1, box.y2 - box.y1) < MIN_SIDE * size:
        target = placed.pop(height).moved_inside(size)
        placed.append(target)
        box = target.bounds
    return Scene(placed, box)


def scatter(
    identities: Sequence[Identity], rng: np.random.Generator, level: Level, size: int
) -> tuple[list[PlacedObject], list[int]]:
    """Place objects so that no two boxes overlap: all are seen whole, and no order of drawing tells one from another.

    Args:
        identities: At least one.
        rng: Draws poses and places, all anew until there is room for each object.
        level: How hard the scene is; its `max_overlap` and `cut` should be 0.
        size: Side of the square picture in pixels.

    Returns:
        The objects in the order of `identities`, and their positions there from the first placed to the last.
    """
    count, smallest, largest = len(identities), *level.radius
    for attempt in itertools.count():
        shrink = 0.95 ** max(0, attempt - 8)  # so that there is room in the end
        fitting = dataclasses.replace(level, radius=(shrink * smallest, shrink * largest))
        draws = rng.random((count, DRAWS_PER_OBJECT)).tolist()
        order = sorted(range(count), key=lambda position: draws[position][4])
        placed: dict[int, PlacedObject] = {}
        for position in order:
            item = _place(identities[position], draws[position], fitting, size, list(placed.values()))
            if any(overlap(item.bounds, other.bounds) > 0 for other in placed.values()):
                break
            placed[position] = item
        else:
            return [placed[position] for position in range(count)], order
    raise AssertionError  # the loop has no end
