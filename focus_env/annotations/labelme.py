"""LabelMe and X-AnyLabeling: one JSON file for each picture, beside it (https://github.com/wkentaro/labelme).

Read of a file: `imagePath`, `imageWidth`, `imageHeight`, and of each of its `shapes`: `label`, `points`,
`shape_type`, `group_id`, which is the track, `flags` and `attributes`, `description`, `score`. A rectangle has two
opposite corners in any order, or four; of a polygon, a circle, lines and a mask the box around is taken. Pixels in
`imageData` are not read.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from focus_env.annotations.formats import AnnotationFormat, Writing
from focus_env.annotations.lookup import walk
from focus_env.annotations.reading import Draft, Numbers, Reading
from focus_env.annotations.records import LabelledBox, LabelledPicture
from focus_env.annotations.values import as_attribute, as_attributes, as_written, plain_attributes
from focus_env.errors import DatasetError
from focus_env.text_files import finite_number, read_json

ADVICE = "pass LabelMe's JSON file, or the folder that holds its files"


def is_labelme(data: object) -> bool:
    """Return whether JSON is LabelMe's."""
    return isinstance(data, dict) and isinstance(data.get("shapes"), list)


def read(reading: Reading) -> None:
    """Read a file, or all such files below a folder."""
    if not reading.path.is_dir():
        data = read_json(reading.path, advice=ADVICE)
        if not is_labelme(data):
            raise DatasetError(f"{reading.path}: expected an object with a list 'shapes'; {ADVICE}")
        _read_file(reading, reading.path, data)
        return
    num_files = 0
    for path in walk(reading.path, (".json",)):
        try:
            data = read_json(path, advice=ADVICE, root=reading.root)
        except DatasetError as error:
            reading.fault("files_bad", str(error))
            continue
        if is_labelme(data):
            num_files += 1
            _read_file(reading, path, data)
    if not num_files:
        raise DatasetError(f"{reading.path}: expected JSON files of LabelMe, found none; {ADVICE}")


def _read_file(reading: Reading, path: Path, data: Mapping[str, Any]) -> None:
    given = data.get("imagePath")
    root, folder = reading.lookup.root, path.absolute().parent
    # Beside the file; or where pictures are apart, in the folder that goes with the file's own, under its own name.
    near = [folder, root]
    base = reading.path.absolute() if reading.path.is_dir() else folder
    mirrored = root / folder.relative_to(base)
    name: object = given
    if isinstance(given, str):
        last = given.replace("\\", "/").rpartition("/")[2]
        is_there = any((place / given.replace("\\", "/")).is_file() for place in near if "\0" not in given)
        if last and not is_there and "\0" not in last and (mirrored / last).is_file():
            name, near = last, [mirrored]
    draft = reading.picture(
        name,
        where=f"{path}, imagePath",
        near=near,
        stated_wh=(data.get("imageWidth"), data.get("imageHeight")),
    )
    for position, shape in enumerate(data["shapes"]):
        where = f"{path}, shapes[{position}]"
        if isinstance(shape, dict):
            _read_shape(reading, draft, shape, where)
        else:
            reading.fault("entries_bad", f"{where}: expected an object, got {shape!r:.80}; remove it")


def _read_shape(reading: Reading, draft: Draft, shape: Mapping[str, Any], where: str) -> None:
    kind = shape.get("shape_type", "polygon")
    if kind == "point":
        reading.fault("boxes_no_area", f"{where}: a point has no box; draw one, or remove it")
        return
    attributes = as_attributes(shape.get("attributes"))
    attributes |= {name: text for name, text in as_attributes(shape.get("flags")).items() if text != "false"}
    for name in ("description", "difficult"):
        if (text := as_attribute(shape.get(name) or None)) is not None:
            attributes[name] = text
    track = shape.get("group_id", "")
    track = attributes.pop("track_id", "") if track is None or track == "" else track
    box = _box(shape.get("points"), str(kind))
    draft.add(
        shape.get("label"), box, where=where, in_any_order=True, track=track, attributes=attributes,
        score=shape.get("score"),
    )  # fmt: skip


def _box(points: object, kind: str) -> Numbers:
    """Return the corners of the box around a shape."""
    pairs = points if isinstance(points, list) else []
    flat = [
        None if isinstance(value, str) else finite_number(value)
        for pair in pairs
        for value in (pair if isinstance(pair, list) and len(pair) == 2 else [None, None])
    ]
    known = [value for value in flat if value is not None]
    if not known or len(known) < len(flat):
        return [None] * 4
    if kind == "circle" and len(known) == 4:
        x, y = known[:2]
        radius = math.hypot(known[2] - x, known[3] - y)
        return [x - radius, y - radius, x + radius, y + radius]
    return [min(known[::2]), min(known[1::2]), max(known[::2]), max(known[1::2])]


def write(job: Writing) -> None:
    """Write a file for each picture."""
    for picture in job.pictures:
        name = job.file_of(picture, ".json")
        path = job.target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = _data(picture, job.place / name)
        path.write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _data(picture: LabelledPicture, place: Path) -> dict[str, Any]:
    width, height = picture.image_wh
    beside = place.parent / Path(picture.name).name
    if picture.path is None or picture.path == beside:
        image_path = beside.name
    else:
        image_path = os.path.relpath(picture.path.absolute(), place.absolute().parent).replace(os.sep, "/")
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": [_shape(one) for one in picture.objects if one.box is not None],
        "imagePath": image_path,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def _shape(one: LabelledBox) -> dict[str, Any]:
    assert one.box is not None
    x1, y1, x2, y2 = map(as_written, one.box)
    attributes = dict(one.attributes)
    is_number = one.track.isascii() and one.track.isdigit() and len(one.track) < 18 and str(int(one.track)) == one.track
    if one.track and not is_number:
        attributes["track_id"] = one.track
    shape: dict[str, Any] = {
        "label": one.label,
        "points": [[x1, y1], [x2, y2]],
        "group_id": int(one.track) if is_number else None,
        "description": attributes.pop("description", ""),
        "shape_type": "rectangle",
        "flags": {},
    }
    if attributes:
        shape["attributes"] = plain_attributes(attributes)
    if one.score is not None:
        shape["score"] = one.score
    return shape


FORMAT = AnnotationFormat(
    name="labelme",
    help="LabelMe and X-AnyLabeling, a JSON file beside each picture",
    endings=(),
    read=read,
    write=write,
    holds=frozenset({"track", "attributes", "score"}),
    is_folder=True,
    pictures_folder="",
)
