"""Writing annotations: nothing is replaced that was not meant to be, nothing bad is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from focus_env.annotations import (
    FORMATS,
    LabelledBox,
    LabelledPicture,
    count_parts,
    format_to_write,
    read_annotations,
    write_annotations,
)
from focus_env.types import Box
from tests.focus_env.annotations.samples import picture

SHOWN = LabelledPicture("a.jpg", (64, 48), (LabelledBox("mug", Box(1, 2, 30, 40)),))


def changed(**changes: Any) -> LabelledPicture:
    values = {"name": "a.jpg", "image_wh": (64, 48), "objects": SHOWN.objects} | changes
    return LabelledPicture(**values)


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        ([changed(name="../a.jpg")], "expected a name that is a relative path and does not go up"),
        ([changed(name="/a.jpg")], "expected a name that is a relative path"),
        ([changed(name="C:\\a.jpg")], "expected a name that is a relative path"),
        ([changed(name="")], "expected a name that is a relative path"),
        ([SHOWN, SHOWN], "picture 'a.jpg': expected one of each name, got 2"),
        ([changed(objects=(LabelledBox("", Box(1, 2, 3, 4)),))], "object 0 of picture 'a.jpg': expected a label"),
        ([changed(objects=(LabelledBox("mug", Box(3, 2, 1, 4)),))], "box of 'mug' in 'a.jpg' must be xyxy"),
        ([changed(objects=(LabelledBox("mug", Box(3, 2, 99, 4)),))], "box of 'mug' in 'a.jpg' must lie inside"),
        ([changed(objects=(LabelledBox("mug", Box(3, 2, float("nan"), 4)),))], "must be four finite numbers"),
    ],
)
@pytest.mark.parametrize("name", FORMATS.built_in)
def test_what_cannot_be_written(name: str, shown: list[LabelledPicture], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write_annotations(tmp_path / "out", shown, format=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FORMATS.built_in)
def test_nothing_is_overwritten_unless_asked(name: str, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out"
    entry = write_annotations(path, [SHOWN], format=name)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="out: expected a free path, found a file or folder there"):
        write_annotations(path, [changed(name="b.jpg")], format=name)
    assert sorted(tmp_path.rglob("*")) == before
    write_annotations(path, [changed(name="b.jpg")], format=name, overwrite=True)
    if entry.is_folder:
        assert not any(one.stem == "a" for one in path.rglob("*"))
    other = tmp_path / "other"
    other.mkdir() if not entry.is_folder else other.touch()
    with pytest.raises(ValueError, match="other: expected a f"):
        write_annotations(other, [SHOWN], format=name, overwrite=True)


def test_an_empty_folder_is_nothing(tmp_path: Path) -> None:
    write_annotations(tmp_path, [SHOWN], format="voc")
    assert (tmp_path / "Annotations/a.xml").is_file()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x.json", "coco"),
        ("x.JSON", "coco"),
        ("x.csv", "csv"),
        ("x.tsv", "csv"),
        ("x.jsonl", "jsonl"),
        ("x.xml", "cvat"),
    ],
)
def test_formats_by_their_endings(name: str, expected: str) -> None:
    assert format_to_write(Path(name)).name == expected


@pytest.mark.parametrize("name", ["x", "x.txt", "x.yaml", "folder/"])
def test_endings_that_say_nothing(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"expected one of the endings \.json, .*; yolo, voc, labelme, folder are folders"
    ):
        format_to_write(Path(name))


def test_two_pictures_that_differ_in_their_endings(tmp_path: Path) -> None:
    two = [changed(name=name) for name in ("a.jpg", "a.png", "b.jpg")]
    for name in ("a.jpg", "a.png", "b.jpg"):
        picture(tmp_path / "photos" / name)
    for name, files in (
        ("voc", ["a.jpg.xml", "a.png.xml", "b.xml"]),
        ("labelme", ["a.jpg.json", "a.png.json", "b.json"]),
    ):
        write_annotations(tmp_path / name, two, format=name)
        assert sorted(one.name for one in (tmp_path / name).rglob("*.*")) == files
        found = read_annotations(tmp_path / name, image_root=tmp_path / "photos", needs_pictures=True)
        assert [one.name for one in found.pictures] == ["a.jpg", "a.png", "b.jpg"]
    with pytest.raises(ValueError, match=r"picture 'a.jpg': expected names that differ in more than their endings"):
        write_annotations(tmp_path / "yolo", two, format="yolo")
    assert not (tmp_path / "yolo").exists()


def test_two_pictures_of_one_label_file(tmp_path: Path) -> None:
    """YOLO's names begin below its folder of pictures."""
    two = [changed(name=name) for name in ("images/a.jpg", "a.jpg")]
    with pytest.raises(ValueError, match=r"picture 'images/a.jpg': expected names that .* got 'a.jpg' beside it"):
        write_annotations(tmp_path / "yolo", two, format="yolo")
    assert not (tmp_path / "yolo").exists()
    write_annotations(tmp_path / "yolo", [changed(name="images/images")], format="yolo")
    assert (tmp_path / "yolo/labels/images.txt").is_file()


def test_pictures_are_copied_where_there_is_a_place(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"picture 'a\.jpg': expected its file to copy, found none"):
        write_annotations(tmp_path / "out", [SHOWN], format="yolo", copy_pictures=True)
    with pytest.raises(ValueError, match="annotation format 'coco' is one file"):
        write_annotations(tmp_path / "x.json", [SHOWN], copy_pictures=True)


def test_a_fault_on_the_way_leaves_all_as_it_was(tmp_path: Path) -> None:
    write_annotations(tmp_path / "out", [SHOWN], format="yolo")
    gone = changed(name="b.jpg", path=tmp_path / "no.jpg")
    with pytest.raises(OSError, match=r"no\.jpg"):
        write_annotations(tmp_path / "out", [gone], format="yolo", overwrite=True, copy_pictures=True)
    assert (tmp_path / "out/labels/a.txt").is_file()
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_parts_are_counted() -> None:
    objects = (LabelledBox("a", None, score=0.5), LabelledBox("b", Box(1, 2, 3, 4), "7", {"c": "d"}, 1.0))
    assert count_parts([changed(objects=objects)]) == {"score": 2, "absent": 1, "track": 1, "attributes": 1}
