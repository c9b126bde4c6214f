"""Pictures on a disk, and files of annotations written by hand after the formats' own documentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from focus_env.annotations import Annotations, read_annotations

EXIF_TURN = 6
"""The camera was held upright: the picture is shown turned clockwise."""


def picture(path: Path, wh: tuple[int, int] = (64, 48), *, mode: str = "RGB", turn: int = 1, **options: Any) -> Path:
    """A picture file of a size, before the turn that its EXIF asks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.new(mode, wh).save(path, **({"exif": exif} if turn != 1 else {}), **options)
    return path


SCENE_WH = (64, 48)


def scene(seed: int) -> Image.Image:
    """A picture with detail of its own."""
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    return Image.fromarray(pixels).resize(SCENE_WH)


def as_json(path: Path, data: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def as_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def coco(**changes: Any) -> dict[str, Any]:
    """One picture with one mug from 10, 20 to 40, 40; changes replace its lists."""
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 20, 30, 20]}],
        "categories": [{"id": 3, "name": "mug"}],
    } | changes


def boxed(*numbers: Any, **others: Any) -> list[dict[str, Any]]:
    """The annotations of `coco`, with another bbox."""
    return [{"id": 1, "image_id": 1, "category_id": 3, "bbox": list(numbers), **others}]


VOC = """<annotation>
  <folder>images</folder>
  <filename>a.jpg</filename>
  <path>/home/somebody/images/a.jpg</path>
  <source><database>Unknown</database></source>
  <size><width>{wh[0]}</width><height>{wh[1]}</height><depth>3</depth></size>
  <segmented>0</segmented>
  <object>
    <name>{name}</name>
    <pose>Left</pose><truncated>1</truncated><difficult>0</difficult>
    <bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>
  </object>
</annotation>
"""


def voc(box: tuple[Any, ...] = (10, 20, 40, 40), name: str = "mug", wh: tuple[Any, Any] = (64, 48)) -> str:
    return VOC.format(box=box, name=name, wh=wh)


def labelme(points: Any = ((10, 20), (40, 40)), **changes: Any) -> dict[str, Any]:
    shape = {
        "label": "mug", "points": points, "group_id": None, "description": "", "shape_type": "rectangle", "flags": {},
        "mask": None,
    }  # fmt: skip
    shape |= changes.pop("shape", {})
    return {
        "version": "5.5.0", "flags": {}, "shapes": [shape], "imagePath": "a.jpg", "imageData": None,
        "imageHeight": 48, "imageWidth": 64,
    } | changes  # fmt: skip


def region(**value: Any) -> dict[str, Any]:
    """A region of Label Studio: the mug from 16, 12 to 48, 36 of a picture of 64 x 48."""
    return {
        "id": "Dx_aB91ISN", "source": "$image", "from_name": "img", "to_name": "img", "type": "rectanglelabels",
        "original_width": 64, "original_height": 48, "image_rotation": 0,
        "value": {"rotation": 0, "x": 25.0, "y": 25.0, "width": 50.0, "height": 50.0, "rectanglelabels": ["mug"]}
        | value,
    }  # fmt: skip


def task(*result: Any, image: str = "/data/local-files/?d=a.jpg", **changes: Any) -> list[dict[str, Any]]:
    annotation = {"id": 1001, "was_cancelled": False, "ground_truth": False, "result": list(result or (region(),))}
    return [{"id": 1, "data": {"image": image}, "annotations": [annotation], "predictions": []} | changes]


def read(path: Path, **options: Any) -> Annotations:
    """What is in a file, faults left out."""
    return read_annotations(path, on_bad="skip", **options)


def boxes(found: Annotations) -> list[tuple[str, tuple[float, ...] | None]]:
    """Labels and boxes of all pictures, boxes rounded to a thousandth."""
    return [
        (one.label, None if one.box is None else tuple(round(number, 3) for number in one.box))
        for shown in found.pictures
        for one in shown.objects
    ]


MUG = ("mug", (10.0, 20.0, 40.0, 40.0))
