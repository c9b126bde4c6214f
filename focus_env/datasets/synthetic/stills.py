"""Stills: the pictures of an episode as lists of objects, before they are drawn, for those who know the scene."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from focus_env.datasets.synthetic.drawing import BACKGROUND_DRAWS, LIGHT_DRAWS, draw_scene
from focus_env.datasets.synthetic.identities import Identity
from focus_env.datasets.synthetic.scenes import Level, PlacedObject, visible_box
from focus_env.types import Box, ImageArray


class Surroundings(NamedTuple):
    """The background and the light of a picture: uniform numbers in [0, 1) for `draw_scene`."""

    background: list[float]
    light: list[float]

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Surroundings:
        """Draw them."""
        return cls(rng.random(BACKGROUND_DRAWS).tolist(), rng.random(LIGHT_DRAWS).tolist())


class Still(NamedTuple):
    """One picture.

    Attributes:
        objects: By role: the target first, then those beside it, in one order through all pictures of an episode.
        order: Positions of `objects`, the lowest first.
        surroundings: What lies behind and above them.
    """

    objects: Sequence[PlacedObject]
    order: Sequence[int]
    surroundings: Surroundings

    def box(self, position: int, size: int) -> Box:
        """Return the tight box of an object's visible part, `xyxy` in pixels.

        Raises:
            ValueError: If no part of the object is visible.
        """
        above = self.order[list(self.order).index(position) + 1 :]
        box, _ = visible_box(self.objects[position], [self.objects[other] for other in above], size)
        if box is None:
            raise ValueError(f"object {position}: expected to see some of it, got nothing")
        return box

    def pixels(self, level: Level, size: int) -> ImageArray:
        """Draw it: [size, size, 3] uint8."""
        return draw_scene(
            [self.objects[position] for position in self.order],
            background_draws=self.surroundings.background,
            light_draws=self.surroundings.light,
            level=level,
            size=size,
        )


class EpisodeStills(NamedTuple):
    """The pictures of one episode.

    Attributes:
        identity: The target's, as a query shows it.
        level: How the pictures are drawn.
        query: The picture to answer for.
        supports: In the order in which they are shown.
        names: Of the query and of each support, for their frames.
        times: When each support was taken, from 0, the first, to 1, the query; None where pictures have no time.
        is_absent: Whether the query lacks the target; its first object is then a newcomer that stands in for it.
    """

    identity: Identity
    level: Level
    query: Still
    supports: Sequence[Still]
    names: Sequence[str]
    times: Sequence[float] | None = None
    is_absent: bool = False


def draw_missing(rng: np.random.Generator, absent_fraction: float, num_objects: int) -> int | None:
    """Draw which of the objects of an episode its query lacks, a newcomer in its place.

    The target, with the probability `absent_fraction`; another object with the same probability, as far as there is
    room for it. Half of the newcomers then stand beside a target, so that a newcomer alone does not tell an absence.

    Args:
        rng: Draws.
        absent_fraction: 0 .. 1.
        num_objects: The target included.

    Returns:
        Its position, 0 for the target; None: all are there.
    """
    draw, other = rng.random(2).tolist()
    if draw < absent_fraction:
        return 0
    return 1 + int(other * (num_objects - 1)) if draw < 2 * absent_fraction else None
