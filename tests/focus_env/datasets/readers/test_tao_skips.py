"""A wrong entry of TAO's file, where what is bad is left out."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from focus_env.datasets import TaoTracks, load_dataset
from focus_env.errors import DatasetError
from tests.focus_env.datasets.readers.writers import make_tao_annotations, write_tao_annotations, write_tao_frames


@pytest.mark.parametrize(
    "change",
    [
        {"bbox": [1, 2, "x", 4]},
        {"bbox": [1, 2, 3]},
        {"bbox": [1, 2, float("nan"), 4]},
        {"image_id": 999},
        {"category_id": "7"},
        {"id": None},
    ],
    ids=str,
)
def test_it_costs_its_track_alone(tmp_path: Path, change: dict[str, Any]) -> None:
    data = make_tao_annotations()
    bad = data["annotations"][0]["track_id"]
    data["annotations"][0] |= change
    write_tao_annotations(tmp_path, data)
    write_tao_frames(tmp_path)
    tracks = TaoTracks(tmp_path, split="train", skips=True)
    ids = [key.identity.rpartition("/")[2] for key in tracks._keys]
    with pytest.raises(DatasetError, match=r"annotations\[0\]: expected "):
        tracks[ids.index(str(bad))]
    dataset: Any = load_dataset("tao", root=tmp_path, split="train", shots=1, on_bad="skip", protocol="random")
    assert dataset.skipped["tracks_bad"] == 1
    assert len(dataset) > 0
    assert not any(dataset[index].identity.endswith(f"/{bad}") for index in range(len(dataset)))


ALL = {11, 12, 13, 21}
CASES: dict[str, tuple[Callable[[Any], object], set[object], str]] = {
    # What is done to the file, the tracks that it costs, and what is said of the first of them.
    "an image without a size": (
        lambda d: d["images"][0].pop("width"),
        {13},
        r"images\[0\]: expected width to be a whole",
    ),
    "an image of no size": (
        lambda d: d["images"][0].update(height=0),
        {13},
        r"images\[0\]: expected a width and height",
    ),
    "an image without a file": (
        lambda d: d["images"][0].update(file_name=""),
        {13},
        r"images\[0\]: expected file_name",
    ),
    "a file outside": (
        lambda d: d["images"][0].update(file_name="../a.jpg"),
        {13},
        r"images\[0\]: expected a path below",
    ),
    "a file twice": (
        lambda d: d["images"][0].update(file_name=d["images"][5]["file_name"]),
        {11, 12},
        r"images\[5\]: expected file_name to be its own",
    ),
    "an image's id twice": (
        lambda d: d["images"].append(d["images"][0]),
        {13},
        r"images\[12\]: expected id to be its own",
    ),
    "an image without an id": (lambda d: d["images"][0].pop("id"), {13}, r"expected (image_)?id to be"),
    "an image that is no object": (lambda d: d["images"].append(7), set(), "expected"),
    "a video without a name": (
        lambda d: d["videos"][1].pop("name"),
        {21, 22},
        r"videos\[1\]: expected name to be a string",
    ),
    "a video's name twice": (
        lambda d: d["videos"].append({"id": 9, "name": d["videos"][0]["name"]}),
        set(),
        "expected",
    ),
    "a video's id twice": (
        lambda d: d["videos"].append(d["videos"][1]),
        {21, 22},
        r"videos\[2\]: expected id to be its own",
    ),
    "a track's category": (
        lambda d: d["tracks"][1].update(category_id="7"),
        {11},
        r"tracks\[1\]: expected category_id",
    ),
    "a track of no video": (
        lambda d: d["tracks"][1].update(video_id=99),
        {11},
        r"tracks\[1\]: expected video_id to be an id",
    ),
    "a track's id twice": (
        lambda d: d["tracks"].append(d["tracks"][1]),
        {11},
        r"tracks\[5\]: expected id to be its own",
    ),
    "a track without an id": (
        lambda d: d["tracks"][1].pop("id"),
        {11, "no id"},
        r"expected (track_)?id to be",
    ),
    "a category without a name": (lambda d: d["categories"][2].update(name=7), {13}, r"categories\[2\]: expected name"),
    "a category's merged": (
        lambda d: d["categories"][2].update(merged=7),
        {13},
        r"categories\[2\]: expected merged to be",
    ),
    "two categories into each other": (
        lambda d: d["categories"][0].update(merged=[{"id": 7}]),
        {11, 12, 21, 22},
        "expected one of two categories",
    ),
    "an annotation that is no object": (
        lambda d: d["annotations"].append(7),
        {"no id"},
        r"annotations\[20\]: expected an object",
    ),
    "an annotation of no track": (
        lambda d: d["annotations"].append(d["annotations"][0] | {"id": 1, "track_id": 999}),
        {999},
        "got 999",
    ),
    "an annotation's id twice": (
        lambda d: d["annotations"].append(d["annotations"][0]),
        {13},
        r"annotations\[20\]: expected id to be its own",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_any_bad_entry_costs_the_tracks_that_need_it(tmp_path: Path, name: str) -> None:
    change, costs, message = CASES[name]
    data = make_tao_annotations()
    change(data)
    write_tao_annotations(tmp_path, data)
    write_tao_frames(tmp_path)
    with pytest.raises(DatasetError, match=message):
        TaoTracks(tmp_path, split="train")
    tracks = TaoTracks(tmp_path, split="train", skips=True)
    bad: list[str] = []
    for index in range(len(tracks)):
        try:
            tracks[index]
        except DatasetError as error:
            bad.append(str(error))
    assert len(bad) == len(costs)
    assert not bad or re.search(message, bad[0])
    dataset: Any = load_dataset("tao", root=tmp_path, split="train", shots=1, on_bad="skip", protocol="random")
    assert dataset.skipped.get("tracks_bad", 0) == len(costs)
    found = {int(dataset[index].identity.rpartition("/")[2]) for index in range(len(dataset))}
    assert found == ALL - costs


@pytest.mark.parametrize("key", ["videos", "images", "tracks", "categories", "annotations"])
def test_without_one_of_its_lists_the_file_is_of_no_use(tmp_path: Path, key: str) -> None:
    data = make_tao_annotations()
    data[key] = {"id": 1}
    write_tao_annotations(tmp_path, data)
    with pytest.raises(DatasetError, match=f"expected a list '{key}'"):
        TaoTracks(tmp_path, split="train", skips=True)


def test_one_that_names_no_track_ends_the_split_where_nothing_is_skipped(tmp_path: Path) -> None:
    data = make_tao_annotations()
    data["annotations"][0]["track_id"] = 999
    write_tao_annotations(tmp_path, data)
    with pytest.raises(DatasetError, match=r"annotations\[0\]: expected track_id to be an id in the file, got 999"):
        TaoTracks(tmp_path, split="train")
