"""Bad files of annotations: each defect is named with its place, and what can be used is used."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from focus_env.annotations import read_annotations
from focus_env.annotations.values import turned_box
from focus_env.errors import DatasetError
from focus_env.types import Box
from tests.focus_env.annotations.samples import (
    EXIF_TURN,
    MUG,
    as_json,
    as_text,
    boxed,
    boxes,
    coco,
    labelme,
    picture,
    read,
    region,
    task,
    voc,
)

NAN, INF = float("nan"), float("inf")


def of_coco(folder: Path, x1: Any, y1: Any, x2: Any, y2: Any) -> Path:
    whole = all(isinstance(number, int | float) for number in (x1, y1, x2, y2))
    size = (x2 - x1, y2 - y1) if whole else (x2, y2)
    return as_json(folder / "x.json", coco(annotations=boxed(x1, y1, *size)))


def of_voc(folder: Path, *box: Any) -> Path:
    return as_text(folder / "x.xml", voc(box))


def of_cvat(folder: Path, x1: Any, y1: Any, x2: Any, y2: Any) -> Path:
    box = f'<box label="mug" occluded="0" xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}" z_order="0"></box>'
    image = f'<image id="0" name="a.jpg" width="64" height="48">\n{box}\n</image>'
    return as_text(folder / "x.xml", f"<annotations>\n{image}</annotations>")


def of_csv(folder: Path, *box: Any) -> Path:
    return as_text(folder / "x.csv", f"image,x1,y1,x2,y2,label\na.jpg,{','.join(map(str, box))},mug\n")


def of_jsonl(folder: Path, *box: Any) -> Path:
    return as_json(folder / "x.jsonl", {"image": "a.jpg", "objects": [{"label": "mug", "box": box}]})


def of_folder(folder: Path, *box: Any) -> Path:
    return as_text(folder / "a.txt", f"{' '.join(map(str, box))} mug\n").parent


CORNERS = {"coco": of_coco, "voc": of_voc, "cvat": of_cvat, "csv": of_csv, "jsonl": of_jsonl, "folder": of_folder}
"""Formats of which a box is two corners, or what comes to the same."""


@pytest.mark.parametrize(
    ("box", "reason", "message"),
    [
        ((NAN, 20, 40, 40), "boxes_not_finite", "expected four finite numbers"),
        ((10, 20, INF, 40), "boxes_not_finite", "expected four finite numbers"),
        (("x", 20, 40, 40), "boxes_not_finite", "expected four finite numbers"),
        (("1_0", 20, 40, 40), "boxes_not_finite", "expected four finite numbers"),
        ((1e300, 20, 1e301, 40), "boxes_not_finite", "expected four finite numbers"),
        ((40, 20, 10, 40), "boxes_reversed", "expected x1 < x2 and y1 < y2, got x1=40"),
        ((10, 40, 40, 20), "boxes_reversed", "expected x1 < x2 and y1 < y2"),
        ((10, 20, 10, 40), "boxes_no_area", "expected a box with an area"),
        ((0, 0, 0, 0), "boxes_no_area", "expected a box with an area"),
        ((64, 20, 90, 40), "boxes_outside", "expected a box in the picture of 64 x 48"),
        ((-9, -9, -1, -1), "boxes_outside", "expected a box in the picture of 64 x 48"),
    ],
)
@pytest.mark.parametrize("name", CORNERS)
def test_a_box_that_is_none_is_named(
    name: str, box: tuple[Any, ...], reason: str, message: str, tmp_path: Path
) -> None:
    picture(tmp_path / "a.jpg")
    path = CORNERS[name](tmp_path, *box)
    found = read(path, format=name)
    assert [len(shown.objects) for shown in found.pictures] == [0]
    assert dict(found.skipped) == {reason: 1}
    (fault,) = found.faults
    assert message in fault.message
    place = {"coco": "x.json, annotations[0]: ", "voc": "x.xml, line 8: ", "cvat": "x.xml, line 3: "}
    place |= {"csv": "x.csv, line 2: ", "jsonl": "x.jsonl, line 1, objects[0]: ", "folder": "a.txt, line 1: "}
    assert place[name] in fault.message
    with pytest.raises(DatasetError, match=rf"expected .* \(all that cannot be used: {reason}: 1\)"):
        read_annotations(path, format=name)


@pytest.mark.parametrize("name", CORNERS)
def test_a_box_that_reaches_beyond_is_cut_and_noted(name: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    found = read(CORNERS[name](tmp_path, -3, 20, 99, 48.4), format=name)
    assert boxes(found) == [("mug", (0, 20, 64, 48))]
    assert dict(found.noted) == {"boxes_clipped": 1}
    assert "reaches 35 pixels beyond the picture, cut" in found.notes[0].message
    rounded = read(CORNERS[name](tmp_path, 0, 0, 64.5, 48.5), format=name)
    assert (boxes(rounded), rounded.notes, rounded.faults) == ([("mug", (0, 0, 64, 48))], (), ())


@pytest.mark.parametrize("name", CORNERS)
def test_a_good_box(name: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    found = read(CORNERS[name](tmp_path, 10, 20, 40, 40), format=name)
    assert boxes(found) == [MUG]
    assert (found.faults, found.notes, found.labels) == ((), (), ("mug",))
    assert found.pictures[0].path == tmp_path / "a.jpg"


STATING: dict[str, Callable[[Path, str], Path]] = {
    "coco": lambda folder, name: as_json(
        folder / "x.json", coco(images=[{"id": 1, "file_name": name, "width": 64, "height": 48}])
    ),
    "voc": lambda folder, name: as_text(folder / "x.xml", voc().replace("<filename>a.jpg", f"<filename>{name}")),
    "labelme": lambda folder, name: as_json(folder / "x.json", labelme(imagePath=name)),
    "labelstudio": lambda folder, name: as_json(folder / "x.json", task(image=name)),
    "cvat": lambda folder, name: as_text(
        of_cvat(folder, 10, 20, 40, 40), of_cvat(folder, 10, 20, 40, 40).read_text().replace('"a.jpg"', f'"{name}"')
    ),
    "csv": lambda folder, name: as_text(
        folder / "x.csv", f"filename,width,height,class,xmin,ymin,xmax,ymax\n{name},64,48,mug,10,20,40,40\n"
    ),
    "jsonl": lambda folder, name: as_json(
        folder / "x.jsonl",
        {"image": name, "width": 64, "height": 48, "objects": [{"label": "mug", "box": [10, 20, 40, 40]}]},
    ),
}
"""Formats that name a picture and state its size."""


@pytest.mark.parametrize("name", STATING)
class TestOnePicture:
    """One file that names one picture of 64 x 48 with one box."""

    @pytest.mark.parametrize(
        "outside",
        ["../a.jpg", "/etc/passwd", "C:/a.jpg", "..\\a.jpg", "../../../etc/hosts", "link.jpg", "sub/../../a.jpg"],
    )
    def test_names_that_lead_out_are_refused(self, name: str, outside: str, tmp_path: Path) -> None:
        picture(tmp_path / "a.jpg")
        os.makedirs(tmp_path / "mine/sub")
        (tmp_path / "mine/link.jpg").symlink_to(tmp_path / "a.jpg")
        found = read(STATING[name](tmp_path / "mine", outside), format=name)
        assert found.pictures == ()
        assert dict(found.skipped) == {"pictures_outside": 1, "boxes_no_picture": 1}
        assert "x." in found.faults[0].message

    @pytest.mark.parametrize("wh", [(48, 64), (65, 48), (640, 480)])
    def test_a_size_that_contradicts_the_picture(self, name: str, wh: tuple[int, int], tmp_path: Path) -> None:
        picture(tmp_path / "a.jpg", wh)
        found = read(STATING[name](tmp_path, "a.jpg"), format=name)
        assert found.pictures == ()
        assert dict(found.skipped) == {"pictures_other_size": 1, "boxes_no_picture": 1}
        assert f"of 64 x 48 pixels, as stated there, got {wh[0]} x {wh[1]}" in found.faults[0].message

    def test_boxes_before_the_turn_of_exif_are_turned(self, name: str, tmp_path: Path) -> None:
        picture(tmp_path / "a.jpg", (64, 48), turn=EXIF_TURN)
        found = read(STATING[name](tmp_path, "a.jpg"), format=name)
        assert [shown.image_wh for shown in found.pictures] == [(48, 64)]
        expected = {"labelstudio": (12, 16, 36, 48)}.get(name, (8, 10, 28, 40))
        assert boxes(found) == [("mug", expected)]
        assert dict(found.noted) == {"pictures_turned": 1}

    def test_boxes_after_the_turn_stay(self, name: str, tmp_path: Path) -> None:
        picture(tmp_path / "a.jpg", (48, 64), turn=EXIF_TURN)
        found = read(STATING[name](tmp_path, "a.jpg"), format=name)
        assert boxes(found) == [("mug", (16, 12, 48, 36)) if name == "labelstudio" else MUG]
        assert found.pictures[0].image_wh == (64, 48)
        assert (found.faults, found.notes) == ((), ())

    def test_a_picture_that_is_missing(self, name: str, tmp_path: Path) -> None:
        path = STATING[name](tmp_path, "a.jpg")
        found = read(path, format=name)
        assert (found.pictures[0].image_wh, found.pictures[0].path) == ((64, 48), None)
        assert dict(found.noted) == {"pictures_missing": 1}
        needed = read(path, format=name, needs_pictures=True)
        assert dict(needed.skipped) == {"pictures_missing": 1, "boxes_no_picture": 1}
        assert "expected the picture 'a.jpg' below" in needed.faults[0].message

    def test_a_picture_that_is_none(self, name: str, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").write_bytes(b"no picture")
        needed = read(STATING[name](tmp_path, "a.jpg"), format=name, needs_pictures=True)
        assert dict(needed.skipped) == {"pictures_bad": 1, "boxes_no_picture": 1}
        assert "a.jpg: expected a picture, got something else" in needed.faults[0].message

    def test_pictures_elsewhere(self, name: str, tmp_path: Path) -> None:
        picture(tmp_path / "photos/a.jpg")
        found = read(STATING[name](tmp_path / "labels", "a.jpg"), format=name, image_root=tmp_path / "photos")
        assert [(shown.name, shown.path) for shown in found.pictures] == [("a.jpg", tmp_path / "photos/a.jpg")]


@pytest.mark.parametrize(
    ("file", "mode", "options"),
    [
        ("a.jpg", "CMYK", {}),
        ("a.png", "I;16", {}),
        ("a.png", "P", {}),
        ("a.png", "RGBA", {}),
        ("a.png", "LA", {}),
        ("a.tif", "F", {}),
        ("a.gif", "P", {"save_all": True, "append_images": [Image.new("P", (64, 48), 7)]}),
        ("a.webp", "RGB", {"save_all": True, "append_images": [Image.new("RGB", (64, 48), 7)]}),
    ],
)
def test_pictures_of_all_kinds(file: str, mode: str, options: dict[str, Any], tmp_path: Path) -> None:
    picture(tmp_path / file, mode=mode, **options)
    path = as_json(tmp_path / "x.json", coco(images=[{"id": 1, "file_name": file, "width": 64, "height": 48}]))
    found = read_annotations(path, needs_pictures=True)
    assert boxes(found) == [MUG]


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_box_is_turned_as_its_picture(turn: int, tmp_path: Path) -> None:
    """The box around what is white, before the turn and after it as Pillow makes it."""
    from PIL import ImageOps

    before = Image.new("L", (20, 12))
    before.paste(255, (3, 2, 9, 6))
    before.getexif()[0x0112] = turn
    path = tmp_path / "a.png"
    before.save(path, exif=before.getexif())
    with Image.open(path) as shown:
        expected = ImageOps.exif_transpose(shown).getbbox()
    assert turned_box(Box(3, 2, 9, 6), (20, 12), turn) == expected


@pytest.mark.parametrize("label", ["", "  ", None, 7, ["mug"]])
def test_a_label_that_is_none(label: Any, tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    found = read(as_json(tmp_path / "x.json", labelme(shape={"label": label})))
    assert dict(found.skipped) == {"boxes_no_label": 1}


@pytest.mark.parametrize(("score", "expected"), [("high", None), (NAN, None), (0.25, 0.25), ("0.5", 0.5), (None, None)])
def test_scores(score: Any, expected: float | None, tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    found = read(as_json(tmp_path / "x.json", coco(annotations=boxed(10, 20, 30, 20, score=score))))
    assert found.pictures[0].objects[0].score == expected
    assert bool(found.notes) == (score == "high" or score != score)


def test_a_box_twice_is_taken_once(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    twice = [*boxed(10, 20, 30, 20), *boxed(10, 20, 30, 20), *boxed(10, 20, 30, 21)]
    found = read(as_json(tmp_path / "x.json", coco(annotations=[one | {"id": i} for i, one in enumerate(twice)])))
    assert len(found.pictures[0].objects) == 2
    assert dict(found.noted) == {"boxes_twice": 1}


@pytest.mark.parametrize("name", ["x.json", "x.xml", "x.csv", "x.jsonl"])
@pytest.mark.parametrize("content", [b"", b"\0\0\0", b"{", b"<a>", b"\xff\xfe", b"no such thing"])
def test_a_file_that_holds_nothing_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    for form in {"x.json": ("coco", "labelme", "labelstudio"), "x.xml": ("voc", "cvat")}.get(name, (name[2:],)):
        with pytest.raises(DatasetError, match=r"x\."):
            read_annotations(tmp_path / name, format=form)
    with pytest.raises(DatasetError, match=r"x\."):
        read_annotations(tmp_path / name)


def test_arguments(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="expected annotations, found nothing"):
        read_annotations(tmp_path / "no.json")
    with pytest.raises(DatasetError, match="expected annotations in a format that is known"):
        read_annotations(tmp_path)
    with pytest.raises(ValueError, match="unknown annotation format 'coca'; there are coco, yolo"):
        read_annotations(tmp_path, format="coca")
    with pytest.raises(ValueError, match="on_bad must be 'raise' or 'skip', got 'x'"):
        read_annotations(tmp_path, on_bad="x")
    path = as_json(tmp_path / "x.json", coco())
    with pytest.raises(DatasetError, match="expected the folder of the pictures"):
        read_annotations(path, image_root=tmp_path / "no")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.csv")
    with pytest.raises(DatasetError, match=r"x\.csv"):
        read_annotations(tmp_path / "x.csv", format="csv")


def test_the_region_of_the_samples(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    assert boxes(read(as_json(tmp_path / "x.json", task(region())))) == [("mug", (16, 12, 48, 36))]


@pytest.mark.parametrize("name", sorted(set(CORNERS) - {"folder"}))
def test_a_file_in_shares_is_refused(name: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    with pytest.raises(DatasetError, match="expected boxes in pixels, got 1 that all lie in the first pixel"):
        read(CORNERS[name](tmp_path, 0.1, 0.2, 0.5, 0.6), format=name)


def test_one_box_in_the_first_pixel_among_others_is_a_box(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    both = [*boxed(0, 0, 1, 1), *boxed(10, 20, 30, 20, id=2)]
    found = read(as_json(tmp_path / "x.json", coco(annotations=both)))
    assert boxes(found) == [("mug", (0, 0, 1, 1)), MUG]


@pytest.mark.parametrize("name", ["coco", "voc", "cvat", "csv", "jsonl", "labelme", "labelstudio"])
def test_a_bad_file_among_others_costs_itself(name: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    good = STATING[name](tmp_path, "a.jpg")
    (tmp_path / f"0{good.suffix}").write_bytes(b"")
    found = read(tmp_path, format=name)
    assert (found.num_boxes, dict(found.skipped)) == (1, {"files_bad": 1})
    assert f"0{good.suffix}: expected" in found.faults[0].message
