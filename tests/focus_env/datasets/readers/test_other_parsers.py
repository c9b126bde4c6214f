"""Our readers against those of others, on the same folders: the same pictures, and the same boxes as they are written.

`got10k` is the toolkit of GOT-10k's authors, `trackeval` that of TAO's challenge.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from focus_env.datasets import Got10kTracks, LasotTracks, TaoTracks
from focus_env.datasets.readers.lasot import IPLOC_TEST, IPLOC_TRAIN, lasot_categories
from focus_env.types import Frame, Track
from tests.focus_env.datasets.readers.writers import (
    make_tao_annotations,
    write_got10k_sequence,
    write_lasot_lists,
    write_lasot_sequence,
    write_tao_annotations,
    write_tao_frames,
)
from tests.places import NO_REAL_FRAMES, REAL_FRAMES

ODD_BOXES = ["0,0,0,0", "1,1,0,0", "5,5,10,-3", "40,5,10,10", "-2,25,10,10", "3,4,5,6"]
"""No box, no box, a negative height, outside of 40 x 30 pixels, reaching beyond two borders, and one inside."""


def files(frames: Sequence[Frame]) -> list[str]:
    return [str(frame.source) for frame in frames]


def assert_same_boxes(track: Track, xywh: np.ndarray) -> None:
    """Ours are what of theirs lies in the picture; where nothing does, or a side is no length, there is none."""
    assert len(track.boxes) == len(xywh)
    for box, frame, (x, y, width, height) in zip(track.boxes, track.frames, xywh.tolist(), strict=True):
        left, right = np.clip([x, x + width], 0, frame.image_wh[0])
        top, bottom = np.clip([y, y + height], 0, frame.image_wh[1])
        if min(width, height) <= 0 or left >= right or top >= bottom:
            assert box is None
        else:
            assert box == (left, top, right, bottom)


def assert_same_got10k(root: Path, split: str) -> int:
    """Compare all sequences of a split; how many there are."""
    theirs = pytest.importorskip("got10k.datasets").GOT10k(str(root), subset=split)
    ours = Got10kTracks(root, split=split)
    assert len(ours) == len(theirs)
    for position, track in enumerate(ours):
        their_files, xywh = theirs[position]
        assert track.identity == theirs.seq_names[position]
        assert files(track.frames) == their_files
        assert_same_boxes(track, xywh)
    return len(ours)


def test_got10k_on_a_made_up_tree(tmp_path: Path) -> None:
    for name in ("a", "b"):
        boxes = ODD_BOXES if name == "a" else ["1.5,2.25,10,8.125"] * 3
        write_got10k_sequence(tmp_path / "val", name, boxes, [0] * len(boxes), object_class="dog")
    (tmp_path / "val" / "list.txt").write_text("b\na\n")
    assert assert_same_got10k(tmp_path, "val") == 2


@pytest.mark.parametrize("split", ["train", "val"])
def test_got10k_on_real_frames(split: str) -> None:
    root = REAL_FRAMES
    if not (root / split / "list.txt").is_file():
        pytest.skip(NO_REAL_FRAMES)
    assert assert_same_got10k(root, split) > 0


def their_lasot(root: Path, names: list[str]) -> Any:
    """Their LaSOT, set up by hand: the constructor of version 0.1.3 raises TypeError, the rest of the class works."""
    lasot = pytest.importorskip("got10k.datasets").LaSOT
    theirs = lasot.__new__(lasot)
    theirs.return_meta = True
    theirs.seq_names = names
    theirs.seq_dirs = [str(root / name.rpartition("-")[0] / name / "img") for name in names]
    theirs.anno_files = [os.path.join(os.path.dirname(folder), "groundtruth.txt") for folder in theirs.seq_dirs]
    return theirs


def test_lasot_on_a_made_up_tree(tmp_path: Path) -> None:
    names = ["zebra-14", "cup-2"]
    write_lasot_sequence(tmp_path, names[0], ODD_BOXES, hidden=[1, 0, 0, 0, 0, 1], out_of_view=[1, 0, 0, 1, 0, 0])
    write_lasot_sequence(tmp_path, names[1])
    write_lasot_lists(tmp_path, train=names, test=None)
    theirs, ours = their_lasot(tmp_path, names), LasotTracks(tmp_path, split="train")
    assert len(ours) == len(theirs)
    for position, track in enumerate(ours):
        their_files, xywh, meta = theirs[position]
        assert files(track.frames) == their_files
        assert_same_boxes(track, xywh)
        is_absent = (meta["full_occlusion"] == 1) | (meta["out_of_view"] == 1)
        assert [note == "flagged_absent" for note in track.notes] == is_absent.tolist()


def test_lasot_splits() -> None:
    """The splits that come with their package, against the categories that come with ours."""
    datasets = pytest.importorskip("got10k.datasets")
    splits = json.loads((Path(datasets.__file__).parent / "lasot.json").read_text())
    categories = {split: [name.rpartition("-")[0] for name in names] for split, names in splits.items()}
    assert tuple(sorted({*categories["train"], *categories["test"]})) == lasot_categories()
    assert sum(category in IPLOC_TEST for category in categories["test"]) == 144
    assert sum(category in IPLOC_TRAIN for category in categories["test"] + categories["train"]) == 680


def test_tao_on_a_made_up_folder(tmp_path: Path) -> None:
    reader = pytest.importorskip("trackeval.datasets.tao")
    data = make_tao_annotations()
    for annotation, box in zip(data["annotations"], ODD_BOXES, strict=False):
        annotation["bbox"] = [float(value) for value in box.split(",")]
    write_tao_annotations(tmp_path, data)
    write_tao_frames(tmp_path)
    theirs = reader.TAO(
        {
            "GT_FOLDER": str(tmp_path / "annotations"),
            "TRACKERS_FOLDER": "",
            "TRACKERS_TO_EVAL": [],
            "PRINT_CONFIG": False,
        }
    )
    ours = TaoTracks(tmp_path, split="train")
    names = {category["id"]: category["name"] for category in data["categories"]}
    file_names = {image["id"]: image["file_name"] for image in data["images"]}
    found = []
    for video, key in theirs.seq_name_to_seq_id.items():
        raw = theirs._load_raw_file(None, video, is_gt=True)
        times = {time: file_names[image] for image, time in theirs.seq_to_images_to_timestep[key].items()}
        for track in (track for track in ours if track.video.replace("/", "-") == video):
            number = int(track.identity.rpartition("/")[2])
            shown = [(time, ids.tolist().index(number)) for time, ids in enumerate(raw["gt_ids"]) if number in ids]
            assert [frame.name for frame in track.frames] == [times[time] for time, _ in shown]
            assert_same_boxes(track, np.array([raw["gt_dets"][time][row] for time, row in shown]))
            assert {names[raw["gt_classes"][time][row]] for time, row in shown} == {track.category}
            found.append(number)
        assert {number for ids in raw["gt_ids"] for number in ids} <= set(found)
    assert len(found) == len(ours) == 4
