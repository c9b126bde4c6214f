"""Episodes: reproducible, and well-posed at each level."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pytest

from focus_env.datasets import SyntheticDataset, load_dataset
from focus_env.datasets.synthetic import dataset as dataset_module
from focus_env.datasets.synthetic.dataset import MAX_NUM_OBJECTS, MIN_IMAGE_SIZE, Distractors
from focus_env.datasets.synthetic.identities import Identity, families
from focus_env.datasets.synthetic.paints import Split, paints
from focus_env.datasets.synthetic.scenes import LEVELS, Scene, arrange
from tests.contracts import assert_dataset_contract, assert_same_episode
from tests.focus_env.datasets.synthetic.digests import digest
from tests.focus_env.datasets.synthetic.made_up import SPLITS, paint_of

# arguments


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"split": "dev"}, r"split must be one of \('train', 'val', 'test', 'test_shapes'\), got 'dev'"),
        ({"shots": 1.5}, "shots must be a whole number, got 1.5"),
        ({"shots": True}, "shots must be a whole number, got True"),
        ({"seed": None}, "seed must be a whole number, got None"),
        ({"num_objects": 2.5}, "num_objects must be a whole number, got 2.5"),
        ({"num_episodes": "9"}, "num_episodes must be a whole number, got '9'"),
        ({"image_size": float("nan")}, "image_size must be a whole number, got nan"),
        ({"image_size": 10**6}, "image_size must be at most 4096 pixels, got 1000000"),
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
            assert all(paint_of(other) in paints("val") for other in others)
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
            assert len(set(map(paint_of, picture))) == 8
            assert all(paint_of(other) in paints(split) for other in picture)
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
            assert all(other[:2] == target[:2] and paint_of(other) != paint_of(target) for other in others)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("level", [3, 5])
def test_any_distractors_are_told_apart_by_paint(split: Split, level: int, shown: list[tuple[Identity, ...]]) -> None:
    dataset = SyntheticDataset(level=level, shots=1, split=split, distractors="any", image_size=56)
    distractors = set()
    for index in range(40):
        shown.clear()
        dataset[index]
        for picture in shown:
            assert len(set(map(paint_of, picture))) == len(picture)
            assert all(other.family in families(split) and paint_of(other) in paints(split) for other in picture)
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
