"""The videos of LaSOT that TAO tests on, and that training leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest

from focus_env.datasets import load_dataset
from focus_env.datasets.readers.lasot import LasotTracks
from focus_env.datasets.readers.tao import tao_held_out_lasot_videos
from focus_env.errors import DatasetError
from tests.focus_env.datasets.readers.writers import (
    Json,
    make_tao_annotations,
    write_lasot_lists,
    write_lasot_sequence,
    write_tao_annotations,
)


def _with_names(*names: str) -> Json:
    return {"videos": [{"id": key, "name": name} for key, name in enumerate(names)]}


def test_lasot_videos_of_the_test_set_are_left_out_of_training(tmp_path: Path) -> None:
    for name in ("zebra-3", "zebra-14"):
        write_lasot_sequence(tmp_path / "lasot", name)
    write_lasot_lists(tmp_path / "lasot", train=["zebra-3", "zebra-14"], test=None)
    names = ("test/LaSOT/zebra-14", "test/LaSOT/cat-1", "test/YFCC100M/v_1", "test/BDD/LaSOT", "LaSOT", "LaSOT/dog-2")
    write_tao_annotations(tmp_path / "tao", _with_names(*names), file="test_without_annotations.json")
    found = tao_held_out_lasot_videos(tmp_path / "tao")
    assert found == {"zebra-14", "cat-1", "dog-2"}
    tracks = LasotTracks(tmp_path / "lasot", split="train", exclude=found)
    assert [track.identity for track in tracks] == ["zebra-3"]


@pytest.mark.parametrize("file", ["test.json", "tao_test_annotations.json", "test_without_annotations.json"])
def test_any_list_of_test_videos_will_do(tmp_path: Path, file: str) -> None:
    write_tao_annotations(tmp_path, _with_names("train/LaSOT/dog-1"), file="train.json")
    write_tao_annotations(tmp_path, _with_names("test/LaSOT/cat-1"), file=file)
    assert tao_held_out_lasot_videos(tmp_path) == {"cat-1"}


def test_videos_of_the_validation_set_are_held_out_too(tmp_path: Path) -> None:
    write_tao_annotations(tmp_path, _with_names("test/LaSOT/cat-1"), file="test.json")
    write_tao_annotations(tmp_path, _with_names("val/LaSOT/dog-1", "val/BDD/b-1"), file="validation.json")
    assert tao_held_out_lasot_videos(tmp_path) == {"cat-1", "dog-1"}


def test_joint_training_leaves_them_out(tmp_path: Path) -> None:
    for name in ("zebra-3", "zebra-14"):
        write_lasot_sequence(tmp_path / "lasot", name)
    write_lasot_lists(tmp_path / "lasot", train=["zebra-3", "zebra-14"], test=["zebra-3"])
    write_tao_annotations(tmp_path / "tao", make_tao_annotations())
    joint = {"name": "tao:0.001,lasot:0.999", "root": tmp_path, "shots": 1}
    with pytest.raises(DatasetError, match=r"test_without_annotations\.json: expected this file, found none"):
        load_dataset(**joint)
    write_tao_annotations(tmp_path / "tao", _with_names("test/LaSOT/zebra-14"), file="test.json")
    episodes = load_dataset(**joint)
    assert {episodes[index].identity for index in range(len(episodes))} == {"zebra-3"}
    # The sequences of LaSOT's own test set are what is asked for.
    assert len(load_dataset("lasot", root=tmp_path / "lasot", split="test", shots=1)) == 1


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (None, r"test\.json or .*test_without_annotations\.json: expected this file, found none; pass as `root`"),
        (_with_names("test/BDD/b-1"), r"test\.json: expected videos such as 'test/LaSOT/zebra-14', got none of LaSOT"),
        ({"videos": [{"id": 1}]}, r"test\.json, videos\[0\]: expected name to be a string.*got nothing"),
        ({}, r"test\.json: expected a list 'videos', got nothing"),
    ],
)
def test_without_the_lasot_videos_of_the_test_set_nothing_is_assumed(
    tmp_path: Path, data: Json | None, match: str
) -> None:
    if data is not None:
        write_tao_annotations(tmp_path, data, file="test.json")
    with pytest.raises(DatasetError, match=match):
        tao_held_out_lasot_videos(tmp_path)
