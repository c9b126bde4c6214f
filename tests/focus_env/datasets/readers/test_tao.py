"""TAO: what is read from its annotation file, and what is made of one that is wrong."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from focus_env.datasets import TaoTracks, dataset_names, load_dataset
from focus_env.datasets.sampler import TrackEpisodes
from focus_env.errors import DatasetError
from focus_env.types import Box, Episode
from tests.contracts import assert_dataset_contract
from tests.focus_env.datasets.readers.writers import (
    Json,
    make_tao_annotations,
    tao_file_name,
    tao_image_id,
    write_tao_annotations,
    write_tao_frames,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_tao_annotations(tmp_path, make_tao_annotations())
    write_tao_frames(tmp_path)
    return tmp_path


def every(dataset: Any) -> Iterator[Episode]:
    return (dataset[index] for index in range(len(dataset)))


def test_sound_tracks(root: Path) -> None:
    tracks = TaoTracks(root, split="train")
    assert [track.identity.rpartition("/")[2] for track in tracks] == ["13", "11", "12", "21"]
    track = tracks[2]
    assert (track.identity, track.video) == ("train/YFCC100M/v_1/12", "train/YFCC100M/v_1")
    # Neither images nor annotations are in the order of time.
    assert [frame.name for frame in track.frames] == [tao_file_name(1, number) for number in range(5)]
    assert track.boxes == tuple(Box(number + 3.0, 5.0, number + 13.5, 13.0) for number in range(5))
    assert set(track.notes) == {""}
    assert {frame.image_wh for frame in track.frames} == {(40, 30)}
    assert track.frames[0].image().shape == (30, 40, 3)
    assert tracks[3].frames[0].image_wh == (32, 48)
    assert [track.identity for track in tracks[-1:]] == ["train/LaSOT/zebra-14/21"]


def test_merged_categories(root: Path) -> None:
    categories = {track.identity[-2:]: track.category for track in TaoTracks(root, split="train")}
    assert categories == {"11": "person", "12": "person", "13": "bicycle", "21": "person"}


def test_an_annotation_may_have_its_category_merged_already(root: Path) -> None:
    data = make_tao_annotations()
    for annotation in data["annotations"]:
        annotation["category_id"] = {3: 7}.get(annotation["category_id"], annotation["category_id"])
    write_tao_annotations(root, data)
    assert TaoTracks(root, split="train")[1].category == "person"


def test_focus_takes_the_track_with_most_annotations(root: Path) -> None:
    episodes = load_dataset("tao", root=root, shots=2)
    assert isinstance(episodes, TrackEpisodes)
    # Tracks 12 and 13 have as many; 13 is annotated first, though 12 is the first of the two among the tracks.
    assert [episode.identity for episode in every(episodes)] == ["train/YFCC100M/v_1/13", "train/LaSOT/zebra-14/21"]
    assert dict(episodes.skipped) == {"tracks_shorter": 2}
    first = episodes[0]
    assert [exemplar.frame.name for exemplar in first.support] == [tao_file_name(1, 1), tao_file_name(1, 3)]
    assert first.query_frame.name == tao_file_name(1, 5)


def test_focus_counts_annotations_and_not_boxes(root: Path) -> None:
    data = make_tao_annotations()
    for annotation in data["annotations"]:
        if annotation["track_id"] == 13 and annotation["image_id"] != tao_image_id(1, 5):
            annotation["bbox"] = [0, 0, 0, 0]
    write_tao_annotations(root, data)
    episodes = load_dataset("tao", root=root, shots=2)
    assert isinstance(episodes, TrackEpisodes)
    assert [episode.identity for episode in every(episodes)] == ["train/LaSOT/zebra-14/21"]
    assert dict(episodes.skipped) == {"tracks_shorter": 2, "tracks_too_short": 1}


@pytest.mark.parametrize(
    ("case", "bbox", "expected", "note"),
    [
        ("all zeros", [0, 0, 0, 0], None, "no_size"),
        ("no width", [5, 5, 0.0, 10], None, "no_size"),
        ("negative height", [5, 5, 10, -3], None, "negative_size"),
        ("outside", [-20, 5, 10, 10], None, "outside"),
        ("reaching beyond two borders", [-2.5, 25, 10, 10], Box(0.0, 25.0, 7.5, 30.0), ""),
        ("as large as the picture", [0, 0, 40, 30], Box(0.0, 0.0, 40.0, 30.0), ""),
        ("tiny", [5, 5, 0.25, 0.25], Box(5.0, 5.0, 5.25, 5.25), ""),
    ],
)
def test_boxes(root: Path, case: str, bbox: list[float], expected: Box | None, note: str) -> None:
    data = make_tao_annotations()
    assert data["annotations"][1]["track_id"] == 11
    data["annotations"][1]["bbox"] = bbox
    write_tao_annotations(root, data)
    track = TaoTracks(root, split="train")[1]
    assert track.boxes == (expected, *(Box(x + 2.75, 5.0, x + 13.25, 13.0) for x in (1, 2, 3)))
    assert track.notes == (note, "", "", "")


@pytest.mark.parametrize(
    ("split", "files", "expected"),
    [
        ("train", ["train.json", "validation.json", "test.json"], "train.json"),
        ("val", ["train.json", "validation.json", "test.json"], "validation.json"),
        ("test", ["train.json", "tao_test_annotations.json", "test.json"], "test.json"),
        ("test", ["train.json", "tao_test_annotations.json"], "tao_test_annotations.json"),
    ],
)
def test_splits(tmp_path: Path, split: str, files: list[str], expected: str) -> None:
    for file in files:
        data = make_tao_annotations()
        data["categories"][2]["name"] = file
        write_tao_annotations(tmp_path, data, file=file)
    assert TaoTracks(tmp_path, split=split)[0].category == expected


def test_an_unknown_split(root: Path) -> None:
    with pytest.raises(ValueError, match=r"split must be one of \('train', 'val', 'test'\), got 'dev'"):
        TaoTracks(root, split="dev")


def _set(path: str, value: object) -> Callable[[Json], object]:
    """Put a value where a path such as ``annotations/3/bbox`` leads."""

    def change(data: Any) -> None:
        *parents, last = (int(part) if part.isdecimal() else part for part in path.split("/"))
        for part in parents:
            data = data[part]
        data[last] = value

    return change


def _drop(path: str) -> Callable[[Json], object]:
    def change(data: Any) -> None:
        *parents, last = (int(part) if part.isdecimal() else part for part in path.split("/"))
        for part in parents:
            data = data[part]
        del data[last]

    return change


def _repeat(key: str) -> Callable[[Json], object]:
    return lambda data: data[key].append(copy.deepcopy(data[key][0]))


def _repeat_under_another_id(key: str) -> Callable[[Json], object]:
    return lambda data: data[key].append({**data[key][0], "id": 99_999})


FOUR_NUMBERS = r"annotations\[3\]: expected bbox to be \[x_min, y_min, width, height\], four finite numbers, got "


@pytest.mark.parametrize(
    ("case", "spoil", "match"),
    [
        ("no images", _drop("images"), r"train\.json: expected a list 'images', got nothing"),
        ("no videos", _drop("videos"), r"train\.json: expected a list 'videos', got nothing"),
        ("no tracks", _drop("tracks"), r"train\.json: expected a list 'tracks', got nothing"),
        ("no categories", _set("categories", None), r"train\.json: expected a list 'categories', got None"),
        ("no list", _set("annotations", {"0": {}}), r"train\.json: expected a list 'annotations', got \{'0'"),
        ("no entry", _set("annotations/3", [1, 2]), r"train\.json, annotations\[3\]: expected an object, got \[1, 2\]"),
        ("no id", _drop("annotations/3/id"), r"annotations\[3\]: expected id to be a whole number, got nothing"),
        ("no box", _drop("annotations/3/bbox"), r"annotations\[3\]: expected bbox to be a list, got nothing"),
        ("no track", _drop("annotations/3/track_id"), r"annotations\[3\]: expected track_id to be .* got nothing"),
        ("no category", _drop("annotations/3/category_id"), r"annotations\[3\]: expected category_id to be"),
        ("no image", _drop("annotations/3/image_id"), r"annotations\[3\]: expected image_id to be"),
        ("no video", _drop("tracks/1/video_id"), r"tracks\[1\]: expected video_id to be"),
        ("no time", _drop("images/4/frame_index"), r"images\[4\]: expected frame_index to be a whole number"),
        ("time is NaN", _set("images/4/frame_index", float("nan")), r"images\[4\]: expected frame_index .*got nan"),
        ("an id that is text", _set("tracks/0/id", "21"), r"tracks\[0\]: expected id to be a whole number, got '21'"),
        ("an id that is true", _set("videos/0/id", True), r"videos\[0\]: expected id to be a whole number, got True"),
        ("an id with a point", _set("categories/1/id", 7.0), r"categories\[1\]: expected id to be .* got 7\.0"),
        ("a name that is none", _set("videos/1/name", 3), r"videos\[1\]: expected name to be a string.*got 3"),
        ("an empty name", _set("videos/1/name", ""), r"videos\[1\]: expected name to be a string that is not empty"),
        ("no category name", _drop("categories/0/name"), r"categories\[0\]: expected name to be a string"),
        ("box of three", _set("annotations/3/bbox", [1, 2, 3]), FOUR_NUMBERS + r"\[1, 2, 3\]"),
        ("box of five", _set("annotations/3/bbox", [1, 2, 3, 4, 5]), FOUR_NUMBERS),
        ("box of words", _set("annotations/3/bbox", [1, 2, 3, "4"]), FOUR_NUMBERS + r"\[1, 2, 3, '4'\]"),
        ("box of truth", _set("annotations/3/bbox", [1, 2, True, 4]), FOUR_NUMBERS),
        ("box is null", _set("annotations/3/bbox", None), r"annotations\[3\]: expected bbox to be a list, got None"),
        ("box with NaN", _set("annotations/3/bbox", [1, 2, 3, float("nan")]), FOUR_NUMBERS + r"\[1, 2, 3, nan\]"),
        ("box without end", _set("annotations/3/bbox", [1, 2, float("inf"), 4]), FOUR_NUMBERS),
        ("beyond all floats", _set("annotations/3/bbox", [1, 2, 10**400, 4]), FOUR_NUMBERS),
        ("unknown image", _set("annotations/3/image_id", 5), r"annotations\[3\]: expected image_id to be an id.*got 5"),
        ("unknown track", _set("annotations/3/track_id", 5), r"annotations\[3\]: expected track_id to be an id.*got 5"),
        ("category of another", _set("annotations/3/category_id", 5), r"annotations\[3\]: expected category 7,.*got 5"),
        ("category unknown", _set("annotations/3/category_id", 6), r"annotations\[3\]: expected category 7,.*got 6"),
        ("track's unknown", _set("tracks/1/category_id", 6), r"tracks\[1\]: expected category_id to be an id.*got 6"),
        ("track of no video", _set("tracks/1/video_id", 6), r"tracks\[1\]: expected video_id to be an id.*got 6"),
        ("image of no video", _set("images/4/video_id", 6), r"images\[4\]: expected video_id to be an id.*got 6"),
        (
            "image of another video",
            _set("annotations/3/image_id", tao_image_id(2, 3)),
            r"annotations\[3\]: expected an image of video 1, as track 12 has it, got 2",
        ),
        ("annotation twice", _repeat("annotations"), r"annotations\[20\]: expected id to be its own, got 1000"),
        ("image twice", _repeat("images"), r"images\[12\]: expected id to be its own, got 105"),
        ("track twice", _repeat("tracks"), r"tracks\[5\]: expected id to be its own, got 21"),
        ("video twice", _repeat("videos"), r"videos\[2\]: expected id to be its own, got 1"),
        ("category twice", _repeat("categories"), r"categories\[3\]: expected id to be its own, got 3"),
        ("one name", _repeat_under_another_id("videos"), r"videos\[2\]: expected name to be its own, got 'train/YFCC"),
        ("one file", _repeat_under_another_id("images"), r"images\[12\]: expected file_name to be its own, got 'trai"),
        (
            "two boxes of a track in an image",
            _repeat_under_another_id("annotations"),
            r"annotations\[20\]: expected one box of track 13 in image 105, got another",
        ),
        ("no width", _set("images/4/width", 0), r"images\[4\]: expected a width and height from 1.*got 0 x 30"),
        ("negative height", _set("images/4/height", -30), r"images\[4\]: expected a width and.*got 40 x -30"),
        ("width with a point", _set("images/4/width", 40.0), r"images\[4\]: expected width to be a whole .*got 40\.0"),
        ("a bomb", _set("images/4/width", 10**9), r"images\[4\]: .* at most 64000000 pixels, got 1000000000 x 30"),
        (
            "upwards",
            _set("images/4/file_name", "../a.jpg"),
            r"images\[4\]: expected a path below .*frames, got '\.\./a",
        ),
        ("absolute", _set("images/4/file_name", "/etc/a.jpg"), r"images\[4\]: expected a path below .*got '/etc/a"),
        ("merged is no list", _set("categories/1/merged", 3), r"categories\[1\]: expected merged to be a list .*got 3"),
        ("merged has ids only", _set("categories/1/merged", [3]), r"categories\[1\]: expected merged .* with an id"),
        (
            "merged twice",
            _set("categories/2/merged", [{"id": 3}]),
            r"categories\[2\]: expected each category to be merged into one, got 3, which is also merged into 7",
        ),
    ],
)
def test_malformed_files_are_named(tmp_path: Path, case: str, spoil: Callable[[Json], object], match: str) -> None:
    data = make_tao_annotations()
    spoil(data)
    path = write_tao_annotations(tmp_path, data)
    with pytest.raises(DatasetError, match=match) as raised:
        TaoTracks(tmp_path, split="train")
    assert str(raised.value).startswith(str(path))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[]", r"train\.json: expected an object, got \[\]; pass as `root`"),
        ("null", r"train\.json: expected an object, got None"),
        ('{"videos": [', r"train\.json: expected JSON, got something else"),
        ("", r"train\.json: expected JSON, got something else"),
    ],
)
def test_files_that_hold_something_else(tmp_path: Path, text: str, match: str) -> None:
    write_tao_annotations(tmp_path, None).write_text(text)
    with pytest.raises(DatasetError, match=match):
        TaoTracks(tmp_path, split="train")


@pytest.mark.parametrize(
    ("split", "match"),
    [
        ("train", r"annotations.train\.json: expected this file, found none; pass as `root` the folder that holds"),
        ("val", r"annotations.validation\.json: expected this file, found none"),
        ("test", r"test\.json or .*tao_test_annotations\.json: expected this file, found none; TAO-Amodal has the"),
    ],
)
def test_a_missing_file(tmp_path: Path, split: str, match: str) -> None:
    write_tao_annotations(tmp_path, make_tao_annotations(), file="test_without_annotations.json")
    with pytest.raises(DatasetError, match=match):
        TaoTracks(tmp_path, split=split)


def test_a_link_out_of_the_frames(tmp_path: Path) -> None:
    root = tmp_path / "tao"
    write_tao_annotations(root, make_tao_annotations())
    write_tao_frames(root)
    (root / "frames" / tao_file_name(2, 5)).rename(tmp_path / "outside.jpg")
    (root / "frames" / tao_file_name(2, 5)).symlink_to(tmp_path / "outside.jpg")
    with pytest.raises(DatasetError, match=r"train\.json, images\[6\]: expected a path below .*a link to .*outside"):
        TaoTracks(root, split="train")


def test_all_frames_may_lie_on_another_disk(tmp_path: Path) -> None:
    write_tao_frames(tmp_path / "disk")
    write_tao_annotations(tmp_path / "tao", make_tao_annotations())
    (tmp_path / "tao" / "frames").symlink_to(tmp_path / "disk" / "frames")
    assert TaoTracks(tmp_path / "tao", split="train")[0].frames[0].image().shape == (30, 40, 3)


def test_frames_are_opened_when_they_are_asked_for(root: Path) -> None:
    (root / "frames" / tao_file_name(1, 5)).unlink()
    Image.new("RGB", (9, 9)).save(root / "frames" / tao_file_name(2, 5))
    missing, of_another_size = load_dataset("tao", root=root, shots=2)[0], load_dataset("tao", root=root, shots=2)[1]
    with pytest.raises(DatasetError, match=r"frame0005\.jpg': expected the file .*found none"):
        missing.query_frame.image()
    with pytest.raises(DatasetError, match=r"frame0005\.jpg': expected 32 x 48 pixels, got 9 x 9"):
        of_another_size.query_frame.image()
    left_out = TrackEpisodes(TaoTracks(root, split="train"), shots=2, on_bad="skip")
    # Tracks 13 and 21 have those frames; of the others of their videos, 12 is the longest.
    assert [episode.identity for episode in every(left_out)] == ["train/YFCC100M/v_1/12"]
    assert left_out.skipped["tracks_bad"] == 2


def test_tracks_are_read_from_memory_and_travel_as_numbers_and_names(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracks = TaoTracks(root, split="train")
    expected = tracks[:]
    pickled = pickle.dumps(tracks)
    (root / "annotations" / "train.json").unlink()
    monkeypatch.setattr("PIL.Image.open", None)
    tracks = pickle.loads(pickled)
    assert [(track.identity, track.boxes, track.notes) for track in tracks] == [
        (track.identity, track.boxes, track.notes) for track in expected
    ]
    assert [[frame.source for frame in track.frames] for track in tracks] == [
        [frame.source for frame in track.frames] for track in expected
    ]


def test_contract_on_a_made_up_tree(root: Path) -> None:
    assert "tao" in dataset_names()
    for protocol in ("focus", "random"):
        episodes = load_dataset("tao", root=root, shots=3, protocol=protocol)  # type: ignore[arg-type]
        assert_dataset_contract(episodes, shots=3)
    # At random, each track counts, not each video.
    assert {episode.identity[-2:] for episode in every(episodes)} == {"11", "12", "13", "21"}
