"""Parts: a support shows one half of every object, and each half is that of two objects.

The four objects of an episode are A|B, A|b, a|B and a|b: one shape, two colours for its left and two for its right
half. The query shows them whole. A support shows the left half of all four or the right half of all four, either as
often; one that shows A in its box leaves open A|B and A|b. So k supports tell the object unless all of them show the
same side, and the best that anybody can hit is `best_hit_rate`.

All four show the same side, since a support with a half of each drawn on its own would tell by those beside the box
which whole is meant.

Where targets may be absent, a query can lack one of the four, the target or another, see `stills.draw_missing`. Another
whole, in colours that none of the four has, stands in its place. That A|B is missing is then told by supports of both
sides; one that shows A leaves open A|B, which is not there, and A|b.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np

from focus_env.datasets.synthetic.identities import Identity, families
from focus_env.datasets.synthetic.paints import COLOURS, Split, contrast
from focus_env.datasets.synthetic.scenes import Level, scatter
from focus_env.datasets.synthetic.shapes import NUM_VARIANTS, Part, has_halves
from focus_env.datasets.synthetic.stills import EpisodeStills, Still, Surroundings, draw_missing

RADIUS = (0.14, 0.21)
"""Least and most radius of an object, or of a half that is shown alone, as a share of the picture's side."""

MIN_CONTRAST = 100.0
"""Least Euclidean RGB distance between any two of the four colours of an episode."""

SIDES: tuple[Part, Part] = ("left", "right")

_HELD_OUT: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "val": (frozenset(("green", "cyan", "blue")), frozenset(("yellow", "purple", "pink"))),
    "test": (frozenset(("red", "white", "black")), frozenset(("yellow", "purple", "pink"))),
}
"""Two colours side by side belong to a split if one is of its first set and one of its second, to train if to none."""


def split_of(first: str, second: str) -> Split:
    """Return the split (train, val or test) that two colours side by side belong to, in either order."""
    for split, (ones, others) in _HELD_OUT.items():
        if (first in ones and second in others) or (first in others and second in ones):
            return split  # type: ignore[return-value]
    return "train"


@functools.cache
def quadruples(split: Split) -> tuple[tuple[str, str, str, str], ...]:
    """Return all (A, a, B, b) whose four wholes are of the split: A and a for left halves, B and b for right halves.

    The split test_shapes has the quadruples of test.
    """
    owner = "test" if split == "test_shapes" else split
    found = []
    for lefts, rights in itertools.permutations(itertools.combinations(COLOURS, 2), 2):
        colours = (*lefts, *rights)
        if len(set(colours)) < 4 or min(contrast(*pair) for pair in itertools.combinations(colours, 2)) < MIN_CONTRAST:
            continue
        if all(split_of(*pair) == owner for pair in itertools.product(lefts, rights)):
            found.append(colours)
    return tuple(found)


@functools.cache
def newcomers(split: Split, colours: tuple[str, str, str, str]) -> tuple[tuple[str, str], ...]:
    """Return all (left, right) of a split's wholes whose colours differ from four others by at least `MIN_CONTRAST`."""
    owner = "test" if split == "test_shapes" else split
    pairs = itertools.permutations([colour for colour in COLOURS if colour not in colours], 2)
    return tuple(
        pair
        for pair in pairs
        if split_of(*pair) == owner
        and min(contrast(*two) for two in [pair, *itertools.product(pair, colours)]) >= MIN_CONTRAST
    )


@functools.cache
def halved_families(split: Split) -> tuple[str, ...]:
    """Return the shape families of a split whose halves are in one piece each."""
    return tuple(family for family in families(split) if has_halves(family))


def part_of(identity: Identity, side: Part) -> Identity:
    """Return a half of a whole: one colour, and a shape that is cut."""
    return identity._replace(texture="solid", colours=(identity.colours[SIDES.index(side)],), part=side)


def best_hit_rate(shots: int) -> float:
    """Share of episodes in which the best of all policies finds the object: 1 - 0.5 ** shots.

    The supports show one side alone with probability 2 * 0.5 ** shots, and leave open two objects then.

    >>> [best_hit_rate(shots) for shots in (1, 2, 4)]
    [0.5, 0.75, 0.9375]
    """
    return 1 - 0.5**shots


def parts_stills(
    key: tuple[int, ...], *, split: Split, level: Level, size: int, shots: int, absent_fraction: float = 0.0
) -> EpisodeStills:
    """Arrange an episode; fewer supports are the first of more, and the query does not depend on their number.

    Args:
        key: Seed of the episode.
        split: The split of the objects.
        level: Rotation, light and background; sizes are `RADIUS`, and nothing is covered.
        size: Side of the pictures in pixels.
        shots: Number of supports.
        absent_fraction: Probability that the query lacks the target; changes the query alone.
    """
    level = dataclasses.replace(level, num_objects=(4, 4), radius=RADIUS, max_overlap=0.0, cut=0.0)
    rng = np.random.default_rng(key)
    options, shapes = quadruples(split), halved_families(split)
    colours = options[int(rng.integers(len(options)))]
    first, other_first, second, other_second = colours
    family, variant = shapes[int(rng.integers(len(shapes)))], int(rng.integers(NUM_VARIANTS))
    wholes = [
        Identity(family, variant, "halves", 0, pair)
        for pair in itertools.product((first, other_first), (second, other_second))
    ]
    # Colours are listed in one order, so the target must be any of the four.
    target = int(rng.integers(4))
    wholes = [wholes[target], *wholes[:target], *wholes[target + 1 :]]
    missing = draw_missing(rng, absent_fraction, len(wholes))
    asked = list(wholes)
    if missing is not None:
        others = newcomers(split, colours)
        asked[missing] = wholes[missing]._replace(colours=others[int(rng.integers(len(others)))])

    def still(picture: int) -> Still:
        """Picture 0 is the query; each has its own generator, so that the number of others does not matter."""
        own = np.random.default_rng((*key, picture))
        side = SIDES[int(own.integers(2))]
        shown = asked if picture == 0 else [part_of(whole, side) for whole in wholes]
        objects, order = scatter(shown, own, level, size)
        return Still(objects, order, Surroundings.drawn(own))

    return EpisodeStills(
        identity=wholes[0],
        level=level,
        query=still(0),
        supports=[still(shot + 1) for shot in range(shots)],
        names=["query", *(f"support{shot}" for shot in range(shots))],
        is_absent=missing == 0,
    )
