"""Parts and tracks: boxes, outlines, roles that nothing gives away, and what their oracle finds."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import shapely

from focus_env.datasets import SyntheticDataset, load_dataset
from focus_env.datasets.sampler import focus_frames
from focus_env.datasets.synthetic import Scenes
from focus_env.datasets.synthetic.drawing import draw_scene
from focus_env.datasets.synthetic.oracle import candidates, oracle_box, oracle_choice
from focus_env.datasets.synthetic.paints import COLOURS
from focus_env.datasets.synthetic.parts import SIDES, best_hit_rate, halved_families, quadruples, split_of
from focus_env.datasets.synthetic.shapes import NUM_VARIANTS, has_halves, outline
from focus_env.datasets.synthetic.stills import EpisodeStills, Still
from focus_env.datasets.synthetic.tracks import NUM_FRAMES
from focus_env.types import Box
from tests.contracts import assert_dataset_contract, assert_same_episode
from tests.focus_env.datasets.synthetic.made_up import SPLITS

KINDS: tuple[Scenes, ...] = ("parts", "tracks")
SIZE = 64
NUM = 1500
"""Episodes of a statistic; 4 standard errors of a share are then 0.052 at most."""


def episodes(kind: Scenes, **options: Any) -> SyntheticDataset:
    return SyntheticDataset(**({"split": "test", "level": 3, "image_size": SIZE, "scenes": kind} | options))


@functools.cache
def stills_of(kind: Scenes, shots: int) -> list[EpisodeStills]:
    dataset = episodes(kind, num_episodes=NUM)
    return [dataset.stills(index, shots) for index in range(NUM)]


def is_near(share: float, expected: float) -> bool:
    return bool(abs(share - expected) <= 4 * np.sqrt(max(expected * (1 - expected), 0.01) / NUM))


# arguments


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"scenes": "halves"}, r"scenes must be one of \('one_look', 'parts', 'tracks', 'mixed'\), got 'halves'"),
        ({"scenes": None}, "scenes must be one of .*, got None"),
        (
            {"scenes": "parts", "num_objects": 4},
            "num_objects: scenes 'parts' have objects of their own .*, got 4; leave it",
        ),
        (
            {"scenes": "tracks", "distractors": "any"},
            "distractors: scenes 'tracks' have objects of their own .*, got 'any'",
        ),
        ({"scenes": "tracks", "shots": NUM_FRAMES}, "shots must be at most 24 with scenes 'tracks', got 25"),
        ({"scenes": "parts", "shots": 0}, "shots must be at least 1, got 0"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        SyntheticDataset(**arguments)


def test_one_look_has_no_stills() -> None:
    with pytest.raises(ValueError, match="expected scenes 'parts' or 'tracks', got 'one_look'"):
        SyntheticDataset().stills(0)


# reproducibility


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [1, 5])
@pytest.mark.parametrize("shots", [1, 4, 24])
def test_contract(kind: Scenes, level: int, shots: int) -> None:
    dataset = episodes(kind, level=level, shots=shots, num_episodes=20)
    assert_dataset_contract(dataset, shots=shots, num_checked=2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", [{"split": "val"}, {"seed": 1}, {"level": 2}, {"image_size": 65}], ids=str)
def test_each_argument_changes_the_item(kind: Scenes, change: dict[str, Any]) -> None:
    assert episodes(kind)[3].target_box != episodes(kind, **change)[3].target_box


@pytest.mark.parametrize("kind", KINDS)
def test_the_query_does_not_depend_on_shots(kind: Scenes) -> None:
    dataset = episodes(kind, shots=4)
    for shots in (1, 2, 3, 4, 8):
        other = dataset.with_shots(5, shots)
        assert_same_episode(other, episodes(kind, shots=shots)[5])
        assert_same_episode(dataclasses.replace(other, support=()), dataclasses.replace(dataset[5], support=()))


def test_fewer_parts_are_the_first_of_more_and_tracks_lie_evenly_in_the_video() -> None:
    few, many = (episodes("parts", shots=shots)[2] for shots in (2, 4))
    assert_same_episode(few, dataclasses.replace(many, support=many.support[:2]))
    for shots in (1, 2, 3, 4):
        chosen, last = focus_frames(NUM_FRAMES, shots)
        shown = episodes("tracks", shots=shots)[2]
        assert [exemplar.frame.name.rsplit("/frame")[-1] for exemplar in shown.support] == list(map(str, chosen))
        assert shown.query_frame.name.endswith(f"/frame{last}")
        assert chosen[0] == 0


def test_load_dataset_takes_the_kind() -> None:
    options: dict[str, Any] = {"shots": 2, "seed": 3, "level": 3, "image_size": 56, "scenes": "parts"}
    loaded = load_dataset("synthetic", split="val", **options)
    assert_same_episode(loaded[2], SyntheticDataset(split="val", **options)[2])


# splits


def test_two_colours_side_by_side_belong_to_one_split_in_either_order() -> None:
    for first, second in itertools.combinations(COLOURS, 2):
        assert split_of(first, second) == split_of(second, first)
    pairs = {
        split: {frozenset(pair) for a, x, b, y in quadruples(split) for pair in itertools.product((a, x), (b, y))}
        for split in SPLITS
    }
    for one, other in itertools.combinations(("train", "val", "test"), 2):
        assert not pairs[one] & pairs[other]
    assert pairs["test_shapes"] == pairs["test"]
    assert {len(pairs[split]) for split in ("val", "test")} == {9}
    assert len(quadruples("train")) == 210


@pytest.mark.parametrize("kind", KINDS)
def test_no_object_is_of_two_splits(kind: Scenes) -> None:
    seen = {}
    for split in SPLITS:
        dataset = episodes(kind, split=split, shots=1)
        shown = [item.identity for index in range(150) for item in dataset.stills(index).query.objects]
        seen[split] = {(i.texture, frozenset(i.colours), i.family if split == "test_shapes" else "") for i in shown}
        assert {identity.family for identity in shown} <= set(halved_families(split)) or kind == "tracks"
    for one, other in itertools.combinations(SPLITS, 2):
        assert not seen[one] & seen[other], (one, other)


# outlines, boxes


@pytest.mark.parametrize("split", ["train", "test_shapes"])
def test_halves_are_one_valid_piece_each(split: Any) -> None:
    assert not has_halves("horseshoe")
    assert len(halved_families(split)) == {"train": 11, "test_shapes": 3}[split]
    for family, variant, side in itertools.product(halved_families(split), range(NUM_VARIANTS), SIDES):
        points = outline(family, variant, side)
        assert shapely.Polygon(points).is_valid, (family, variant, side)
        assert np.hypot(*points.T).max() == pytest.approx(1)


def test_a_half_in_pieces_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one piece without holes, got a MultiPolygon"):
        outline("horseshoe", 0, "left")


@pytest.mark.parametrize("kind", KINDS)
def test_outlines_are_valid_and_inside(kind: Scenes) -> None:
    """4 objects in each of 3 pictures of 1,500 episodes."""
    objects = [
        item for stills in stills_of(kind, 2) for still in (stills.query, *stills.supports) for item in still.objects
    ]
    assert len(objects) == 12 * NUM
    assert shapely.is_valid([shapely.polygons(item.points) for item in objects]).all()
    corners = np.array([item.bounds for item in objects])
    assert corners.min() >= 0
    assert corners.max() <= SIZE


def drawn_bounds(still: Still, stills: EpisodeStills, position: int) -> Box:
    """The bounds of the pixels that change where an object is left out."""
    kept = [other for other in still.order if other != position]
    surroundings = still.surroundings
    without = draw_scene(
        [still.objects[other] for other in kept],
        background_draws=surroundings.background,
        light_draws=surroundings.light,
        level=stills.level,
        size=SIZE,
    )
    rows, columns = np.nonzero((without != still.pixels(stills.level, SIZE)).any(axis=-1))
    return Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_are_those_of_the_pixels(kind: Scenes) -> None:
    """A pixel that an outline touches by less than half may keep its colour, so a side may differ by two."""
    misses = []
    for stills in stills_of(kind, 2)[:150]:
        for still in (stills.query, *stills.supports):
            misses.append(np.abs(np.subtract(still.box(0, SIZE), drawn_bounds(still, stills, 0))))
    assert np.max(misses) <= 2
    assert np.mean(misses) <= 0.5


def test_boxes_end_where_another_object_covers_theirs() -> None:
    covered = [
        (still, stills, position)
        for stills in stills_of("tracks", 2)
        for still in (stills.query, *stills.supports)
        for position in range(4)
        if still.box(position, SIZE) != still.objects[position].bounds
    ][:60]
    assert len(covered) == 60
    misses = [
        np.abs(np.subtract(still.box(at, SIZE), drawn_bounds(still, stills, at))) for still, stills, at in covered
    ]
    assert np.max(misses) <= 2


def test_parts_do_not_overlap_and_tracks_hide_little() -> None:
    for stills in stills_of("parts", 2):
        for still in (stills.query, *stills.supports):
            boxes = shapely.box(*np.array([item.bounds for item in still.objects]).T)
            assert all(one.intersection(other).area == 0 for one, other in itertools.combinations(boxes, 2))
    shares = [
        (box.x2 - box.x1) * (box.y2 - box.y1) / ((whole.x2 - whole.x1) * (whole.y2 - whole.y1))
        for stills in stills_of("tracks", 2)
        for still in (stills.query, *stills.supports)
        for position in range(4)
        for box, whole in [(still.box(position, SIZE), still.objects[position].bounds)]
    ]
    assert min(shares) > 0.4
    assert np.mean(np.array(shares) < 0.9) < 0.05


# nothing but the supports tells the target


def _height(still: Still, position: int) -> float:
    return list(still.order).index(position)


def _area(still: Still, position: int) -> float:
    return still.objects[position].area()


def _from_middle(still: Still, position: int) -> float:
    return float(np.hypot(*(np.array(still.objects[position].centre) - SIZE / 2)))


def _left(still: Still, position: int) -> float:
    return still.objects[position].bounds.x1


def _seen(still: Still, position: int) -> float:
    box = still.box(position, SIZE)
    return (box.x2 - box.x1) * (box.y2 - box.y1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("measure", [_height, _area, _from_middle, _left, _seen])
def test_the_target_is_any_of_the_four(kind: Scenes, measure: Callable[[Still, int], float]) -> None:
    """By its rank in any respect: the highest, the largest, the most central, the leftmost, the best seen."""
    for pick in ("query", "support"):
        ranks = [
            sorted(range(4), key=functools.partial(measure, still)).index(0)
            for stills in stills_of(kind, 2)
            for still in [stills.query if pick == "query" else stills.supports[-1]]
        ]
        shares = np.bincount(ranks, minlength=4) / NUM
        assert all(is_near(share, 0.25) for share in shares), (pick, shares)


def test_the_colours_of_the_four_parts_do_not_tell_the_target() -> None:
    """Their names are listed in one order, so a target that came first in it could be told by colour."""
    firsts = []
    for stills in stills_of("parts", 2):
        names = [item.identity.colours for item in stills.query.objects]
        firsts.append(sorted(range(4), key=lambda i: names[i]).index(0))  # used at once
    assert all(is_near(share, 0.25) for share in np.bincount(firsts, minlength=4) / NUM)


def test_a_support_of_parts_shows_the_same_beside_either_whole() -> None:
    """All that is shown, in the box and beside it, is the same for the two objects that it leaves open."""
    for stills in stills_of("parts", 2):
        for support in stills.supports:
            looks = [str(item.identity) for item in support.objects]
            assert len({identity.part for identity in (item.identity for item in support.objects)}) == 1
            assert sorted(looks.count(look) for look in set(looks)) == [2, 2]


def test_each_look_of_tracks_is_there_twice() -> None:
    for stills in stills_of("tracks", 2):
        for still in (stills.query, *stills.supports):
            first, twin, other, its_twin = (item.identity for item in still.objects)
            assert first == twin == stills.identity
            assert other == its_twin
            assert (other.texture, set(other.colours)) != (first.texture, set(first.colours))


# the oracle


def hit_rate(kind: Scenes, shots: int, *, is_shuffled: bool = False) -> float:
    found = stills_of(kind, shots)
    hits = []
    for index, stills in enumerate(found):
        other = found[(index + 1) % NUM]
        asked = stills._replace(supports=other.supports, times=other.times) if is_shuffled else stills
        hits.append(oracle_choice(asked, np.random.default_rng(index), size=SIZE) == 0)
    return float(np.mean(hits))


@pytest.mark.parametrize("shots", [1, 2, 4])
def test_the_oracle_of_parts_reaches_the_bound(shots: int) -> None:
    assert is_near(hit_rate("parts", shots), best_hit_rate(shots))
    left_open = [len(candidates(stills)) for stills in stills_of("parts", shots)]
    assert set(left_open) <= {1, 2}
    assert is_near(np.mean(np.array(left_open) == 2), 2 * 0.5**shots if shots > 1 else 1.0)


@pytest.mark.parametrize(("shots", "low", "high"), [(1, 0.70, 0.88), (2, 0.94, 1.0), (4, 0.99, 1.0)])
def test_the_oracle_of_tracks_follows_the_motion(shots: int, low: float, high: float) -> None:
    assert low <= hit_rate("tracks", shots) <= high
    assert {len(candidates(stills)) for stills in stills_of("tracks", shots)} == {2}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shots", [1, 4])
def test_supports_of_other_episodes_leave_it_at_chance(kind: Scenes, shots: int) -> None:
    assert is_near(hit_rate(kind, shots, is_shuffled=True), 0.25)


def test_the_oracle_answers_with_boxes_of_the_query() -> None:
    for kind in KINDS:
        dataset = episodes(kind, shots=1, num_episodes=20)
        answers = [oracle_box(dataset, index) for index in range(20)]
        for index, answer in enumerate(answers):
            query = dataset.stills(index).query
            assert answer in [query.box(position, SIZE) for position in range(4)]
        hits = [answer == dataset[index].target_box for index, answer in enumerate(answers)]
        assert 3 <= sum(hits) < 20
        assert answers == [oracle_box(dataset, index) for index in range(20)]
    one_look = episodes("one_look", absent_fraction=0.5)
    assert [oracle_box(one_look, index) for index in range(9)] == [one_look[index].target_box for index in range(9)]
