"""Identities: which objects exist, and which look almost like a given one.

An identity is a tuple of attributes, and an object is drawn from nothing else; so two objects are the same
exactly if their tuples are. The identities of a split are numbered; a number is decoded by division (mixed
radix).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from focus_env.datasets.synthetic.paints import COLOURS, TEXTURE_VARIANTS, Paint, Split, paints
from focus_env.datasets.synthetic.shapes import COMMON_FAMILIES, HELD_OUT_FAMILIES, NUM_VARIANTS, Part

_T = TypeVar("_T")
_COLOUR_ORDER = {name: position for position, name in enumerate(COLOURS)}


class Identity(NamedTuple):
    """One object, whatever its pose and its light.

    Attributes:
        family: Shape family; the category of the object.
        shape_variant: Setting of the family's parameters, 0 .. `NUM_VARIANTS` - 1.
        texture: ``"solid"``, a two-colour texture, or ``"halves"``.
        texture_variant: Setting of the texture, 0 .. `TEXTURE_VARIANTS` - 1.
        colours: Names of the ground and of the pattern on it; one name for solid.
        part: How much of it there is.
    """

    family: str
    shape_variant: int
    texture: str
    texture_variant: int
    colours: tuple[str, ...]
    part: Part = "whole"

    def __str__(self) -> str:
        colours = "-".join(self.colours)
        part = "" if self.part == "whole" else f"/{self.part}"
        return f"{self.family}{self.shape_variant}/{self.texture}{self.texture_variant}/{colours}{part}"


def ground_colour(identity: str) -> str:
    """Return the ground colour of an object, a key of `COLOURS`.

    Args:
        identity: An `Identity` as text, as `Episode.identity` of synthetic episodes holds it.

    Raises:
        ValueError: If it is the text of something else.

    >>> ground_colour("star1/stripes3/red-blue")
    'red'
    """
    colour = identity.rpartition("/")[2].partition("-")[0]
    if colour not in COLOURS:
        raise ValueError(
            f"identity: expected that of a synthetic object, such as star1/stripes3/red-blue, got {identity!r}"
        )
    return colour


@functools.cache
def families(split: Split) -> tuple[str, ...]:
    """Return the shape families of a split: test_shapes has its own, the other three splits share theirs."""
    return tuple(HELD_OUT_FAMILIES if split == "test_shapes" else COMMON_FAMILIES)


@functools.cache
def num_identities(split: Split) -> int:
    """Count the identity numbers of a split."""
    return len(paints(split)) * 2 * len(families(split)) * NUM_VARIANTS * TEXTURE_VARIANTS


def identity_from_number(split: Split, number: int) -> Identity:
    """Decode an identity number.

    Splits share no identity: a paint (texture and unordered colours) belongs to one of train, val and test,
    and test_shapes has other shape families.

    Args:
        split: Whose identities.
        number: 0 .. `num_identities(split)` - 1. Two numbers may decode to the same identity (a solid has no
            order of colours and no texture variants).
    """
    number, paint_index = divmod(number, len(paints(split)))
    number, is_swapped = divmod(number, 2)
    number, family_index = divmod(number, len(families(split)))
    texture_variant, shape_variant = divmod(number, NUM_VARIANTS)
    paint = paints(split)[paint_index]
    colours = paint.colours[::-1] if is_swapped else paint.colours
    if paint.texture == "solid":
        texture_variant = 0
    return Identity(families(split)[family_index], shape_variant, paint.texture, texture_variant, colours)


@functools.cache
def _near_paints(split: Split, paint: Paint) -> tuple[tuple[Paint, ...], tuple[Paint, ...]]:
    """Return the paints in the same colours and another texture, and in the same texture and none of the colours."""
    shared, owned = set(paint.colours), paints(split)
    other_texture = tuple(p for p in owned if p.texture != paint.texture and shared <= set(p.colours))
    other_colours = tuple(p for p in owned if p.texture == paint.texture and not shared & set(p.colours))
    return other_texture or other_colours, other_colours or other_texture


def _pick(options: Iterable[Identity], taken: Collection[Identity]) -> Identity:
    """Return the first option that is not taken, or the first of all if all are taken."""
    options = iter(options)
    first = next(options)
    return first if first not in taken else next((option for option in options if option not in taken), first)


def _rotated(items: Sequence[_T], draw: float) -> Iterator[_T]:
    """Yield the items from position `draw` (0 .. 1) to the end, then those before it."""
    start = int(draw * len(items))
    return itertools.chain(items[start:], items[:start])


def _with_paint(identity: Identity, paint: Paint) -> Identity:
    """Return the same shape in another paint; the ground colour stays if the new paint has it."""
    names, ground = paint.colours, identity.colours[0]
    colours = names[::-1] if ground in names and names[0] != ground else names
    variant = 0 if paint.texture == "solid" else identity.texture_variant
    return identity._replace(texture=paint.texture, texture_variant=variant, colours=colours)


def repainted(split: Split, identity: Identity, draw: float, taken: Collection[Identity] = ()) -> Identity:
    """Return an object of the same shape, in another texture or in other colours.

    Args:
        split: The split of `identity`; the result belongs to it too.
        identity: The object that the result resembles.
        draw: Uniform in [0, 1): chooses among the possible objects.
        taken: Identities to avoid.
    """
    colours = tuple(sorted(identity.colours, key=_COLOUR_ORDER.__getitem__))
    other_texture, other_colours = _near_paints(split, Paint(identity.texture, colours))
    first, second = (other_texture, other_colours) if draw < 0.5 else (other_colours, other_texture)
    options = itertools.chain(_rotated(first, 2 * draw % 1), second)
    return _pick((_with_paint(identity, paint) for paint in options), taken)


def reshaped(split: Split, identity: Identity, draw: float, taken: Collection[Identity] = ()) -> Identity:
    """Return an object of another shape family, in the same texture and colours; arguments as in `repainted`."""
    others = [family for family in families(split) if family != identity.family]
    return _pick((identity._replace(family=family) for family in _rotated(others, draw)), taken)


def stranger(split: Split, draw: float, taken: Collection[Identity] = ()) -> Identity:
    """Return an object in a paint that no taken object has, so that paint alone tells them apart.

    Args:
        split: The split of the new object.
        draw: Uniform in [0, 1): chooses among the possible objects.
        taken: Objects whose paints are avoided; fewer than the split has paints.
    """
    worn = {(other.texture, frozenset(other.colours)) for other in taken}
    # Neighbouring numbers differ in paint.
    numbers = _rotated(range(num_identities(split)), draw)
    options = (identity_from_number(split, number) for number in numbers)
    return next(option for option in options if (option.texture, frozenset(option.colours)) not in worn)
