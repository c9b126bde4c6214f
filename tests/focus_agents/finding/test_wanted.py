"""What is looked for: supports as texts, from files of annotations, and as people have them in Python."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from focus_agents.finding.wanted import (
    as_wanted,
    given_boxes,
    joined,
    read_support,
    wanted_of_file,
    wanted_of_texts,
)
from focus_env.annotations import LabelledBox, LabelledPicture, write_annotations
from focus_env.errors import DatasetError
from focus_env.types import Box
from tests.focus_agents.finding.scenes import scene, square, write

BOX = Box(10, 20, 80.5, 120)


@pytest.mark.parametrize(
    ("text", "path", "label"),
    [
        ("a.jpg:10,20,80.5,120", "a.jpg", ""),
        ("a.jpg:10, 20 ,80.5,120:mug", "a.jpg", "mug"),
        ("a.jpg:10,20,80.5,120: my red, big mug ", "a.jpg", "my red, big mug"),
        (r"C:\photos\a.jpg:10,20,80.5,120", r"C:\photos\a.jpg", ""),
        (r"C:\photos\a.jpg:10,20,80.5,120:mug", r"C:\photos\a.jpg", "mug"),
        ("12:30, a b:ü.jpg:10,20,80.5,120", "12:30, a b:ü.jpg", ""),
        ("1,2,3,4:10,20,80.5,120", "1,2,3,4", ""),
    ],
)
def test_a_support_as_a_text(text: str, path: str, label: str) -> None:
    assert read_support(text) == (Path(path), BOX, label)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg", "expected PICTURE:x1,y1,x2,y2 with four numbers in pixels, such as a.jpg:10,20,80,120, found no box"),
        ("a.jpg:1,2,3", "got the box '1,2,3'"),
        ("a.jpg:1,2,3,nan", "got the box '1,2,3,nan'"),
        ("a.jpg:1,2,3,4,5:mug", "got the box '1,2,3,4,5'"),
        ("a.jpg:1_0,2,3,4", "got the box '1_0,2,3,4'"),
        (":1,2,3,4", "expected a picture beside the box"),
        ("a.jpg:1,2,3,4:", "expected a name beside the box"),
        ("", "found no box"),
    ],
)
def test_a_text_that_is_no_support(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_support(text)
    assert str(caught.value).startswith(f"support {text!r}: ")


def test_texts_of_several_objects(tmp_path: Path) -> None:
    file = write(tmp_path / "a.png", (8, 8))
    mug, cup = wanted_of_texts([f"{file}:8,8,24,24:mug", f"{file}:1,2,3,4:cup", f"{file}:9,9,20,20:mug"])
    assert [one.label for one in (mug, cup)] == ["mug", "cup"]
    assert [box for _, box in mug.supports] == [Box(8, 8, 24, 24), Box(9, 9, 20, 20)]
    assert mug.supports[0][0] is cup.supports[0][0], "decoded once"
    assert given_boxes(mug, tmp_path / "a.png") == [Box(8, 8, 24, 24), Box(9, 9, 20, 20)]
    (tmp_path / "link.png").symlink_to(file)
    assert given_boxes(cup, tmp_path / "link.png") == [Box(1, 2, 3, 4)]
    assert given_boxes(cup, tmp_path / "other.png") == given_boxes(cup, None) == []


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ("8,8,24,99", "must lie inside the image of (80, 60)"),
        ("24,8,8,24", "must be xyxy with x1 < x2"),
        ("8,8,8,24", "must be xyxy with x1 < x2"),
        ("0.1,0.1,0.5,0.5", "shares"),
    ],
)
def test_a_box_that_is_none_in_its_picture(box: str, message: str, tmp_path: Path) -> None:
    file = write(tmp_path / "a.png", (8, 8))
    with pytest.raises(ValueError, match=re.escape(message)):
        wanted_of_texts([f"{file}:{box}"])


def test_a_picture_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no.png: expected a picture, found no file"):
        wanted_of_texts([f"{tmp_path}/no.png:1,2,3,4"])


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """A COCO file with mugs in ten pictures, and a cup and a crowd in one."""
    pictures = []
    for number in range(10):
        path = write(tmp_path / f"{number}.png", (number, 8))
        objects = [LabelledBox("mug", square((number, 8)))]
        if number == 3:
            crowd = LabelledBox("mug", Box(0, 0, 80, 60), attributes={"iscrowd": "true"})
            objects += [LabelledBox("cup", Box(1, 2, 30, 40)), crowd]
        pictures.append(LabelledPicture(path.name, (80, 60), tuple(objects), path))
    write_annotations(tmp_path / "x.json", pictures)
    return tmp_path / "x.json"


def test_supports_from_annotations(labelled: Path) -> None:
    (mug, cup), left_out = wanted_of_file(labelled, shots=4)
    assert left_out == []
    assert (mug.label, mug.num_known, [file and file.name for file in mug.files]) == (
        "mug", 10, ["0.png", "3.png", "6.png", "9.png"],
    )  # fmt: skip
    assert (cup.label, cup.num_known, len(cup.supports)) == ("cup", 1, 1)
    assert cup.supports[0][0] is mug.supports[1][0]
    (only,), _ = wanted_of_file(labelled, names=["cup"], shots=1)
    assert only.label == "cup"
    (labelled.parent / "6.png").unlink()
    (mug, _), left_out = wanted_of_file(labelled, shots=100)
    assert mug.num_known == 9
    assert "6.png" in left_out[0]


def test_annotations_without_what_is_asked_for(labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected boxes of 'Mug', found 'mug', 'cup'"):
        wanted_of_file(labelled, names=["Mug"])
    write_annotations(tmp_path / "none.json", [LabelledPicture("1.png", (80, 60))])
    with pytest.raises(ValueError, match=r"none.json: expected boxes to look for, found none"):
        wanted_of_file(tmp_path / "none.json")


def test_supports_in_python(tmp_path: Path) -> None:
    file = write(tmp_path / "a.png", (8, 8))
    pixels = np.asarray(scene((8, 8)))
    (one,) = as_wanted([(file, square((8, 8))), (pixels, (1, 2, 3, 4))])
    assert (one.label, one.files) == ("object", (file, None))
    found = as_wanted({"mug": [(file, [8, 8, 24, 24])], "cup": f"{file}:1,2,3,4", "cap": [f"{file}:1,2,3,4"]})
    assert [(one.label, len(one.supports)) for one in found] == [("mug", 1), ("cup", 1), ("cap", 1)]
    assert [one.label for one in joined([*found, *found])] == ["mug", "cup", "cap"]
    assert as_wanted(found)[0].supports == found[0].supports


@pytest.mark.parametrize(
    ("supports", "message"),
    [
        ([], "expected at least one picture with a box, got none"),
        ({}, "expected at least one object, got none"),
        ({"mug": []}, "expected at least one picture with a box"),
        ({" ": ["{file}:1,2,3,4"]}, "expected a name of each object, got ' '"),
        ({"mug": ["{file}:1,2,3,4:cup", "{file}:1,2,3,4:cap"]}, "supports of 'mug': expected supports without a name"),
        (7, "supports: expected at least one picture with a box"),
    ],
)
def test_no_supports_in_python(supports: object, message: str, tmp_path: Path) -> None:
    file = write(tmp_path / "a.png", (8, 8))
    if isinstance(supports, dict):
        supports = {label: [text.format(file=file) for text in texts] for label, texts in supports.items()}
    with pytest.raises(ValueError, match=re.escape(message)):
        as_wanted(supports)


def test_a_digest_tells_objects_apart(tmp_path: Path) -> None:
    file = write(tmp_path / "a.png", (8, 8))
    digests = {
        wanted_of_texts([text.format(file)])[0].digest()
        for text in ("{}:1,2,3,4", "{}:1,2,3,5", "{}:1,2,3,4:mug", "{}:1,2,3,4")
    }
    assert len(digests) == 3
