"""Tracks: short videos, cut as the paper cuts them; each look is there twice, so that the place decides.

The four objects of a video have two looks, two objects each. They move from place to place, and turn and grow or shrink
on the way, before a background that stays. Support i of k is frame round(i (n - 1) / k) of the n, the query the last,
see `focus_env.datasets.sampler.focus_frames`. The look leaves the target and its twin; which of the two stood in the
box is told by where they were, the better the later the last support and the more there are to tell the motion.

All objects move by the same rules and are drawn in an order of their own, so that the target is any of them.

Where targets may be absent, a query can lack one of the four, the target or another, see `stills.draw_missing`. An
object of a third look stands in its place and pose. Where the target is missing its twin is there, so that the look
alone finds an object, and where it was tells that this is the other one; where the twin is missing it is the other way
round.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from focus_env.datasets.sampler import focus_frames
from focus_env.datasets.synthetic.identities import Identity, identity_from_number, num_identities, stranger
from focus_env.datasets.synthetic.paints import Split
from focus_env.datasets.synthetic.scenes import Level, PlacedObject, pose_matrix, put
from focus_env.datasets.synthetic.stills import EpisodeStills, Still, Surroundings, draw_missing

NUM_FRAMES = 25
"""Of a video; supports lie evenly for 1, 2, 3, 4, 6, 8, 12 and 24 of them."""

NUM_OBJECTS = 4

RADIUS = (0.11, 0.17)
"""Least and most radius of an object as a share of the picture's side."""

SPEED = 0.6
"""Standard deviation of the way from the first frame to the last, of each coordinate, as a share of the side."""

BEND = 0.12
"""Likewise of how far the middle of the way lies off the straight line."""

MAX_TURN, MAX_GROWTH = 0.15, 0.5
"""An object turns by up to this share of the level's rotation to either side, and its size changes by up to this share
of what lies between the two radii."""

MIN_DISTANCE = 0.75
"""Least distance of two centres in any frame, as a share of the sum of the two radii: outlines overlap little if at
all, and the centre of an object is never covered."""

_CANDIDATES = 48
"""Ways that are drawn together; the first that fits is taken."""

_TIMES = np.arange(NUM_FRAMES) / (NUM_FRAMES - 1)
_BEFORE = 1 - _TIMES

Array = npt.NDArray[np.float64]


class Motion(NamedTuple):
    """One object through the frames, in shares of the picture's side.

    Attributes:
        centres: [NUM_FRAMES, 2].
        radii: [NUM_FRAMES].
        turns: [NUM_FRAMES], the rotation as a share of the level's, -1 .. 1 and beyond.
        stretch: As in `pose_matrix`.
        shear: Likewise.
    """

    centres: Array
    radii: Array
    turns: Array
    stretch: float
    shear: float


def way(times: Array) -> Array:
    """Return by how much the centre at these times moves with the last place, the way and the bend, [T, 3].

    The way leads straight from (last place - way) at time 0 to the last place at time 1, except for a bow. The bow is
    widest in the middle, by the bend.
    """
    return np.stack([np.ones_like(times), times - 1, 4 * times * (1 - times)], axis=-1)


_WAY = way(_TIMES)


def draw_motions(rng: np.random.Generator) -> list[Motion]:
    """Draw how the objects of a video move: inside the picture, and never over each other's centres.

    One after the other, each at the first of its candidates that fits. Later ones have less room, so the caller
    gives out roles at random.
    """
    motions: list[Motion] = []
    num_failed = 0
    while len(motions) < NUM_OBJECTS:
        motion = _draw_motion(rng, motions, shrink=0.8**num_failed)
        if motion is not None:
            motions.append(motion)
            continue
        num_failed += 1
        if num_failed % 8 == 0:  # those that are there leave no room
            motions = []
    return motions


def _draw_motion(rng: np.random.Generator, others: list[Motion], *, shrink: float) -> Motion | None:
    """Draw many candidates, and return the first that fits; None if none does.

    Args:
        rng: Draws `_CANDIDATES` ways.
        others: What must not be met.
        shrink: Makes the ways shorter.
    """
    n = _CANDIDATES
    smallest, largest = RADIUS
    big = rng.random((n, 1))
    growth = np.minimum(np.maximum(big + rng.uniform(-MAX_GROWTH, MAX_GROWTH, (n, 1)), 0), 1) - big
    turns, turned = rng.uniform(-1, 1, (n, 1)), rng.uniform(-2 * MAX_TURN, 2 * MAX_TURN, (n, 1))
    radii = smallest + (largest - smallest) * big
    last = radii + rng.random((n, 2)) * (1 - 2 * radii)
    moved, bent = shrink * SPEED * rng.normal(size=(n, 2)), shrink * BEND * rng.normal(size=(n, 2))
    # Most start outside the picture, and need no closer look; a rounding must rule out none.
    room = 0.5 - smallest - (largest - smallest) * (big + growth) + 1e-9
    likely = np.flatnonzero(np.all(np.abs(last - moved - 0.5) <= room, axis=1))
    terms = np.empty((len(likely), 3, 2))
    terms[:, 0], terms[:, 1], terms[:, 2] = last[likely], moved[likely], bent[likely]
    centres = _WAY @ terms
    radii = smallest + (largest - smallest) * (big[likely] + _BEFORE * growth[likely])
    edges = radii.repeat(2, axis=1).reshape(centres.shape)
    fits = ((centres >= edges) & (centres <= 1 - edges)).reshape(-1, 2 * NUM_FRAMES).all(axis=1)
    for other in others:
        gaps = centres - other.centres
        apart = np.hypot(gaps[..., 0], gaps[..., 1]) >= MIN_DISTANCE * (radii + other.radii)
        fits &= apart.all(axis=1)
    if not fits.any():
        return None
    chosen = int(fits.argmax())
    turn = turns[likely[chosen]] + _BEFORE * turned[likely[chosen]]
    return Motion(centres[chosen], radii[chosen], turn, float(rng.random()), float(rng.random()))


def tracks_stills(
    key: tuple[int, ...], *, split: Split, level: Level, size: int, shots: int, absent_fraction: float = 0.0
) -> EpisodeStills:
    """Arrange an episode; the video, and so the query, does not depend on the number of supports.

    Args:
        key: Seed of the episode.
        split: The split of the objects.
        level: Rotation, light and background; sizes are `RADIUS`.
        size: Side of the pictures in pixels.
        shots: Number of supports, less than `NUM_FRAMES`.
        absent_fraction: Probability that the query lacks the target; changes the query alone.
    """
    level = dataclasses.replace(level, num_objects=(NUM_OBJECTS, NUM_OBJECTS), radius=RADIUS, cut=0.0)
    rng = np.random.default_rng(key)
    target = identity_from_number(split, int(rng.integers(num_identities(split))))
    other = stranger(split, float(rng.random()), (target,))
    looks = (target, target, other, other)
    order = rng.permutation(NUM_OBJECTS).tolist()
    by_order = draw_motions(rng)
    motions = [by_order[order.index(position)] for position in range(NUM_OBJECTS)]
    surroundings = Surroundings.drawn(rng)
    missing = draw_missing(rng, absent_fraction, NUM_OBJECTS)
    asked = list(looks)
    if missing is not None:
        asked[missing] = stranger(split, float(rng.random()), (target, other))

    def still(frame: int, looks: Sequence[Identity]) -> Still:
        def at_frame(position: int) -> PlacedObject:
            motion = motions[position]
            angle = float(motion.turns[frame]) * level.rotation
            matrix = pose_matrix(size * float(motion.radii[frame]), angle, motion.stretch, motion.shear)
            x, y = motion.centres[frame].tolist()
            return put(looks[position], matrix, (size * x, size * y), size)

        return Still([at_frame(position) for position in range(NUM_OBJECTS)], order, surroundings)

    chosen, last = focus_frames(NUM_FRAMES, shots)
    return EpisodeStills(
        identity=target,
        level=level,
        query=still(last, asked),
        supports=[still(frame, looks) for frame in chosen],
        names=[f"frame{frame}" for frame in (last, *chosen)],
        times=[frame / last for frame in chosen],
        is_absent=missing == 0,
    )


def expected_last(times: npt.ArrayLike, places: npt.ArrayLike) -> Array:
    """Predict an object's place at time 1 from earlier places: the mean under the distribution of ways.

    Rooms and borders, which cut that distribution, are left out of account.

    Args:
        times: [k] increasing, from 0.
        places: [k, 2] as fractions of the side.

    Returns:
        [2] as fractions of the side.
    """
    rows = way(np.asarray(times, dtype=np.float64))
    # The last place may be anywhere; places are known to a thousandth.
    prior = np.diag([1e2, SPEED**2, BEND**2])
    gain = prior @ rows.T @ np.linalg.inv(rows @ prior @ rows.T + 1e-6 * np.eye(len(rows)))
    mean: Array = gain[0] @ np.asarray(places, dtype=np.float64)
    return mean
