"""Pictures that belong together: by what names them, and by their looks."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from focus_env.annotations import LabelledPicture
from focus_env.datasets.clips import find_clips, named_clip, split_clips
from tests.focus_env.annotations.samples import SCENE_WH as WH
from tests.focus_env.annotations.samples import scene


def shown(folder: Path, name: str, image: Image.Image, clip: str = "") -> LabelledPicture:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return LabelledPicture(name, image.size, path=path, clip=clip)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kitchen_0012.jpg", "kitchen"),
        ("images/kitchen-frame12.png", "kitchen-frame"),
        ("train/JPEGImages/kitchen 7.jpg", "kitchen"),
        ("mug/kitchen/00000012.jpg", "mug/kitchen"),
        ("0012.jpg", ""),
        ("cup-1_jpg.rf.1a2b3c.jpg", "cup"),
        ("a/b.jpg", "a/b"),
        ("clip3_0001_left.jpg", "clip3"),
    ],
)
def test_clips_by_their_names(name: str, expected: str) -> None:
    assert named_clip(name) == expected


def test_frames_of_a_clip_are_together(tmp_path: Path) -> None:
    pictures = [
        shown(tmp_path, f"{clip}_{number:03d}.png", scene(10 * place + number))
        for place, clip in enumerate("abcd")
        for number in range(3)
    ]
    found = find_clips(pictures)
    assert found.names == tuple(name for name in "abcd" for _ in range(3))
    assert found.rule == "told by folders and names"


def test_what_annotations_tell_comes_first(tmp_path: Path) -> None:
    pictures = [shown(tmp_path, f"x_{number}.png", scene(number), clip=str(number // 2)) for number in range(6)]
    assert find_clips(pictures).names == ("0", "0", "1", "1", "2", "2")


def test_clips_that_share_a_look_are_one(tmp_path: Path) -> None:
    pictures = [
        shown(tmp_path, f"{clip}_{n}.png", scene(10 * place + n)) for place, clip in enumerate("abcd") for n in (1, 2)
    ]
    almost = scene(1).point(lambda level: min(255, level + 3))
    pictures.append(shown(tmp_path, "e_1.png", almost))  # the first of clip a, a little brighter
    found = find_clips(pictures)
    assert found.names == ("a", "a", "b", "b", "c", "c", "d", "d", "a")
    assert found.rule.endswith(", joined where pictures look alike")


def test_without_clips_each_picture_is_one_unless_they_look_alike(tmp_path: Path) -> None:
    pictures = [shown(tmp_path, f"IMG_{number:04d}.png", scene(number // 2)) for number in range(8)]
    found = find_clips(pictures)
    assert [found.names.index(name) for name in found.names] == [0, 0, 2, 2, 4, 4, 6, 6]
    assert found.rule == "each picture, joined where pictures look alike"


def test_pictures_that_all_look_alike_are_not_joined(tmp_path: Path) -> None:
    pictures = [shown(tmp_path, f"{clip}_{number}.png", Image.new("RGB", WH)) for clip in "abcd" for number in (1, 2)]
    found = find_clips(pictures)
    assert found.names == tuple("aabbccdd")
    assert found.rule.endswith("nearly all look alike, and are not joined for it")


def test_one_colour_each_is_another_look(tmp_path: Path) -> None:
    pictures = [shown(tmp_path, f"{number}.png", Image.new("RGB", WH, (40 * number, 0, 0))) for number in range(5)]
    assert len(set(find_clips(pictures).names)) == 5


def test_pictures_that_cannot_be_decoded_look_like_none(tmp_path: Path) -> None:
    pictures = [shown(tmp_path, f"{clip}_1.png", scene(0)) for clip in "abcd"]
    for one in pictures[1:]:
        assert one.path is not None
        one.path.write_bytes(b"no picture")
    assert find_clips(pictures).names == tuple("abcd")


@pytest.mark.parametrize(
    ("num_clips", "expected"),
    [
        (0, (0, 0, 0)),
        (1, (1, 0, 0)),
        (2, (1, 1, 0)),
        (3, (1, 1, 1)),
        (8, (4, 2, 2)),
        (10, (6, 2, 2)),
        (100, (60, 20, 20)),
    ],
)
def test_shares_of_the_splits(num_clips: int, expected: tuple[int, int, int]) -> None:
    splits = split_clips([f"clip{number}" for number in range(num_clips)])
    found = list(splits.values())
    assert (found.count("train"), found.count("val"), found.count("test")) == expected
    assert splits == split_clips([f"clip{number}" for number in reversed(range(num_clips))] * 2)
