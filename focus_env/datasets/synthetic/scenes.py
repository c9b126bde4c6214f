"""Scenes: objects placed on a background, drawn, and the box of what can be seen of one of them.

A scene is a pure function of uniform draws, so whoever holds the draws holds the scene. Pictures are drawn
with Pillow, outlines are overlaid with Shapely; both use the same polygons, so picture and box agree.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from PIL import Image, ImageChops, ImageDraw

from focus_env.datasets.synthetic.identities import Identity
from focus_env.datasets.synthetic.paints import COLOURS, TILE_SIZE, texture_tile
from focus_env.datasets.synthetic.shapes import Outline, outline, outline_area
from focus_env.types import Box, ImageArray

NUM_CANDIDATES = 10
"""How many places are tried for each object."""

DRAWS_PER_OBJECT = 5 + 2 * NUM_CANDIDATES
DRAWS_PER_SCENE = 16

MIN_VISIBLE = 0.6
"""Least share of the target's area that is seen."""

MIN_SIDE = 0.06
"""Least side of the target's box, as a share of the picture's side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """How hard scenes are.

    Attributes:
        num_objects: Least and most objects in a scene, the target included.
        rotation: Objects are turned by up to this angle either way, radians.
        radius: Least and most radius of an object, as a share of the picture's side.
        light: Least brightness anywhere, as a share of full light.
        max_overlap: Up to which share of the smaller one's box two objects' boxes may overlap.
        cut: Up to which share of its width or height an object may lie outside the picture.
    """

    num_objects: tuple[int, int]
    rotation: float
    radius: tuple[float, float]
    light: float
    max_overlap: float
    cut: float


LEVELS: dict[int, Level] = {
    1: Level(num_objects=(1, 1), rotation=0.5, radius=(0.18, 0.28), light=0.8, max_overlap=0, cut=0),
    2: Level(num_objects=(2, 2), rotation=1.0, radius=(0.15, 0.25), light=0.7, max_overlap=0, cut=0),
    3: Level(num_objects=(3, 3), rotation=math.pi, radius=(0.12, 0.21), light=0.6, max_overlap=0, cut=0),
    4: Level(
        num_objects=(4, 5), rotation=math.pi, radius=(0.12, 0.22), light=0.55, max_overlap=0.3, cut=0.15
    ),
    5: Level(num_objects=(6, 8), rotation=math.pi, radius=(0.10, 0.25), light=0.4, max_overlap=0.4, cut=0.25),
}
"""From easy to hard."""


@dataclass(frozen=True, slots=True, eq=False)
class PlacedObject:
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

    @property
    def area(self) -> float:
        """Area of the whole outline in square pixels."""
        a, b, c, d = self.matrix
        return outline_area(self.identity.family, self.identity.shape_variant) * abs(a * d - b * c)


def _overlap(first: Box, second: Box) -> float:
    """Area that two boxes share, as a share of the smaller one."""
    width = min(first.x2, second.x2) - max(first.x1, second.x1)
    height = min(first.y2, second.y2) - max(first.y1, second.y1)
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box.x2 - box.x1) * (box.y2 - box.y1) for box in (first, second)]
    return width * height / min(areas)


def _place(
    identity: Identity, draws: Sequence[float], level: Level, size: int, others: Sequence[Box]
) -> PlacedObject:
    """Pose an object and put it at the first candidate place that is free enough, or at the freest."""
    turn, scale, stretch, shear, _ = draws[:5]
    radius = size * (level.radius[0] + scale * (level.radius[1] - level.radius[0]))
    angle = (2 * turn - 1) * level.rotation
    wide = math.exp((stretch - 0.5) * 0.25)
    slant = (shear - 0.5) * 0.3
    cos, sin = radius * math.cos(angle), radius * math.sin(angle)
    a, b = cos * wide, (cos * slant - sin) / wide
    c, d = sin * wide, (sin * slant + cos) / wide
    points = outline(identity.family, identity.shape_variant) @ np.array(((a, c), (b, d)))
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    slack_x, slack_y = level.cut * (right - left), level.cut * (bottom - top)
    best, least = (0.0, 0.0), math.inf
    for k in range(NUM_CANDIDATES):
        x = -left - slack_x + draws[5 + 2 * k] * (size - (right - left) + 2 * slack_x)
        y = -top - slack_y + draws[6 + 2 * k] * (size - (bottom - top) + 2 * slack_y)
        here = Box(x + left, y + top, x + right, y + bottom)
        worst = max((_overlap(here, other) for other in others), default=0.0)
        if worst < least:
            best, least = (x, y), worst
        if worst <= level.max_overlap:
            break
    x, y = best
    return PlacedObject(
        identity, points + best, (a, b, c, d), best, Box(x + left, y + top, x + right, y + bottom)
    )


def visible_box(target: PlacedObject, above: Sequence[PlacedObject], size: int) -> tuple[Box | None, float]:
    """The tight bounds of what is seen of an object, and which share of its area that is.

    Args:
        target: The object.
        above: The objects drawn over it.
        size: Side of the square picture in pixels; what lies outside is not seen.

    Returns:
        `xyxy` in pixels (None if nothing is seen), and the share, 0 .. 1.
    """
    x1, y1, x2, y2 = target.bounds
    over = [other for other in above if _overlap(target.bounds, other.bounds) > 0]
    if not over and x1 >= 0 and y1 >= 0 and x2 <= size and y2 <= size:
        return target.bounds, 1.0
    seen = shapely.intersection(shapely.polygons(target.points), shapely.box(0, 0, size, size))
    for other in over:
        seen = shapely.difference(seen, shapely.polygons(other.points))
    if seen.is_empty:
        return None, 0.0
    return Box(*seen.bounds), float(seen.area) / target.area


def _is_recognisable(box: Box | None, share: float, size: int) -> bool:
    """Whether enough of an object is seen to know it."""
    return (
        box is not None and share >= MIN_VISIBLE and min(box.x2 - box.x1, box.y2 - box.y1) >= MIN_SIDE * size
    )


def _paint(image: Image.Image, item: PlacedObject) -> None:
    """Draw one object into the picture."""
    oversampling = 2
    x1, y1 = math.floor(item.bounds.x1), math.floor(item.bounds.y1)
    x2, y2 = math.ceil(item.bounds.x2), math.ceil(item.bounds.y2)
    width, height = x2 - x1, y2 - y1
    mask = Image.new("L", (width * oversampling, height * oversampling))
    # For Pillow a vertex at (0, 0) is the centre of the first pixel, for us its corner.
    vertices = ((item.points - (x1, y1)) * oversampling - 0.5).ravel().tolist()
    ImageDraw.Draw(mask).polygon(vertices, fill=255)
    mask = mask.reduce(oversampling)
    region = (x1, y1, x2, y2)
    image.paste(COLOURS[item.identity.colours[0]], region, mask)
    if item.identity.texture == "solid":
        return
    a, b, c, d = item.matrix
    scale = TILE_SIZE / 2 / (a * d - b * c)
    dx, dy = x1 - item.centre[0], y1 - item.centre[1]
    to_tile = (
        d * scale, -b * scale, (d * dx - b * dy) * scale + TILE_SIZE / 2,
        -c * scale, a * scale, (a * dy - c * dx) * scale + TILE_SIZE / 2,
    )  # fmt: skip
    tile = texture_tile(item.identity.texture, item.identity.texture_variant)
    pattern = tile.transform((width, height), Image.Transform.AFFINE, to_tile, Image.Resampling.BILINEAR)
    image.paste(COLOURS[item.identity.colours[1]], region, ImageChops.multiply(mask, pattern))


@functools.lru_cache(maxsize=4)
def _background_tiles(size: int) -> tuple[Image.Image, ...]:
    """Grey textures, each larger than a picture of side `size`, from constants alone."""
    rng = np.random.default_rng(20260531)
    side = size + size // 2
    tiles = []
    for index in range(24):
        total = np.zeros((side, side), dtype=np.float32)
        weights = (1.0, 0.5, 0.25) if index % 3 else (0.3, 0.3, 0.6)
        for octave, weight in enumerate(weights):
            cells = (4 + index % 4) * 3**octave
            coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
            total += weight * np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
        total -= total.min()
        tiles.append(Image.fromarray(np.rint(total * (255 / total.max())).astype(np.uint8)))
    return tuple(tiles)


def _background(draws: Sequence[float], size: int) -> Image.Image:
    """A picture of two muted colours mixed by a crop of a grey texture."""
    tiles = _background_tiles(size)
    tile = tiles[int(draws[0] * len(tiles))]
    x, y = int(draws[1] * (tile.width - size)), int(draws[2] * (tile.height - size))
    base = 70 + 90 * draws[3]
    first = tuple(int(base + 50 * (draw - 0.5)) for draw in draws[4:7])
    second = tuple(int(base - 45 + 50 * (draw - 0.5)) for draw in draws[7:10])
    image = Image.new("RGB", (size, size), first)
    image.paste(second, (0, 0, size, size), tile.crop((x, y, x + size, y + size)))
    return image


def _lit(image: Image.Image, draws: Sequence[float], level: Level) -> ImageArray:
    """The picture under a light that falls off linearly, as an array [H, W, 3] uint8."""
    pixels = np.asarray(image)
    height, width, _ = pixels.shape
    gain = level.light + draws[10] * (1 - level.light)
    fall = 256 * (gain - level.light) / 2
    row = np.repeat(np.linspace(0, fall * (2 * draws[11] - 1), width), 3)
    column = np.linspace(0, fall * (2 * draws[12] - 1), height)
    row -= row.max()
    column -= column.max()
    factor = (256 * gain + row + column[:, None]).astype(np.uint16)
    lit = pixels.reshape(height, -1) * factor
    lit >>= 8
    return lit.astype(np.uint8).reshape(height, width, 3)


def arrange(
    identities: Sequence[Identity], draws: Sequence[float], level: Level, size: int
) -> list[PlacedObject]:
    """Place objects, and order them from the lowest to the topmost.

    The first identity is the target: where too little of it would be seen, it is drawn on top.
    """
    placed: list[PlacedObject] = []
    heights = []
    for index, identity in enumerate(identities):
        start = DRAWS_PER_SCENE + index * DRAWS_PER_OBJECT
        own = draws[start : start + DRAWS_PER_OBJECT]
        placed.append(_place(identity, own, level, size, [other.bounds for other in placed]))
        heights.append(own[4])
    target = placed[0]
    ordered = [item for _, item in sorted(zip(heights, placed, strict=True), key=lambda pair: pair[0])]
    above = ordered[ordered.index(target) + 1 :]
    if not _is_recognisable(*visible_box(target, above, size), size):
        ordered.remove(target)
        ordered.append(target)
    return ordered


def draw_scene(placed: Sequence[PlacedObject], draws: Sequence[float], level: Level, size: int) -> ImageArray:
    """Draw a scene: background, objects in the given order, light.

    Returns:
        [size, size, 3] uint8.
    """
    image = _background(draws, size)
    for item in placed:
        _paint(image, item)
    return _lit(image, draws, level)
