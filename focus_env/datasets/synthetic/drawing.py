"""Drawing: a background, placed objects, and light over all of it.

What does not depend on a scene is drawn once and kept: textures in the object's own frame, and backgrounds
larger than the picture. A scene then warps, crops and pastes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from focus_env.datasets.synthetic.paints import COLOURS, texture_mix
from focus_env.datasets.synthetic.scenes import Level, PlacedObject
from focus_env.types import ImageArray

BACKGROUND_DRAWS = 10
LIGHT_DRAWS = 6

_OVERSAMPLING = 2
_NUM_BACKGROUNDS = 24
_RIMS = {name: tuple(int(0.35 * channel) for channel in rgb) for name, rgb in COLOURS.items()}


_RAMP = np.linspace(0, 1, 256)[:, None]

_FILL_BYTES = 32 << 20
"""About how much memory the fills of objects may take, for each side of a tile."""


def _palette(first: npt.ArrayLike, second: npt.ArrayLike) -> bytes:
    """Return a Pillow palette from one colour to another, RGB."""
    start, stop = np.asarray(first), np.asarray(second)
    colours: npt.NDArray[np.uint8] = (start + _RAMP * (stop - start)).astype(np.uint8)
    return colours.tobytes()


@functools.cache
def _texture(texture: str, variant: int, side: int) -> Image.Image:
    return Image.fromarray(np.rint(255 * texture_mix(texture, variant, side)).astype(np.uint8))


@functools.cache
def _fills(side: int) -> Callable[[str, int, tuple[str, ...]], Image.Image]:
    """Return a drawer of fills by texture, variant and colours: "RGB", over [-1, 1] x [-1, 1] of an object."""

    # Of small tiles all that a split has are kept, about 1,600 of train.
    @functools.lru_cache(maxsize=max(16, _FILL_BYTES // (4 * side * side)))
    def fill(texture: str, variant: int, colours: tuple[str, ...]) -> Image.Image:
        tile = _texture(texture, variant, side).copy()
        tile.putpalette(_palette(COLOURS[colours[0]], COLOURS[colours[-1]]))
        return tile.convert("RGB")

    return fill


def _tile_side(size: int) -> int:
    """Side of a texture tile: a power of two, about that of the largest objects in a picture."""
    return 1 << math.ceil(math.log2(size * 0.5))


def _draw_object(image: Image.Image, item: PlacedObject, side: int) -> None:
    """Draw an object over the picture, with texture tiles of side `side`."""
    identity, (left, top, right, bottom) = item.identity, item.bounds
    x1, y1 = math.floor(left), math.floor(top)
    width, height = math.ceil(right) - x1, math.ceil(bottom) - y1
    # For Pillow a vertex at (0, 0) is the centre of the first pixel, for us its corner.
    vertices = item.points - (x1 + 0.5, y1 + 0.5)
    fine_vertices = vertices * _OVERSAMPLING + (_OVERSAMPLING - 1) / 2
    mask = Image.new("L", (width * _OVERSAMPLING, height * _OVERSAMPLING))
    ImageDraw.Draw(mask).polygon(fine_vertices.ravel().tolist(), fill=255)
    a, b, c, d = item.matrix
    scale = side / 2 / (a * d - b * c)
    dx, dy = x1 - item.centre[0], y1 - item.centre[1]
    to_tile = (
        d * scale, -b * scale, (d * dx - b * dy) * scale + side / 2,
        -c * scale, a * scale, (a * dy - c * dx) * scale + side / 2,
    )  # fmt: skip
    tile = _fills(side)(identity.texture, identity.texture_variant, identity.colours)
    fill = tile.transform((width, height), Image.Transform.AFFINE, to_tile, Image.Resampling.NEAREST)
    ImageDraw.Draw(fill).polygon(vertices.ravel().tolist(), outline=_RIMS[identity.colours[0]])
    image.paste(fill, (x1, y1), mask.reduce(_OVERSAMPLING))


def _clouds(rng: np.random.Generator, side: int, cells: int, roughness: float) -> npt.NDArray[np.float64]:
    """Smooth noise in three octaves, 0 .. 1."""
    total = np.zeros((side, side))
    for octave in range(3):
        coarse = Image.fromarray(rng.random((cells * 3**octave,) * 2, dtype=np.float32))
        total += roughness**octave * np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
    total -= total.min()
    total /= total.max()
    return total


@functools.lru_cache(maxsize=4)
def _backgrounds(size: int) -> tuple[Image.Image, ...]:
    """Grey textures, each half again as large as a picture of side `size`; from constants alone."""
    rng = np.random.default_rng(20260531)
    side = size + size // 2
    axis = np.arange(side) / size
    tiles = []
    for index in range(_NUM_BACKGROUNDS):
        clouds = _clouds(rng, side, cells=4 + index % 4, roughness=(0.35, 0.6, 1.2)[index % 3])
        x, y = axis[None, :] + 0.08 * clouds, axis[:, None] + 0.08 * clouds[::-1]
        if index % 4 == 1:  # planks
            levels = rng.random(64)
            grey = 0.7 * levels[(x * 7).astype(int)] + 0.3 * clouds
        elif index % 4 == 2:  # waves
            angle = rng.random() * math.pi
            grey = 0.35 + 0.35 * np.sin(30 * (x * math.cos(angle) + y * math.sin(angle))) + 0.3 * clouds
        elif index % 4 == 3:  # tiles
            levels = rng.random((64, 64))
            grey = 0.6 * levels[(x * 5).astype(int), (y * 5).astype(int)] + 0.4 * clouds
        else:
            grey = clouds
        tiles.append(Image.fromarray(np.rint(255 * np.clip(grey, 0, 1)).astype(np.uint8)))
    return tuple(tiles)


@functools.lru_cache(maxsize=2)
def _background(draws: tuple[float, ...], size: int, strength: float) -> Image.Image:
    """Crop a grey texture, and colour it between two muted colours, further apart and lighter by `strength`."""
    tiles = _backgrounds(size)
    tile = tiles[int(draws[0] * len(tiles))]
    x, y = int(draws[1] * (tile.width - size)), int(draws[2] * (tile.height - size))
    crop = tile.crop((x, y, x + size, y + size))
    dark = np.array(draws[3:6]) * 50 * strength + (40 + 90 * strength * draws[6])
    bright = dark + strength * (20 + np.array(draws[7:10]) * 50)
    crop.putpalette(_palette(dark, bright))
    return crop.convert("RGB")


@functools.lru_cache(maxsize=4)
def _slope(size: int) -> npt.NDArray[np.float64]:
    """Return -0.5 .. 0.5 along a side, [size, 1]."""
    return np.linspace(-0.5, 0.5, size)[:, None]


@functools.lru_cache(maxsize=4)
def _channels(size: int) -> npt.NDArray[np.intp]:
    """Return the channel of each value in a row of a picture: 0, 1, 2, 0, 1, 2, ..."""
    return np.tile(np.arange(3), size)


@functools.lru_cache(maxsize=2)
def _light(draws: tuple[float, ...], size: int, least: float, tinted: float) -> npt.NDArray[np.uint16]:
    """Return a light that is brighter to one side and lacks some of a colour.

    Args:
        draws: `LIGHT_DRAWS` uniform numbers in [0, 1).
        size: Side of the picture in pixels.
        least: As `Level.light`.
        tinted: As `Level.tint`.

    Returns:
        [H, W * 3] brightness of each channel in 256ths, 1 .. 256.
    """
    gain = least + draws[0] * (1 - least)
    fall_x, fall_y = ((gain - least) * (2 * draw - 1) / 2 for draw in draws[1:3])
    # The brightest corner has the full gain; the darkest is never below the least.
    top = 256 * (gain - (abs(fall_x) + abs(fall_y)) / 2)
    tint = 1 - tinted * np.array(draws[3:6])
    rows = (256 * fall_y * _slope(size) * tint).astype(np.int16).take(_channels(size), axis=1)
    rows += ((top + 256 * fall_x * _slope(size)) * tint).astype(np.int16).reshape(1, -1)
    return rows.view(np.uint16)


def draw_scene(
    objects: Sequence[PlacedObject],
    *,
    background_draws: Sequence[float],
    light_draws: Sequence[float],
    level: Level,
    size: int,
) -> ImageArray:
    """Draw a scene.

    Args:
        objects: Placed objects, the lowest first.
        background_draws: `BACKGROUND_DRAWS` uniform numbers in [0, 1).
        light_draws: `LIGHT_DRAWS` uniform numbers in [0, 1).
        level: How much light and background vary.
        size: Side of the picture in pixels.

    Returns:
        [size, size, 3] uint8.
    """
    # The pictures of a video have one background and one light.
    image = _background(tuple(background_draws), size, level.background).copy()
    side = _tile_side(size)
    for item in objects:
        _draw_object(image, item, side)
    lit = np.asarray(image).reshape(size, -1) * _light(tuple(light_draws), size, level.light, level.tint)
    lit >>= 8  # at most 255 * 256, which 16 bits hold
    pixels: ImageArray = lit.astype(np.uint8).reshape(size, size, 3)
    return pixels
