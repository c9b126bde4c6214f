"""Pictures with a bright square, and what finds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from focus_agents.policies.localizers import LocalizerPolicy
from focus_agents.rollout.records import Policy
from focus_env.prompts import get_template
from focus_env.spaces import Observation
from focus_env.types import Box

TEMPLATE = get_template("default")
SIDE = 16


def scene(corner: tuple[int, int] | None, image_wh: tuple[int, int] = (80, 60)) -> Image.Image:
    """A dark picture with a bright square with a dark patch in it at a corner, or without one."""
    pixels = np.full((image_wh[1], image_wh[0], 3), 40, np.uint8)
    if corner is not None:
        x, y = corner
        pixels[y : y + SIDE, x : x + SIDE] = (240, 200, 60)
        pixels[y + 3 : y + 9, x + 6 : x + 14] = (90, 20, 160)
    return Image.fromarray(pixels)


def write(path: Path, corner: tuple[int, int] | None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    scene(corner).save(path, **options)
    return path


def square(corner: tuple[int, int]) -> Box:
    return Box(corner[0], corner[1], corner[0] + SIDE, corner[1] + SIDE)


class FindsBright:
    """The box around what is bright; a localizer that says how sure it is, and counts its calls."""

    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self, question: Observation, rng: np.random.Generator) -> Box | None:
        return self.scored(question, rng)[0]

    def scored(self, question: Observation, rng: np.random.Generator) -> tuple[Box | None, float]:
        self.num_calls += 1
        rows, columns = np.nonzero(question["query_image"][..., 0] > 200)
        if len(rows) == 0:
            return None, 0.25
        left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        return Box(float(left), float(top), float(right), float(bottom)), float(left) / 80


def bright() -> Policy:
    return LocalizerPolicy(FindsBright(), TEMPLATE)
