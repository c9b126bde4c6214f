"""What is written comes back: from each format into each other, within half a pixel."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from focus_env.annotations import (
    FORMATS,
    AnnotationFormat,
    LabelledBox,
    LabelledPicture,
    format_named,
    format_of,
    read_annotations,
    write_annotations,
)
from focus_env.types import Box
from tests.focus_env.annotations.samples import EXIF_TURN, picture

WH = {"a.jpg": (640, 480), "b c/ü.png": (33, 57), "b c/one.jpg": (4001, 3)}
NAMES = tuple(FORMATS.built_in)
PLAIN = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

labels = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=9)
labels = labels.map(str.strip).filter(lambda text: text and not text.startswith(("absent", ",", ";", "，", "；")))


@st.composite
def boxes_in(draw: st.DrawFn, wh: tuple[int, int]) -> Box:
    corners = [sorted(draw(st.tuples(*[st.floats(0, side, width=32)] * 2))) for side in wh]
    (x1, x2), (y1, y2) = corners
    # One in the first pixel alone would be taken for shares.
    return Box(x1, y1, x2 if x2 - x1 > 0.01 and x2 > 1 else wh[0], y2 if y2 - y1 > 0.01 else wh[1])


@st.composite
def objects_in(draw: st.DrawFn, wh: tuple[int, int]) -> LabelledBox:
    box = draw(boxes_in(wh))
    if box.x2 - box.x1 <= 0.01 or box.y2 - box.y1 <= 0.01:
        box = Box(0.0, 0.0, float(wh[0]), float(wh[1]))
    return LabelledBox(
        draw(labels),
        draw(st.sampled_from([box, box, None])),
        track=draw(st.sampled_from(["", "7", "my mug", "007"])),
        attributes=draw(st.sampled_from([{}, {"colour": "red & <blue>"}, {"occluded": "true", "side": "2"}])),
        score=draw(st.sampled_from([None, 0.0, 0.8125, 1.0])),
    )


@st.composite
def picture_lists(draw: st.DrawFn) -> list[LabelledPicture]:
    shown = []
    for name in draw(st.lists(st.sampled_from(sorted(WH)), min_size=1, max_size=3, unique=True)):
        found = draw(st.lists(objects_in(WH[name]), max_size=3))
        objects = tuple({(one.label, one.box): one for one in found}.values())
        shown.append(LabelledPicture(name, WH[name], objects))
    return shown


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name, wh in WH.items():
        picture(folder / name, wh)
    return folder


def path_in(folder: Path, entry: AnnotationFormat) -> Path:
    return folder / entry.name if entry.is_folder else folder / f"{entry.name}{(*entry.endings, '.json')[0]}"


def through(entry: AnnotationFormat, shown: list[LabelledPicture], folder: Path, photos: Path) -> list[LabelledPicture]:
    """Pictures after they were written and read."""
    path = path_in(folder, entry)
    write_annotations(path, shown, format=entry.name, overwrite=True)
    found = read_annotations(path, format=entry.name, image_root=photos)
    assert (found.faults, found.notes) == ((), ())
    return list(found.pictures)


def held(shown: list[LabelledPicture], *entries: AnnotationFormat) -> dict[str, list[LabelledBox]]:
    """The objects by picture, with the parts that all of some formats have a place for."""
    holds = frozenset.intersection(*(entry.holds for entry in entries))
    kept: dict[str, list[LabelledBox]] = {}
    for one in shown:
        objects = [thing for thing in one.objects if thing.box is not None or "absent" in holds]
        kept[one.name] = [
            dataclasses.replace(
                thing,
                track=thing.track if "track" in holds else "",
                score=thing.score if "score" in holds else None,
                attributes=thing.attributes if "attributes" in holds else {},
            )
            for thing in objects
        ]
    return kept


def assert_near(found: list[LabelledPicture], shown: list[LabelledPicture], *entries: AnnotationFormat) -> None:
    expected, got = held(shown, *entries), held(found, *entries)
    is_all = set(WH) if any(entry.name == "yolo" for entry in entries) else set(expected)
    assert set(expected) <= set(got) <= is_all | set(expected)
    for name, objects in expected.items():
        assert len(got[name]) == len(objects)
        key = lambda one: (one.label, one.track, str(one.score), one.box is None, *map(round, one.box or ()))  # noqa: E731
        for one, other in zip(sorted(got[name], key=key), sorted(objects, key=key), strict=True):
            assert dataclasses.replace(one, box=None) == dataclasses.replace(other, box=None)
            assert (one.box is None) == (other.box is None)
            if one.box is not None and other.box is not None:
                assert max(abs(a - b) for a, b in zip(one.box, other.box, strict=True)) < 0.001


@pytest.mark.parametrize("name", NAMES)
@PLAIN
@given(shown=picture_lists())
def test_each_format_gives_back_what_it_was_given(
    name: str, shown: list[LabelledPicture], photos: Path, tmp_path: Path
) -> None:
    entry = format_named(name)
    try:
        found = through(entry, shown, tmp_path, photos)
    finally:
        shutil.rmtree(tmp_path / entry.name, ignore_errors=True)
    assert_near(found, shown, entry)
    assert [one.image_wh for one in found] == [WH[one.name] for one in found]


@pytest.fixture
def mixed() -> list[LabelledPicture]:
    red = {"colour": "red", "occluded": "true"}
    return [
        LabelledPicture(
            "a.jpg",
            (640, 480),
            (
                LabelledBox("mug", Box(1.25, 2.5, 100.125, 200.3), "7", red, 0.75),
                LabelledBox("kéy <&\"'/,;", Box(0, 0, 640, 480), "x"),
                LabelledBox("pen", None),
            ),
        ),
        LabelledPicture("b c/ü.png", (33, 57), (LabelledBox("mug", Box(1 / 3, 2 / 3, 10 / 3, 20 / 3), "8"),)),
        LabelledPicture("b c/one.jpg", (4001, 3)),
    ]


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(NAMES, 2)))
def test_from_each_into_each_other(
    first: str, second: str, mixed: list[LabelledPicture], photos: Path, tmp_path: Path
) -> None:
    one, other = format_named(first), format_named(second)
    found = through(other, through(one, mixed, tmp_path / "1", photos), tmp_path / "2", photos)
    assert_near(found, mixed, one, other)
    if first not in ("folder",):
        assert format_of(path_in(tmp_path / "1", one)) is one


@pytest.mark.parametrize("name", [name for name in NAMES if format_named(name).is_folder])
def test_with_the_pictures_beside(name: str, mixed: list[LabelledPicture], photos: Path, tmp_path: Path) -> None:
    """A folder with its pictures is found out to be of its format, and is complete."""
    shown = [dataclasses.replace(one, path=photos / one.name) for one in mixed]
    path = tmp_path / "out"
    write_annotations(path, shown, format=name, copy_pictures=True)
    found = read_annotations(path, needs_pictures=True)
    assert format_of(path).name == name
    assert (found.faults, found.notes) == ((), ())
    beside = format_named(name).pictures_folder
    assert {one.name for one in found.pictures} == {f"{beside}/{one}" if beside else one for one in WH}
    assert sum(len(one.objects) for one in found.pictures) == (4 if name == "folder" else 3)


@pytest.mark.parametrize("name", sorted({"coco", "yolo", "voc", "csv", "jsonl", "cvat"}))
def test_splits_and_clips_come_back(name: str, photos: Path, tmp_path: Path) -> None:
    entry = format_named(name)
    box = LabelledBox("mug", Box(0, 0, 3, 3))
    shown = [
        LabelledPicture(one, WH[one], (box,), clip="kitchen", split=split)
        for one, split in zip(WH, ("train", "val", "test"), strict=True)
    ]
    found = through(entry, shown, tmp_path, photos)
    if name != "coco":
        assert {one.name: one.split for one in found} == {one.name: one.split for one in shown}
    if name != "yolo":
        assert {one.clip for one in found} == {"kitchen"}


def test_boxes_of_a_turned_picture_are_those_of_the_picture_as_it_is_seen(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg", (64, 48), turn=EXIF_TURN)
    shown = [LabelledPicture("a.jpg", (48, 64), (LabelledBox("mug", Box(8, 10, 28, 40)),), tmp_path / "a.jpg")]
    for name in NAMES:
        found = through(format_named(name), shown, tmp_path / "out", tmp_path)
        assert_near(found, shown, format_named(name))


def test_pycocotools_reads_ours(mixed: list[LabelledPicture], tmp_path: Path) -> None:
    write_annotations(tmp_path / "x.json", mixed, labels=["spoon"])
    ours = COCO(str(tmp_path / "x.json"))
    assert [category["name"] for category in ours.loadCats(ours.getCatIds())] == ["spoon", "kéy <&\"'/,;", "mug", "pen"]
    assert [one["file_name"] for one in ours.loadImgs(ours.getImgIds())] == list(WH)[:1] + list(WH)[1:]
    found = ours.loadAnns(ours.getAnnIds(catIds=ours.getCatIds(["mug"])))
    assert [one["bbox"] for one in found] == [[1.25, 2.5, 98.875, 197.8], [0.333333, 0.666667, 3.0, 6.0]]
    results = [{key: one[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1.0} for one in found]
    assert len(ours.loadRes(results).getAnnIds()) == 2


@pytest.mark.parametrize("name", ["voc", "cvat"])
def test_what_we_write_is_xml(name: str, mixed: list[LabelledPicture], tmp_path: Path) -> None:
    from xml.etree import ElementTree

    entry = format_named(name)
    write_annotations(path_in(tmp_path, entry), mixed, format=name)
    trees = [ElementTree.parse(path) for path in tmp_path.rglob("*.xml")]
    names = {text for tree in trees for text in (*(one.text for one in tree.iterfind("object/name")),
             *(one.get("label") for one in tree.iterfind("image/box")))}  # fmt: skip
    assert names == {"mug", "kéy <&\"'/,;"}


def test_labels_keep_the_numbers_that_were_declared(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.jpg")
    shown = [LabelledPicture("images/a.jpg", (64, 48), (LabelledBox("pen", Box(0, 0, 3, 3)),))]
    write_annotations(tmp_path / "out", shown, format="yolo", labels=["mug", "pen", "key"])
    assert (tmp_path / "out/labels/a.txt").read_text() == "1 0.0234375 0.03125 0.046875 0.0625\n"
    found = read_annotations(tmp_path / "out", image_root=tmp_path)
    assert found.labels == ("mug", "pen", "key")
    write_annotations(tmp_path / "x.json", found.pictures, labels=found.labels)
    assert [one["name"] for one in json.loads((tmp_path / "x.json").read_text())["categories"]] == ["mug", "pen", "key"]
