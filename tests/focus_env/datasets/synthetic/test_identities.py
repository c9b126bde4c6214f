"""Identities: who belongs to which split, and near misses."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from focus_env.datasets.synthetic.identities import (
    families,
    ground_colour,
    identity_from_number,
    num_identities,
    repainted,
    reshaped,
)
from focus_env.datasets.synthetic.paints import Split, paints
from focus_env.datasets.synthetic.shapes import COMMON_FAMILIES, HELD_OUT_FAMILIES
from tests.focus_env.datasets.synthetic.made_up import SPLITS, paint_of


def test_splits_share_no_identity() -> None:
    looks = {}
    for split in SPLITS:
        all_of_split = {identity_from_number(split, number) for number in range(num_identities(split))}
        # Without the order of colours: to swap them must not turn an object of one split into one of another.
        looks[split] = {(*identity[:4], frozenset(identity.colours)) for identity in all_of_split}
    for first, second in itertools.combinations(SPLITS, 2):
        assert not looks[first] & looks[second], f"{first} and {second} share identities"
    shapes = {split: {look[0] for look in looks[split]} for split in SPLITS}
    assert shapes["train"] == shapes["val"] == shapes["test"] == set(COMMON_FAMILIES)
    assert shapes["test_shapes"] == set(HELD_OUT_FAMILIES)
    assert not set(COMMON_FAMILIES) & set(HELD_OUT_FAMILIES)
    assert {split: len(look) > 1_000 for split, look in looks.items()} == dict.fromkeys(SPLITS, True)


@settings(max_examples=200)
@given(
    split=st.sampled_from(SPLITS),
    share=st.floats(0, 1, exclude_max=True),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_near_misses_differ_from_the_target_in_one_way(split: Split, share: float, draw: float) -> None:
    target = identity_from_number(split, int(share * num_identities(split)))
    same_shape = repainted(split, target, draw)
    assert same_shape[:2] == target[:2]
    if same_shape.texture == target.texture:
        assert not set(same_shape.colours) & set(target.colours)
    else:
        assert set(same_shape.colours) >= set(target.colours)
        assert same_shape.colours[0] == target.colours[0]
    same_paint = reshaped(split, target, draw)
    assert same_paint.family != target.family
    assert same_paint[2:] == target[2:]
    for identity in (target, same_shape, same_paint):
        assert identity.family in families(split)
        assert paint_of(identity) in paints(split)


def test_taken_near_misses_are_avoided_while_others_are_left() -> None:
    target = identity_from_number("val", 5)
    first = reshaped("val", target, 0.0)
    assert reshaped("val", target, 0.0, taken=(first,)) not in (first, target)
    everything = [target._replace(family=family) for family in COMMON_FAMILIES]
    assert reshaped("val", target, 0.0, taken=everything) == first


def test_the_ground_colour_is_read_from_an_identity_as_text() -> None:
    for split in SPLITS:
        for number in range(0, num_identities(split), 97):
            identity = identity_from_number(split, number)
            assert ground_colour(str(identity)) == identity.colours[0]


@pytest.mark.parametrize(
    "text", ["", "mug/3", "star1/stripes3/", "star1/stripes3/mauve-red", "red-blue/stripes3/star1"]
)
def test_the_text_of_another_object_has_no_ground_colour(text: str) -> None:
    with pytest.raises(
        ValueError, match="identity: expected that of a synthetic object, such as star1/stripes3/red-blue"
    ):
        ground_colour(text)
