"""Pictures with detail, as files, and how far two are apart."""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]


@functools.cache
def waves_and_edges() -> Pixels:
    """Waves of many lengths and directions, and sharp edges: [721, 1287, 3]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:721, 0:1287].astype(np.float32)
    pixels = np.full((721, 1287, 3), 110, np.float32)
    for channel in range(3):
        for _ in range(6):
            along_x, along_y = rng.uniform(0.006, 0.4, 2).astype(np.float32)
            pixels[..., channel] += 11 * np.sin(along_x * x + along_y * y)
    for _ in range(40):
        left, top, wide, high = rng.integers(1287), rng.integers(721), *rng.integers(5, 200, 2)
        pixels[top : top + high, left : left + wide] += rng.uniform(-70, 70, 3)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def detailed_picture(image_wh: tuple[int, int] = (1280, 720)) -> Image.Image:
    return Image.fromarray(waves_and_edges()[: image_wh[1], : image_wh[0]])


def as_file(picture: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def apart(one: Pixels, other: Image.Image | Pixels) -> float:
    """The mean difference in grey levels."""
    return float(np.abs(one.astype(float) - np.asarray(other).astype(float)).mean())


def refuse() -> Pixels:
    raise AssertionError("made again")
