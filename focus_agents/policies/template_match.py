"""The classical baseline: normalised cross-correlation of the supports' crops with the query, at several scales."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

import numpy as np

from focus_agents.policies.localizers import copy_last_support, picture_wh
from focus_env.boxes import Coordinates, clip_box
from focus_env.errors import MissingDependencyError
from focus_env.spaces import Observation
from focus_env.types import Box, ImageArray

MIN_SPREAD = 1.0
"""Grey levels: templates whose standard deviation is less, in all channels together, have nothing to correlate."""

MAX_SCORE = 0.9999
"""Scores above are as good as this: `evidence` would be infinite at 1."""


class Match(NamedTuple):
    """The place in a picture that is most like a template.

    Attributes:
        score: Correlation coefficient, -1 to 1.
        x: Left edge of the place in whole pixels.
        y: Upper edge likewise.
    """

    score: float
    x: int
    y: int


class Template(NamedTuple):
    """A support's crop at the size at which it is looked for.

    Attributes:
        pixels: [h, w, 3] uint8.
        box: The support's box, `xyxy` in pixels of the template; it is the whole template if it lies on whole pixels.
    """

    pixels: ImageArray
    box: Coordinates


@dataclass(frozen=True)
class TemplateMatcher:
    """Finds the place of the query that correlates best with a support's crop; a `Localizer`.

    Objects are expected to keep their share of the picture: at scale 1 a template fills as large a share of the query
    as the box does of its support picture. It keeps its shape and is not turned. Colours are correlated together, with
    the mean of each channel taken off. Over all supports, scales and places the best `evidence` wins.

    Without any (templates or query are flat, or all templates larger than the query) the answer is the last support's
    box at its place (`copy_last_support`).

    Args:
        scales: Factors on the sides of templates. A wider range finds more false places than true ones.
        max_pixels: Larger queries are shrunk to so many pixels, so that one of 1280x720 takes a fraction of a second;
            boxes are then exact to the pixels of the shrunken query.

    Raises:
        MissingDependencyError: If OpenCV is not installed.
        ValueError: If there are no scales, or a number is not positive.
    """

    scales: tuple[float, ...] = tuple(2 ** (step / 4) for step in range(-2, 3))
    max_pixels: int = 320 * 240

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise ValueError(f"scales: expected one or more positive factors, got {self.scales}")
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels: expected a positive number, got {self.max_pixels}")
        load_opencv()

    def __call__(self, question: Observation, rng: np.random.Generator) -> Box:
        """Return the best place, `xyxy` in pixels of the query."""
        return self.scored(question, rng)[0]

    def scored(self, question: Observation, rng: np.random.Generator) -> tuple[Box, float]:
        """Return the best place, and its correlation coefficient; 0 where nothing correlates."""
        query = shrink(question["query_image"], self.max_pixels)
        most, best, score = 0.0, copy_last_support(question, rng), 0.0
        unit_x, unit_y = np.divide(picture_wh(question["query_image"]), picture_wh(query)).tolist()
        for image, box in zip(question["support_images"], question["support_boxes"].tolist(), strict=True):
            for template in make_templates(image, box, query_wh=picture_wh(query), scales=self.scales):
                match = find_template(query, template.pixels)
                found = 0.0 if match is None else evidence(match.score, math.prod(picture_wh(template.pixels)))
                if match is not None and found > most:
                    x1, y1, x2, y2 = template.box
                    most, score = found, match.score
                    best = Box(
                        (match.x + x1) * unit_x,
                        (match.y + y1) * unit_y,
                        (match.x + x2) * unit_x,
                        (match.y + y2) * unit_y,
                    )
        return best, score


def make_templates(
    image: ImageArray, box: Coordinates, *, query_wh: tuple[int, int], scales: tuple[float, ...]
) -> Iterator[Template]:
    """Yield a support's crop at all scales, those left out at which it is larger than the query or less than a pixel.

    Args:
        image: [H, W, 3] uint8.
        box: `xyxy` in its pixels; the crop is of all pixels that it touches.
        query_wh: (width, height) of the picture that is looked through.
        scales: Factors on the size of an equal share of that picture.
    """
    image_wh = picture_wh(image)
    inside = clip_box(box, image_wh)
    if inside is None:
        return
    left, top, right, bottom = math.floor(inside.x1), math.floor(inside.y1), math.ceil(inside.x2), math.ceil(inside.y2)
    crop = image[top:bottom, left:right]
    same_share = math.sqrt(math.prod(query_wh) / math.prod(image_wh))
    for scale in scales:
        width, height = (round(side * same_share * scale) for side in picture_wh(crop))
        if not (1 <= width <= query_wh[0] and 1 <= height <= query_wh[1]):
            continue
        x_scale, y_scale = width / (right - left), height / (bottom - top)
        scaled_box = (
            (inside.x1 - left) * x_scale,
            (inside.y1 - top) * y_scale,
            (inside.x2 - left) * x_scale,
            (inside.y2 - top) * y_scale,
        )
        yield Template(resize(crop, (width, height)), scaled_box)


def find_template(image: ImageArray, template: ImageArray) -> Match | None:
    """Find the place in a picture where a template correlates best.

    Args:
        image: [H, W, 3] uint8.
        template: [h, w, 3] uint8, nowhere larger.

    Returns:
        The best place, the first of equal ones; None if the template is flat or no score is a number.
    """
    # OpenCV rates a flat template 1 everywhere.
    if math.sqrt(template.var(axis=(0, 1)).sum()) < MIN_SPREAD:
        return None
    cv2 = load_opencv()
    scores = cv2.matchTemplate(image, template, cv2.TM_CCOEFF_NORMED)
    scores[~np.isfinite(scores)] = -np.inf
    y, x = np.unravel_index(np.argmax(scores), scores.shape)
    score = float(scores[y, x])
    return Match(score, int(x), int(y)) if math.isfinite(score) else None


def evidence(score: float, num_pixels: int) -> float:
    """Weigh a correlation coefficient, in standard errors up to a factor.

    A small template finds a high score by chance more easily than a large one, so scores of different sizes do not
    compare. Fisher's transform atanh(score) of n independent pixels has the standard error 1 / sqrt(n). Neighbouring
    pixels are alike, so that the number of independent ones is taken to grow as the side and not as the area.

    Args:
        score: Correlation coefficient, -1 to 1.
        num_pixels: Pixels of the template.
    """
    bounded = min(max(score, -MAX_SCORE), MAX_SCORE)
    return math.atanh(bounded) * num_pixels**0.25


def shrink(image: ImageArray, max_pixels: int) -> ImageArray:
    """Return a picture of `max_pixels`, up to rounding, in nearly the same shape; one that has no more as it is."""
    width, height = picture_wh(image)
    factor = math.sqrt(max_pixels / (width * height))
    return image if factor >= 1 else resize(image, (max(1, round(width * factor)), max(1, round(height * factor))))


def resize(image: ImageArray, image_wh: tuple[int, int]) -> ImageArray:
    """Return a picture at another size: the mean of the pixels it covers where it gets smaller, else interpolated."""
    if picture_wh(image) == image_wh:
        return image
    cv2 = load_opencv()
    gets_smaller = math.prod(image_wh) < math.prod(picture_wh(image))
    return cv2.resize(image, image_wh, interpolation=cv2.INTER_AREA if gets_smaller else cv2.INTER_LINEAR)


def load_opencv() -> ModuleType:
    """Return the package cv2.

    Raises:
        MissingDependencyError: If it is not installed, or does not load.
    """
    try:
        import cv2
    except ImportError as error:
        raise MissingDependencyError(
            f"template_match and match need OpenCV, which could not be loaded ({error}); run: "
            "pip install 'focus-localization[baselines]'"
        ) from error
    return cv2
