"""The synthetic data set: reproducible, well-posed at each level, and with boxes that fit the pixels."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from shapely import affinity

from focus_env.datasets import SyntheticDataset, load_dataset
from focus_env.datasets.synthetic import dataset as dataset_module
from focus_env.datasets.synthetic.dataset import MAX_NUM_OBJECTS, MIN_IMAGE_SIZE, Distractors
from focus_env.datasets.synthetic.drawing import BACKGROUND_DRAWS, LIGHT_DRAWS, draw_scene
from focus_env.datasets.synthetic.identities import (
    Identity,
    families,
    identity_from_number,
    num_identities,
    repainted,
    reshaped,
)
from focus_env.datasets.synthetic.paints import (
    TEXTURE_GROUPS,
    TEXTURE_VARIANTS,
    Paint,
    Split,
    paints,
    texture_at,
    texture_mix,
)
from focus_env.datasets.synthetic.scenes import (
    DRAWS_PER_OBJECT,
    LEVELS,
    MIN_SIDE,
    MIN_VISIBLE,
    PlacedObject,
    Scene,
    arrange,
    visible_box,
)
from focus_env.datasets.synthetic.shapes import (
    COMMON_FAMILIES,
    HELD_OUT_FAMILIES,
    NUM_VARIANTS,
    outline,
    outline_area,
)
from focus_env.types import Box
from tests.contracts import assert_dataset_contract, assert_same_episode
from tests.focus_env.datasets.synthetic.digests import digest

SPLITS: tuple[Split, ...] = get_args(Split)
SHAPES = [(family, variant) for family in (*COMMON_FAMILIES, *HELD_OUT_FAMILIES) for variant in range(NUM_VARIANTS)]
TEXTURES = [texture for group in TEXTURE_GROUPS for texture in group]
SQUARE = Identity("rectangle", 0, "solid", 0, ("red",))


# arguments


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"split": "dev"}, r"split must be one of \('train', 'val', 'test', 'test_shapes'\), got 'dev'"),
        ({"level": 0}, r"level must be one of \(1, 2, 3, 4, 5\), got 0"),
        ({"level": 6}, r"level must be one of .*, got 6; 1 is the easiest"),
        ({"shots": 0}, r"shots must be at least 1, got 0"),
        ({"image_size": MIN_IMAGE_SIZE - 1}, r"image_size must be at least 56 pixels, got 55"),
        ({"num_objects": 0}, r"num_objects must be from 1 to 8, or None, got 0"),
        ({"num_objects": MAX_NUM_OBJECTS + 1}, r"num_objects must be from 1 to 8, or None, got 9"),
        ({"distractors": "far"}, r"distractors must be one of \('near', 'same_shape', 'any'\), got 'far'"),
        ({"absent_fraction": -0.1}, r"absent_fraction must be a share in \[0, 1\], got -0.1"),
        ({"absent_fraction": 1.5}, r"absent_fraction must be a share in \[0, 1\], got 1.5"),
        ({"absent_fraction": float("nan")}, r"absent_fraction must be a share in \[0, 1\], got nan"),
        ({"num_episodes": -1}, r"num_episodes must not be negative, got -1"),
        ({"seed": -3}, r"seed must not be negative, got -3"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        SyntheticDataset(**arguments)


def test_length_and_end() -> None:
    assert [len(SyntheticDataset(split=split)) for split in SPLITS] == [1_000_000, 1_000, 1_000, 1_000]
    assert [episode.episode_id[-1] for episode in SyntheticDataset(num_episodes=3, shots=1)] == [
        "0",
        "1",
        "2",
    ]
    assert list(SyntheticDataset(num_episodes=0)) == []


# reproducibility


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shots", [1, 2, 4, 8])
def test_contract(level: int, shots: int) -> None:
    dataset = SyntheticDataset(level=level, shots=shots, split="val", absent_fraction=0.3, num_episodes=50)
    assert_dataset_contract(dataset, shots=shots, num_checked=4)


def test_items_are_byte_identical_in_another_process() -> None:
    script = (
        "from focus_env.datasets import SyntheticDataset\n"
        "from tests.focus_env.datasets.synthetic.digests import digest\n"
        "for level in (1, 5):\n"
        "    dataset = SyntheticDataset(level=level, seed=7, absent_fraction=0.5)\n"
        "    print(*(digest(dataset[index]) for index in (4, 999_999, 0)))\n"
    )
    # Another hash seed, and another order of items, so that neither can matter.
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    result = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    theirs = [line.split() for line in result.stdout.splitlines()]
    for level, digests in zip((1, 5), theirs, strict=True):
        dataset = SyntheticDataset(level=level, seed=7, absent_fraction=0.5)
        assert [digest(dataset[index]) for index in (0, 4, 999_999)] == [digests[2], digests[0], digests[1]]


@pytest.mark.parametrize(
    "change", [{"split": "val"}, {"seed": 1}, {"level": 2}, {"image_size": 113}, {"index": 1}], ids=str
)
def test_each_argument_changes_the_item(change: dict[str, Any]) -> None:
    arguments = {"split": "train", "seed": 0, "level": 3, "image_size": 112}
    base = SyntheticDataset(**arguments)[0]  # type: ignore[arg-type]
    index = change.pop("index", 0)
    other = SyntheticDataset(**(arguments | change))[index]  # type: ignore[arg-type]
    assert base.target_box != other.target_box
    assert base.episode_id != other.episode_id or "image_size" in change


def test_the_query_does_not_depend_on_shots_and_fewer_are_the_first_of_more() -> None:
    few = SyntheticDataset(shots=2, level=4)[11]
    many = SyntheticDataset(shots=8, level=4)[11]
    assert_same_episode(few, dataclasses.replace(many, support=many.support[:2]))


# identities


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


def test_every_paint_belongs_to_one_split() -> None:
    owned = [paint for split in ("train", "val", "test") for paint in paints(split)]  # type: ignore[arg-type]
    assert len(owned) == len(set(owned)) == 256
    assert paints("test_shapes") == paints("test")
    for split in SPLITS:
        textures = {paint.texture for paint in paints(split)}
        assert textures == {"solid", *TEXTURES}


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
        assert _paint(identity) in paints(split)


def _paint(identity: Identity) -> Paint:
    known = {frozenset(paint.colours): paint.colours for split in SPLITS for paint in paints(split)}
    return Paint(identity.texture, known[frozenset(identity.colours)])


def test_taken_near_misses_are_avoided_while_others_are_left() -> None:
    target = identity_from_number("val", 5)
    first = reshaped("val", target, 0.0)
    assert reshaped("val", target, 0.0, taken=(first,)) not in (first, target)
    everything = [target._replace(family=family) for family in COMMON_FAMILIES]
    assert reshaped("val", target, 0.0, taken=everything) == first


@pytest.mark.parametrize(("family", "variant"), SHAPES)
def test_outlines_are_simple_polygons_in_the_unit_circle(family: str, variant: int) -> None:
    points = outline(family, variant)
    polygon = shapely.polygons(points)
    assert polygon.is_valid
    assert polygon.area == pytest.approx(outline_area(family, variant))
    assert np.hypot(*points.T).max() == pytest.approx(1.0)
    assert points.min(axis=0) == pytest.approx(-points.max(axis=0))
    # Wide enough for the smallest radius of all levels to be seen.
    width, height = np.ptp(points, axis=0) * min(level.radius[0] for level in LEVELS.values())
    assert min(width, height) > MIN_SIDE


@pytest.mark.parametrize("names", [COMMON_FAMILIES, HELD_OUT_FAMILIES], ids=["common", "held out"])
def test_families_have_different_silhouettes(names: dict[str, object]) -> None:
    for variant in range(NUM_VARIANTS):
        turned = {}
        for family in names:
            polygon = shapely.polygons(outline(family, variant))
            centred = affinity.translate(polygon, -polygon.centroid.x, -polygon.centroid.y)
            unit = affinity.scale(centred, *2 * [polygon.area**-0.5], origin=(0, 0))
            turned[family] = [affinity.rotate(unit, angle, origin=(0, 0)) for angle in range(0, 360, 15)]
        for first, second in itertools.combinations(names, 2):
            shared = shapely.area(shapely.intersection(turned[first][0], turned[second])).max()
            assert shared / (2 - shared) < 0.87, f"{first} and {second} look alike, variant {variant}"


def test_unknown_texture() -> None:
    with pytest.raises(ValueError, match=r"texture must be 'solid' or one of .*got 'plaid'"):
        texture_at("plaid", 0, np.zeros(1), np.zeros(1))


def test_textures_are_told_apart_on_every_shape() -> None:
    side = 48
    tiles = {(name, v): texture_mix(name, v, side) for name in TEXTURES for v in range(TEXTURE_VARIANTS)}
    for family, variant in SHAPES:
        picture = Image.new("L", (side, side))
        vertices = ((outline(family, variant) + 1) * side / 2 - 0.5).ravel().tolist()
        ImageDraw.Draw(picture).polygon(vertices, fill=1)
        inside = np.asarray(picture) > 0
        for (name, setting), tile in tiles.items():
            share = tile[inside].mean()
            assert 0.15 < share < 0.85, f"{name}{setting} shows one colour only on {family}{variant}"
        # These come in the same two colours, so they must differ by where the colours are.
        for group in TEXTURE_GROUPS:
            for first, second in itertools.combinations(group, 2):
                for setting in range(TEXTURE_VARIANTS):
                    gap = np.abs(tiles[first, setting] - tiles[second, setting])[inside].mean()
                    assert gap > 0.25, f"{first}{setting} and {second}{setting} on {family}{variant}"


# what is shown


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Identity, ...]]:
    """The identities of each picture, in the order of drawing: the query first, then the supports."""
    pictures: list[tuple[Identity, ...]] = []

    def spy(identities: Sequence[Identity], *arguments: Any) -> Scene:
        pictures.append(tuple(identities))
        return arrange(identities, *arguments)

    monkeypatch.setattr(dataset_module, "arrange", spy)
    return pictures


@pytest.mark.parametrize("level", LEVELS)
def test_every_picture_shows_the_target_among_near_misses(level: int, shown: list[tuple[Identity, ...]]) -> None:
    fewest, most = LEVELS[level].num_objects
    counts = set()
    dataset = SyntheticDataset(level=level, shots=3, split="val", image_size=56)
    for index in range(40):
        shown.clear()
        episode = dataset[index]
        assert len(shown) == 4
        for picture in shown:
            counts.add(len(picture))
            target, *others = picture
            assert str(target) == episode.identity
            assert target.family == episode.category
            assert target not in others
            assert len(set(others)) == len(others)
            assert all(_paint(other) in paints("val") for other in others)
            same_shape = [o[:2] == target[:2] and o[2:] != target[2:] for o in others[:2]]
            same_paint = [o[0] != target[0] and o[2:] == target[2:] for o in others[:2]]
            if level == 2:
                assert (same_shape, same_paint) == ([index % 2 == 0], [index % 2 == 1])
            if level >= 3:
                assert sorted(same_shape) == sorted(same_paint) == [False, True]
        # What recurs does not give the target away: the first distractors recur as well.
        assert len({picture[:fewest] for picture in shown}) == 1
    assert counts == set(range(fewest, most + 1))


@pytest.mark.parametrize("num_objects", [1, 2, 4, 8])
@pytest.mark.parametrize("level", LEVELS)
def test_a_number_of_objects_is_exact(level: int, num_objects: int, shown: list[tuple[Identity, ...]]) -> None:
    dataset = SyntheticDataset(level=level, num_objects=num_objects, shots=2, absent_fraction=0.5, image_size=56)
    is_absent = set()
    for index in range(20):
        shown.clear()
        episode = dataset[index]
        assert [len(set(picture)) for picture in shown] == [num_objects] * 3
        query, *supports = shown
        assert {str(support[0]) for support in supports} == {episode.identity}
        assert (episode.identity in map(str, query)) == (episode.target_box is not None)
        is_absent.add(episode.target_box is None)
    assert is_absent == {False, True}


@pytest.mark.parametrize("level", [1, 2, 3])
def test_without_a_number_of_objects_it_is_the_levels_own(level: int) -> None:
    fewest, most = LEVELS[level].num_objects
    assert fewest == most
    for index in range(3):
        own = SyntheticDataset(level=level, shots=2)[index]
        assert_same_episode(own, SyntheticDataset(level=level, shots=2, num_objects=most)[index])


@pytest.mark.parametrize(
    ("level", "identity", "target_box", "support_box"),
    [
        (1, "ellipse0/spokes3/black-yellow", (57.4, 38.7, 94.7, 73.8), (27.3, 12.2, 83.4, 63.5)),
        (3, "ellipse0/rings3/yellow-black", (23.1, 51.4, 66.2, 91.6), (48.1, 14.1, 73.1, 40.4)),
        (5, "hourglass2/gradient1/white-green", (0.0, 50.1, 18.7, 69.1), (34.2, 82.0, 59.4, 99.5)),
    ],
)
def test_episodes_stay_what_they_are(
    level: int, identity: str, target_box: tuple[float, ...], support_box: tuple[float, ...]
) -> None:
    """Figures that were measured on the data set are of these episodes; an option more must not draw others."""
    episode = SyntheticDataset(level=level, shots=1, split="val", image_size=100)[7]
    assert episode.identity == identity
    assert episode.target_box == pytest.approx(target_box, abs=0.06)
    assert episode.support[0].box == pytest.approx(support_box, abs=0.06)


@pytest.mark.parametrize("distractors", ["any", "same_shape"])
@pytest.mark.parametrize("split", ["val", "test"])
def test_eight_objects_of_a_small_split(
    split: Split, distractors: Distractors, shown: list[tuple[Identity, ...]]
) -> None:
    arguments: dict[str, Any] = {"level": 3, "num_objects": 8, "image_size": 64, "distractors": distractors}
    dataset = SyntheticDataset(split=split, shots=2, num_episodes=60, **arguments)
    assert_dataset_contract(dataset, shots=2, num_checked=4)
    for index in range(60):
        shown.clear()
        dataset[index]
        for picture in shown:
            assert len(set(map(_paint, picture))) == 8
            assert all(_paint(other) in paints(split) for other in picture)
            if distractors == "same_shape":
                assert len({identity[:2] for identity in picture}) == 1


def test_load_dataset_takes_a_number_of_objects() -> None:
    options: dict[str, Any] = {"shots": 1, "seed": 3, "level": 3, "num_objects": 5, "image_size": 56}
    loaded = load_dataset("synthetic", split="val", **options)
    assert digest(loaded[2]) == digest(SyntheticDataset(split="val", **options)[2])
    assert digest(loaded[2]) != digest(SyntheticDataset(split="val", **(options | {"num_objects": 4}))[2])


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("level", [3, 5])
def test_distractors_of_the_same_shape(split: Split, level: int, shown: list[tuple[Identity, ...]]) -> None:
    dataset = SyntheticDataset(level=level, shots=1, split=split, distractors="same_shape", image_size=56)
    for index in range(40):
        shown.clear()
        dataset[index]
        for target, *others in shown:
            assert len({target, *others}) == 1 + len(others)
            assert all(other[:2] == target[:2] and _paint(other) != _paint(target) for other in others)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("level", [3, 5])
def test_any_distractors_are_told_apart_by_paint(split: Split, level: int, shown: list[tuple[Identity, ...]]) -> None:
    dataset = SyntheticDataset(level=level, shots=1, split=split, distractors="any", image_size=56)
    distractors = set()
    for index in range(40):
        shown.clear()
        dataset[index]
        for picture in shown:
            assert len(set(map(_paint, picture))) == len(picture)
            assert all(other.family in families(split) and _paint(other) in paints(split) for other in picture)
            distractors |= set(picture[1:])
        assert len({picture[: len(shown[0])] for picture in shown if len(picture) >= len(shown[0])}) == 1
    assert {other.family for other in distractors} == set(families(split))


def test_kinds_of_distractors_share_their_targets() -> None:
    kinds: tuple[Distractors, ...] = get_args(Distractors)
    targets = [SyntheticDataset(level=3, distractors=kind)[5] for kind in kinds]
    assert len({episode.identity for episode in targets}) == 1
    assert len({digest(episode) for episode in targets}) == len(kinds)


@pytest.mark.parametrize("level", LEVELS)
def test_an_absent_target_is_replaced(level: int, shown: list[tuple[Identity, ...]]) -> None:
    fewest, most = LEVELS[level].num_objects
    for index in range(20):
        shown.clear()
        episode = SyntheticDataset(level=level, shots=2, absent_fraction=1.0, image_size=56)[index]
        query, *supports = shown
        assert episode.target_box is None
        assert episode.identity not in map(str, query)
        assert fewest <= len(set(query)) == len(query) <= most
        assert all(str(support[0]) == episode.identity for support in supports)


@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_absent_fraction(fraction: float) -> None:
    dataset = SyntheticDataset(shots=1, absent_fraction=fraction, image_size=56)
    share = np.mean([dataset[index].target_box is None for index in range(400)])
    assert abs(share - fraction) <= 4 * np.sqrt(fraction * (1 - fraction) / 400)


# boxes and pixels


@pytest.mark.parametrize("level", LEVELS)
def test_the_box_bounds_the_pixels_that_the_target_changes(level: int) -> None:
    """Draw each scene with and without its target: the pixels that differ are those where it is seen."""
    size = 112
    rng = np.random.default_rng(level)
    errors = []
    for _ in range(60):
        identities = _random_identities(rng, LEVELS[level].num_objects[1])
        scene = arrange(identities, rng.random((len(identities), DRAWS_PER_OBJECT)).tolist(), LEVELS[level], size)
        draws = {
            "background_draws": rng.random(BACKGROUND_DRAWS).tolist(),
            "light_draws": rng.random(LIGHT_DRAWS).tolist(),
        }
        target = _position(scene, identities[0])
        others = scene.objects[:target] + scene.objects[target + 1 :]
        with_target, without = (
            draw_scene(objects, **draws, level=LEVELS[level], size=size) for objects in (scene.objects, others)
        )
        rows, columns = np.nonzero((with_target != without).any(axis=2))
        seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        errors.append(np.abs(np.subtract(seen, scene.target_box)).max())
    if level <= 3:
        assert max(errors) <= 1.0
    else:  # an occluder may leave a sliver, which the polygon has and the pixels have not
        assert np.quantile(errors, 0.95) <= 1.05


def _random_identities(rng: np.random.Generator, count: int) -> list[Identity]:
    """Identities that differ from each other."""
    numbers = rng.choice(num_identities("train"), size=3 * count, replace=False)
    return list(dict.fromkeys(identity_from_number("train", int(number)) for number in numbers))[:count]


def _position(scene: Scene, identity: Identity) -> int:
    return next(index for index, item in enumerate(scene.objects) if item.identity == identity)


def _placed(identity: Identity, points: list[tuple[float, float]]) -> PlacedObject:
    """An object with a given outline; its matrix is the one that gives a `SQUARE` of side 20 its area."""
    array = np.array(points)
    side = 10 * np.sqrt(2)  # the square's outline has half-diagonal 1
    bounds = Box(*array.min(axis=0).tolist(), *array.max(axis=0).tolist())
    return PlacedObject(identity, array, (side, 0.0, 0.0, side), (0.0, 0.0), bounds)


def _rectangle(x1: float, y1: float, x2: float, y2: float) -> PlacedObject:
    return _placed(SQUARE, [(x1, y1), (x2, y1), (x2, y2), (x1, y2)])


@pytest.mark.parametrize(
    ("case", "above", "expected", "share"),
    [
        ("covered", [_rectangle(0, 0, 50, 50)], None, 0.0),
        ("covered by two", [_rectangle(0, 0, 20, 50), _rectangle(20, 0, 50, 50)], None, 0.0),
        ("nothing above", [], Box(10, 10, 30, 30), 1.0),
        ("left half covered", [_rectangle(0, 0, 20, 50)], Box(20, 10, 30, 30), 0.5),
        ("a band across the middle", [_rectangle(0, 15, 50, 25)], Box(10, 10, 30, 30), 0.5),
        ("a corner", [_rectangle(25, 25, 50, 50)], Box(10, 10, 30, 30), 1 - 25 / 400),
        (
            "all but a corner",
            [_rectangle(0, 0, 50, 25), _rectangle(0, 0, 25, 50)],
            Box(25, 25, 30, 30),
            25 / 400,
        ),
        ("near", [_rectangle(31, 10, 50, 30)], Box(10, 10, 30, 30), 1.0),
        (
            "boxes meet, outlines do not",
            [_placed(SQUARE, [(50, 5), (50, 50), (5, 50)])],
            Box(10, 10, 30, 30),
            1 - 12.5 / 400,
        ),
    ],
)
def test_visible_box(case: str, above: list[PlacedObject], expected: Box | None, share: float) -> None:
    box, seen = visible_box(_rectangle(10, 10, 30, 30), above, 100)
    assert box == expected
    assert seen == pytest.approx(share)


@pytest.mark.parametrize(
    ("target", "expected", "share"),
    [
        (_rectangle(-5, 10, 15, 30), Box(0, 10, 15, 30), 0.75),
        (_rectangle(50, 50, 70, 70), Box(50, 50, 60, 60), 0.25),
        (_rectangle(-20, 0, 0, 20), None, 0.0),
        (_rectangle(40, 40, 60, 60), Box(40, 40, 60, 60), 1.0),
    ],
)
def test_what_lies_outside_the_picture_is_not_seen(target: PlacedObject, expected: Box | None, share: float) -> None:
    box, seen = visible_box(target, [], 60)
    assert box == expected
    assert seen == pytest.approx(share)


@pytest.mark.parametrize("level", LEVELS)
def test_the_target_stays_recognisable(level: int) -> None:
    size = 112
    rng = np.random.default_rng(level)
    for _ in range(150):
        identities = _random_identities(rng, LEVELS[level].num_objects[1])
        draws = rng.random((len(identities), DRAWS_PER_OBJECT)).tolist()
        scene = arrange(identities, draws, LEVELS[level], size)
        assert {item.identity for item in scene.objects} == set(identities)
        target = _position(scene, identities[0])
        box, share = visible_box(scene.objects[target], scene.objects[target + 1 :], size)
        assert box == scene.target_box
        assert share >= MIN_VISIBLE
        assert min(box.x2 - box.x1, box.y2 - box.y1) >= MIN_SIDE * size


@pytest.mark.parametrize("level", [4, 5])
@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_a_target_that_would_be_hidden_is_brought_to_the_top_and_inside(level: int, place: float) -> None:
    """All objects are drawn alike, so that each wants the same place; the target is the lowest."""
    identities = [SQUARE._replace(colours=(name,)) for name in ("red", "green", "blue", "white")]
    draws = [[0.5, 0.9, 0.5, 0.5, height / 4, *(DRAWS_PER_OBJECT - 5) * [place]] for height in range(4)]
    scene = arrange(identities, draws, LEVELS[level], 112)
    target = scene.objects[-1]
    assert target.identity == identities[0]
    assert visible_box(target, [], 112) == (scene.target_box, 1.0)
    corners = (*target.points.min(axis=0), *target.points.max(axis=0))
    np.testing.assert_allclose(corners, scene.target_box, atol=1e-9)
    # The texture moves along with the outline.
    np.testing.assert_allclose(target.centre, (np.add(corners[:2], corners[2:])) / 2)


def test_objects_stand_apart_where_nothing_may_be_occluded() -> None:
    rng = np.random.default_rng(0)
    touching = 0
    for _ in range(300):
        identities = _random_identities(rng, 3)
        scene = arrange(identities, rng.random((3, DRAWS_PER_OBJECT)).tolist(), LEVELS[3], 112)
        boxes = shapely.box(*np.array([item.bounds for item in scene.objects]).T)
        touching += any(one.intersects(other) for one, other in itertools.combinations(boxes, 2))
    assert touching / 300 < 0.05


def test_the_target_cannot_be_told_by_its_place() -> None:
    """Later objects must go where there is room: placed first, the target was nearest to the centre in 38 of 100."""
    size, num_objects, num_scenes = 64, 4, 1500
    rng = np.random.default_rng(0)
    is_nearest = []
    for _ in range(num_scenes):
        identities = _random_identities(rng, num_objects)
        scene = arrange(identities, rng.random((num_objects, DRAWS_PER_OBJECT)).tolist(), LEVELS[3], size)
        distances = [
            np.hypot((x1 + x2 - size) / 2, (y1 + y2 - size) / 2) for x1, y1, x2, y2 in (o.bounds for o in scene.objects)
        ]
        is_nearest.append(int(np.argmin(distances)) == _position(scene, identities[0]))
    chance = 1 / num_objects
    assert abs(np.mean(is_nearest) - chance) <= 4 * np.sqrt(chance * (1 - chance) / num_scenes)


@settings(max_examples=60, deadline=None)
@given(
    level=st.sampled_from(sorted(LEVELS)),
    draws=st.lists(st.floats(0, 1, exclude_max=True), min_size=LIGHT_DRAWS, max_size=LIGHT_DRAWS),
)
def test_light_dims_within_the_bounds_of_the_level(level: int, draws: list[float]) -> None:
    background = [0.3] * BACKGROUND_DRAWS
    full = dataclasses.replace(LEVELS[level], light=1.0, tint=0.0)
    lit, unlit = (
        draw_scene([], background_draws=background, light_draws=draws, level=used, size=56).astype(float)
        for used in (LEVELS[level], full)
    )
    assert (lit <= unlit).all()
    darkest = LEVELS[level].light * (1 - LEVELS[level].tint)
    assert (lit >= np.floor(unlit * (darkest - 2 / 256)) - 1).all()  # each of three steps rounds down


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
@pytest.mark.parametrize("texture", TEXTURES)
def test_the_texture_turns_and_shears_with_the_object(texture: str, quarter_turns: int) -> None:
    size = 112
    identity = Identity("corner", 1, texture, 1, ("white", "blue"))
    full = dataclasses.replace(LEVELS[1], light=1.0)
    pictures = []
    for turns in (0, quarter_turns):
        cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[turns]
        turn = np.array(((cos, sin), (-sin, cos)))  # as np.rot90: from x towards -y
        matrix = turn @ ((44.0, 9.0), (3.0, 40.0))
        points = outline(identity.family, identity.shape_variant) @ matrix.T + size / 2
        bounds = Box(*points.min(axis=0).tolist(), *points.max(axis=0).tolist())
        item = PlacedObject(identity, points, tuple(matrix.ravel().tolist()), (size / 2, size / 2), bounds)
        draws = {"background_draws": [0.1] * BACKGROUND_DRAWS, "light_draws": [0.5] * LIGHT_DRAWS}
        pictures.append(draw_scene([item], **draws, level=full, size=size).astype(int))
        if turns == 0:
            columns, rows = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
            inside = shapely.contains_xy(shapely.polygons(points).buffer(-2), columns, rows)
    turned_back = np.rot90(pictures[1], -quarter_turns)
    gap = np.abs(turned_back - pictures[0])[inside].mean()
    assert inside.sum() > 1000
    assert pictures[0][inside].std(axis=0).max() > 30
    assert gap < 8, "the texture does not follow the object"


@settings(max_examples=200)
@given(left=st.floats(-30, 130), top=st.floats(-30, 130), side=st.floats(1, 60))
def test_moved_inside(left: float, top: float, side: float) -> None:
    moved = _rectangle(left, top, left + side, top + side).moved_inside(112)
    x1, y1, x2, y2 = moved.bounds
    assert 0 <= x1 < x2 <= 112
    assert 0 <= y1 < y2 <= 112
    assert all(isinstance(value, float) for value in moved.bounds)
    np.testing.assert_allclose(moved.bounds, (*moved.points[0], *moved.points[2]), atol=1e-9)
    if left >= 0 and left + side <= 112:
        assert x1 == left
