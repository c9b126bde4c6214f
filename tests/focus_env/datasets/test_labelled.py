"""Labelled pictures of one's own as episodes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from focus_env import ENV_ID
from focus_env.annotations import FORMATS, LabelledBox, LabelledPicture, format_named, write_annotations
from focus_env.datasets import load_dataset
from focus_env.datasets.labelled import natural, read_tracks
from focus_env.errors import DatasetError
from focus_env.types import Box
from tests.contracts import assert_dataset_contract
from tests.focus_env.annotations.samples import SCENE_WH as WH
from tests.focus_env.annotations.samples import scene

CLIPS = "abcdef"
EACH = 4
"""Pictures of a clip."""


def pictures_of(folder: Path, **others: Any) -> list[LabelledPicture]:
    """Six clips of four frames; in each a mug, and in the first three a pen."""
    shown = []
    for place, clip in enumerate(CLIPS):
        for number in range(1, EACH + 1):
            name = f"{clip}/{number}.png"
            (folder / clip).mkdir(parents=True, exist_ok=True)
            scene(100 * place + number).save(folder / name)
            objects = [
                LabelledBox("mug", Box(1 + number, 2, 30, 40), track="1", attributes={"instance": f"mug {clip}"})
            ]
            if place < 3:
                objects.append(
                    LabelledBox("pen", Box(40, 2 + number, 60, 40), track="2", attributes={"instance": "pen"})
                )
            shown.append(LabelledPicture(name, WH, tuple(objects), folder / name))
    return [dataclasses.replace(one, **others) for one in shown]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return tmp_path / "mine"


def write(mine: Path, shown: list[LabelledPicture], name: str = "jsonl") -> Path:
    """Annotations beside the pictures, in a format."""
    if name in ("yolo", "voc"):
        write_annotations(mine.parent / name, shown, format=name, copy_pictures=True)
        return mine.parent / name
    if name in ("labelme", "folder"):
        write_annotations(mine.parent / name, shown, format=name, copy_pictures=True)
        return mine.parent / name
    ending = (*format_named(name).endings, ".json")[0]
    write_annotations(mine / f"annotations{ending}", shown, format=name)
    return mine


@pytest.mark.parametrize("name", FORMATS.built_in)
def test_each_format_is_a_data_set(name: str, mine: Path) -> None:
    root = write(mine, pictures_of(mine), name)
    episodes: Any = load_dataset(name, root=root, split="train", shots=2, protocol="random", identity="label")
    assert_dataset_contract(episodes, shots=2)
    assert episodes.described == (
        "6 clips (told by folders and names) split into 4 train, 1 val, 1 test; objects by their labels"
    )
    assert dict(episodes.skipped) == {}
    seen = {split: frames(load_dataset(name, root=root, split=split, shots=1)) for split in ("train", "val", "test")}
    assert sorted(len(found) for found in seen.values()) == [1, 1, 4]
    assert not seen["train"] & seen["val"] | seen["train"] & seen["test"] | seen["val"] & seen["test"]


def frames(episodes: Any) -> set[str]:
    """The clips of all pictures of a data set."""
    tracks = episodes._tracks
    return {frame.name.split("/")[-2] for track in tracks for frame in track.frames}


@pytest.mark.parametrize(
    ("identity", "expected", "rule"),
    [
        ("label", {"mug", "pen"}, "their labels"),
        ("clip", {*(f"{clip}/mug" for clip in CLIPS), "a/pen", "b/pen", "c/pen"}, "their labels within a clip"),
        ("track", {*(f"{clip}/mug/1" for clip in CLIPS), "a/pen/2", "b/pen/2", "c/pen/2"}, "their tracks"),
        ("instance", {*(f"mug {clip}" for clip in CLIPS), "pen"}, "the attribute 'instance'"),
        ("auto", {*(f"{clip}/mug/1" for clip in CLIPS), "a/pen/2", "b/pen/2", "c/pen/2"}, "their tracks"),
    ],
)
def test_which_boxes_show_one_object(identity: str, expected: set[str], rule: str, mine: Path) -> None:
    root = write(mine, pictures_of(mine))
    found = read_tracks(root, format="jsonl", split="all", identity=identity)
    assert {track.identity for track in found.tracks} == expected
    assert found.rule == f"all pictures; objects by {rule}"
    assert {track.category for track in found.tracks} == {"mug", "pen"}


def without(shown: list[LabelledPicture], **changes: Any) -> list[LabelledPicture]:
    return [
        dataclasses.replace(one, objects=tuple(dataclasses.replace(thing, **changes) for thing in one.objects))
        for one in shown
    ]


def test_auto_takes_what_every_box_has(mine: Path) -> None:
    shown = without(pictures_of(mine), track="")
    found = read_tracks(write(mine, shown), format="jsonl", split="all")
    assert found.rule.endswith("objects by the attribute 'instance'")
    write_annotations(mine / "annotations.jsonl", without(shown, attributes={}), overwrite=True)
    assert read_tracks(mine, format="jsonl", split="all").rule.endswith("objects by their labels")
    named = without(shown, attributes={}, track="my own mug")
    write_annotations(mine / "annotations.jsonl", named, overwrite=True)
    found = read_tracks(mine, format="jsonl", split="all")
    assert [track.identity for track in found.tracks] == ["my own mug"]


def test_what_is_left_out_is_counted(mine: Path) -> None:
    shown = pictures_of(mine)
    crowd = LabelledBox("mug", Box(0, 0, 9, 9), attributes={"iscrowd": "true"})
    twice = LabelledBox("mug", Box(0, 0, 9, 9))
    bare = LabelledBox("mug", Box(0, 0, 9, 9))
    shown[0] = dataclasses.replace(shown[0], objects=(*shown[0].objects, crowd))
    shown[1] = dataclasses.replace(shown[1], objects=(*shown[1].objects, twice))
    found = read_tracks(write(mine, shown), format="jsonl", split="all", identity="label")
    assert dict(found.skipped) == {"boxes_crowd": 1, "pictures_several": 1}
    shown[2] = dataclasses.replace(shown[2], objects=(bare,))
    write_annotations(mine / "annotations.jsonl", shown, overwrite=True)
    found = read_tracks(mine, format="jsonl", split="all", identity="instance")
    assert dict(found.skipped) == {"boxes_crowd": 1, "boxes_no_identity": 2}


def test_absent_objects_are_queries_without_a_box(mine: Path) -> None:
    shown = pictures_of(mine)
    shown = [
        dataclasses.replace(one, objects=(LabelledBox("mug", None),)) if one.name.endswith("4.png") else one
        for one in shown
    ]
    root = write(mine, shown)
    kept = load_dataset("jsonl", root=root, split="all", shots=2, protocol="iploc", absent="keep", identity="clip")
    assert {kept[index].target_note for index in range(len(kept))} >= {"flagged_absent"}
    assert any(kept[index].target_box is None for index in range(len(kept)))
    skipped: Any = load_dataset("jsonl", root=root, split="all", shots=2, identity="clip")
    assert skipped.skipped["frames_flagged_absent"] == len(CLIPS)


def test_splits_that_files_say_count(mine: Path) -> None:
    shown = [
        dataclasses.replace(one, split="train" if number < 16 else "val" if number < 23 else "")
        for number, one in enumerate(pictures_of(mine))
    ]
    root = write(mine, shown)
    found = read_tracks(root, format="jsonl", split="val")
    assert {frame.name for track in found.tracks for frame in track.frames} == {one.name for one in shown[16:23]}
    assert found.rule.startswith("splits as files and folders say; ")
    assert found.skipped["pictures_no_split"] == 1
    with pytest.raises(ValueError, match="split: expected one of train, val, as the files and folders say, got 'test'"):
        read_tracks(root, format="jsonl", split="test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "nonsense"}, "the split of labelled pictures must be one of"),
        (
            {"identity": "nonsense"},
            r"identity: expected one of auto, track, label, clip, or an attribute that boxes have ",
        ),
    ],
)
def test_arguments(options: dict[str, Any], message: str, mine: Path) -> None:
    root = write(mine, pictures_of(mine))
    with pytest.raises(ValueError, match=message):
        load_dataset("jsonl", root=root, **{"split": "all", "shots": 1} | options)


def test_few_clips(mine: Path) -> None:
    shown = pictures_of(mine)[:1]
    root = write(mine, shown)
    assert len(read_tracks(root, format="jsonl", split="train").tracks) == 2
    with pytest.raises(ValueError, match=r"1 clips .* split into 1 train, which leaves none for 'val'; pass 'all'"):
        read_tracks(root, format="jsonl", split="val")


def test_no_track_to_go_by(mine: Path) -> None:
    root = write(mine, without(pictures_of(mine), track=""))
    with pytest.raises(ValueError, match="identity: expected boxes with a track, found none"):
        read_tracks(root, format="jsonl", split="all", identity="track")


def test_bad_entries(mine: Path) -> None:
    root = write(mine, pictures_of(mine))
    path = root / "annotations.jsonl"
    path.write_text(path.read_text() + '{"image": "a/1.png", "objects": [{"label": "mug", "box": [3, 3, 1, 9]}]}\n')
    with pytest.raises(DatasetError, match=r"line 25, objects\[0\]: expected x1 < x2 .*boxes_reversed: 1"):
        load_dataset("jsonl", root=root, split="all", shots=1)
    episodes: Any = load_dataset("jsonl", root=root, split="all", shots=1, on_bad="skip")
    assert episodes.skipped["boxes_reversed"] == 1
    assert "line 25" in episodes.bad[0]
    (mine / "a/1.png").unlink()
    with pytest.raises(DatasetError, match=r"line 1: expected the picture 'a/1\.png' below"):
        load_dataset("jsonl", root=root, split="all", shots=1)


def test_annotations_without_boxes(mine: Path) -> None:
    root = write(mine, [dataclasses.replace(one, objects=()) for one in pictures_of(mine)])
    with pytest.raises(DatasetError, match="expected pictures with boxes, found none: no picture has a box"):
        load_dataset("jsonl", root=root, split="all", shots=1)


def test_pictures_elsewhere_and_sizes(mine: Path) -> None:
    write(mine, pictures_of(mine), "coco")
    labels = mine.parent / "labels.json"
    (mine / "annotations.json").rename(labels)
    options = {"split": "all", "shots": 2, "identity": "clip", "image_root": mine}
    episodes: Any = load_dataset("coco", root=labels, max_pixels=1000, **options)
    assert episodes[0].query_frame.image().shape[0] * episodes[0].query_frame.image().shape[1] <= 1000
    assert episodes.described.startswith("all pictures; ")


def test_in_the_environment(mine: Path) -> None:
    root = write(mine, pictures_of(mine), "coco")
    env = gymnasium.make(ENV_ID, dataset="coco", dataset_options={"root": root, "split": "train", "shots": 1})
    _, info = env.reset(options={"episode_index": 0})
    assert info["identity"].endswith("mug/1") or info["identity"].endswith("pen/2")


def test_names_in_the_order_that_people_expect() -> None:
    assert sorted(["a10", "a9", "b1", "a", "10"], key=natural) == ["10", "a", "a9", "a10", "b1"]


def test_numbers_of_tracks_are_those_of_their_clip_also_where_clips_are_joined(mine: Path) -> None:
    """Two clips of one look lie in one split, and their first tracks stay two objects."""
    shown = pictures_of(mine)
    for number in range(1, EACH + 1):
        scene(number).save(mine / f"f/{number}.png")  # clip f shows what clip a does
    root = write(mine, shown)
    found = [read_tracks(root, format="jsonl", split=split) for split in ("train", "val", "test")]
    assert found[0].rule.startswith("5 clips (told by folders and names, joined where pictures look alike)")
    identities = [{track.identity for track in one.tracks} for one in found]
    together = [one for one in identities if "a/mug/1" in one]
    assert ["f/mug/1" in one for one in together] == [True]
    assert all(not one.skipped for one in found)
