"""The pictures that a vision tower gets, as pictures again: out of the arrays that a family has made of them.

Two layouts are known, of which all families here have one: a tile for each view, [..., 3, height, width], and patches
in the order of the tokens that they are merged into, [patches, channels * time * patch * patch].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from focus_agents.models.inputs import EncodedPrompt
from focus_agents.models.views import View
from focus_env.types import ImageArray

PIXELS = "pixel_values"


def seen_pictures(
    image_processor: Any, prompt: EncodedPrompt, views: Sequence[Sequence[View]]
) -> list[tuple[ImageArray, ...]] | None:
    """Return what the vision tower gets of each picture, as pictures that people can look at.

    Args:
        image_processor: The model's, whose normalization is undone.
        prompt: With the arrays of its pictures.
        views: Of each picture.

    Returns:
        For each picture an array [height, width, 3] uint8 for each of its views; None where the arrays have neither of
        the two layouts.
    """
    pixels = prompt.images.get(PIXELS)
    if pixels is None:
        return None
    if pixels.ndim > 4:  # a picture's tiles have an axis of their own
        pixels = pixels.reshape(-1, *pixels.shape[-3:])
    if pixels.ndim == 4 and len(pixels) == sum(map(len, views)):
        shown = iter([_as_picture(image_processor, tile.transpose(1, 2, 0)) for tile in pixels])
        return [tuple(next(shown) for _ in picture) for picture in views]
    merge = getattr(image_processor, "merge_size", None)
    if pixels.ndim == 2 and merge and len(pixels) == int(prompt.grids.prod(1).sum()) * merge**2:
        ends = np.cumsum(prompt.grids.prod(1) * merge**2)[:-1]
        return [
            (_as_picture(image_processor, _from_patches(image_processor, patches, tuple(grid))),)
            for patches, grid in zip(np.split(pixels, ends), prompt.grids.tolist(), strict=True)
        ]
    return None


def _from_patches(image_processor: Any, patches: npt.NDArray[Any], grid: Sequence[int]) -> npt.NDArray[Any]:
    """Return [height, width, channels] of a picture's patches, of which blocks of merge x merge are one token."""
    rows, columns = grid
    merge, side, frames = (getattr(image_processor, n) for n in ("merge_size", "patch_size", "temporal_patch_size"))
    blocks = patches.reshape(rows, columns, merge, merge, -1, frames, side, side)[..., 0, :, :]  # a still: frames equal
    picture: npt.NDArray[Any] = blocks.transpose(0, 2, 5, 1, 3, 6, 4).reshape(
        rows * merge * side, columns * merge * side, -1
    )
    return picture


def _as_picture(image_processor: Any, pixels: npt.NDArray[Any]) -> ImageArray:
    """Undo a normalization; [height, width, 3] float in, uint8 out."""
    if getattr(image_processor, "do_normalize", True):
        pixels = pixels * np.asarray(image_processor.image_std) + np.asarray(image_processor.image_mean)
    if getattr(image_processor, "do_rescale", True):
        pixels = pixels / image_processor.rescale_factor
    picture: ImageArray = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return picture


def seen_difference(seen: ImageArray, picture: ImageArray, view: View) -> float:
    """Return how far a view is from the part of the picture that it is said to show.

    Args:
        seen: [height, width, 3] uint8, what the tower gets.
        picture: [H, W, 3] uint8, the picture itself.
        view: Says which part.

    Returns:
        The mean absolute difference over that part, in steps of 0 to 255, after resizing; padding is left out.
    """
    height, width = seen.shape[:2]
    x1, y1, x2, y2 = view.area
    inside = (max(x1, 0.0), max(y1, 0.0), min(x2, 1.0), min(y2, 1.0))
    left, right = _pixels((inside[0] - x1) / (x2 - x1), (inside[2] - x1) / (x2 - x1), width)
    top, bottom = _pixels((inside[1] - y1) / (y2 - y1), (inside[3] - y1) / (y2 - y1), height)
    sides = (picture.shape[1], picture.shape[0], picture.shape[1], picture.shape[0])
    box = tuple(share * side for share, side in zip(inside, sides, strict=True))
    own = Image.fromarray(picture).resize((right - left, bottom - top), Image.Resampling.BICUBIC, box=box)
    return float(np.abs(np.asarray(own, np.float32) - seen[top:bottom, left:right].astype(np.float32)).mean())


def _pixels(low: float, high: float, size: int) -> tuple[int, int]:
    """Return a side's pixels between two shares of it; of a picture thinner than that the one with its middle."""
    first, last = round(low * size), round(high * size)
    if first < last:
        return first, last
    middle = min(int((low + high) / 2 * size), size - 1)
    return middle, middle + 1
