"""CVAT: one XML file for all pictures or for a video (https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/).

In "CVAT for images 1.1", each `image` (name, width, height; subset, task_id) has `box`, `polygon`, `polyline`,
`ellipse` and `mask`; the box around each of them is read. In "CVAT for video 1.1", each `track` (id, label) has the
same by `frame`, where `outside="1"` means that the object is absent. The picture of frame 12 is ``frame_000012`` with
any ending, as CVAT exports it. A rotated box becomes the box around it. Points and tags have no area, and are counted.

Attributes are texts; `occluded="1"` is one too, and so is an attribute `track_id`, which is the track. The format that
is written is "CVAT for images 1.1".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from focus_env.annotations.formats import AnnotationFormat, Writing
from focus_env.annotations.lookup import ENDINGS, split_named, walk
from focus_env.annotations.reading import Draft, Numbers, Reading
from focus_env.annotations.records import LabelledBox, LabelledPicture
from focus_env.annotations.values import plain_number
from focus_env.annotations.xml_files import Element, quoted, read_xml
from focus_env.errors import DatasetError
from focus_env.text_files import finite_number

ADVICE = "pass CVAT's annotations.xml, or the folder that holds it"
FLAT = ("points", "tag", "skeleton", "cuboid")
"""Shapes without a box."""
CORNERS = ("xtl", "ytl", "xbr", "ybr")


def read(reading: Reading) -> None:
    """Read a file, or all such files below a folder."""
    paths = list(walk(reading.path, (".xml",))) if reading.path.is_dir() else [reading.path]
    num_files = 0
    for path in paths:
        with reading.one_of_many():
            top = read_xml(path, root=reading.root)
            if top.name == "annotations":
                num_files += 1
                _read_file(reading, path, top)
    if not num_files:
        raise DatasetError(f"{reading.path}: expected <annotations> of CVAT, found none; {ADVICE}")


def _read_file(reading: Reading, path: Path, top: Element) -> None:
    for task in ("task", "project", "job"):
        labels = top.find("meta", task, "labels")
        for label in labels.all("label") if labels else ():
            if name := label.read("name"):
                reading.declare(name)
    for image in top.all("image"):
        subset = image.attributes.get("subset", "")
        draft = reading.picture(
            image.attributes.get("name"),
            where=f"{path}, line {image.line}",
            near=reading.lookup.near(path.parent, subset, "default"),
            stated_wh=(image.attributes.get("width"), image.attributes.get("height")),
            clip=image.attributes.get("task_id", ""),
            split=split_named(subset),
        )
        for shape in image.children:
            _read_shape(reading, draft, shape, shape.attributes.get("label"), "", f"{path}, line {shape.line}")
    _read_tracks(reading, path, top)


def _read_tracks(reading: Reading, path: Path, top: Element) -> None:
    size = top.find("meta", "original_size") or top.find("meta", "task", "original_size")
    stated = None if size is None else (size.read("width"), size.read("height"))
    video = top.read("meta", "task", "name")
    drafts: dict[str, Draft] = {}
    for track in top.all("track"):
        for shape in track.children:
            where, frame = f"{path}, line {shape.line}", shape.attributes.get("frame", "")
            if frame not in drafts:
                name = _frame_name(reading, path, frame)
                near = reading.lookup.near(path.parent, "default")
                drafts[frame] = reading.picture(name, where=where, near=near, stated_wh=stated, clip=video)
            label = track.attributes.get("label")
            _read_shape(reading, drafts[frame], shape, label, track.attributes.get("id", ""), where)


def _frame_name(reading: Reading, path: Path, frame: str) -> str:
    """Return the name of the picture of a frame of a video."""
    stem = f"frame_{int(frame):06d}" if frame.isascii() and frame.isdigit() and len(frame) < 12 else f"frame_{frame}"
    for ending in (".PNG", *ENDINGS, *(ending.upper() for ending in ENDINGS)):
        near = reading.lookup.near(path.parent, "default")
        if reading.lookup.find(f"{stem}{ending}", near=near, where=str(path))[0]:
            return f"{stem}{ending}"
    return f"{stem}.PNG"


def _read_shape(reading: Reading, draft: Draft, shape: Element, label: str | None, track: str, where: str) -> None:
    if shape.name in FLAT:
        reading.fault("boxes_no_area", f"{where}: <{shape.name}> has no box; draw one, or remove it")
        return
    attributes = {one.attributes.get("name", ""): one.text.strip() for one in shape.all("attribute")}
    attributes = {name: text for name, text in attributes.items() if name and text}
    if shape.attributes.get("occluded") == "1":
        attributes["occluded"] = "true"
    track = track or attributes.pop("track_id", "")
    score = attributes.pop("score", None)
    if shape.attributes.get("outside") == "1":
        draft.add_absent(label, where=where, track=track, attributes=attributes, score=score)
    else:
        box = _box(shape)
        draft.add(label, box, where=where, track=track, attributes=attributes, score=score)


def _box(shape: Element) -> Numbers:
    """Return the corners of the box around a shape."""

    def number(name: str) -> float | None:
        return finite_number(shape.attributes.get(name, ""))

    if shape.name == "box":
        corners = [number(name) for name in CORNERS]
        rotation = number("rotation") or 0.0
        return corners if not rotation or None in corners else turned(corners, rotation)
    if shape.name == "ellipse":
        x, y, rx, ry = number("cx"), number("cy"), number("rx"), number("ry")
        if x is None or y is None or rx is None or ry is None:
            return [None] * 4
        angle = math.radians(number("rotation") or 0.0)
        wide = math.hypot(rx * math.cos(angle), ry * math.sin(angle))
        high = math.hypot(rx * math.sin(angle), ry * math.cos(angle))
        return [x - wide, y - high, x + wide, y + high]
    if shape.name == "mask":
        left, top, width, height = (number(name) for name in ("left", "top", "width", "height"))
        if left is None or top is None or width is None or height is None:
            return [None] * 4
        return [left, top, left + width, top + height]
    pairs = [pair.split(",") for pair in shape.attributes.get("points", "").split(";") if pair]
    points = [finite_number(value) for pair in pairs for value in pair] if all(len(p) == 2 for p in pairs) else []
    known = [value for value in points if value is not None]
    if not known or len(known) < len(points):
        return [None] * 4
    return [min(known[::2]), min(known[1::2]), max(known[::2]), max(known[1::2])]


def turned(corners: Sequence[float | None], degrees: float) -> list[float | None]:
    """Return the box around a box that is turned about its middle, clockwise."""
    x1, y1, x2, y2 = (corner or 0.0 for corner in corners)
    angle = math.radians(degrees)
    cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
    wide = ((x2 - x1) * cos + (y2 - y1) * sin) / 2
    high = ((x2 - x1) * sin + (y2 - y1) * cos) / 2
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return [x - wide, y - high, x + wide, y + high]


def write(job: Writing) -> None:
    """Write all pictures to one file."""
    labels = "".join(f"<label><name>{_text(label)}</name><attributes/></label>" for label in job.labels)
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        "<annotations>",
        "  <version>1.1</version>",
        f"  <meta><task><size>{len(job.pictures)}</size><labels>{labels}</labels></task></meta>",
    ]
    for number, picture in enumerate(job.pictures):
        lines += _image(number, picture)
    job.target.write_text("\n".join([*lines, "</annotations>"]) + "\n", encoding="utf-8")


def _text(text: str) -> str:
    return quoted(text)[1:-1].replace("<", "&lt;")


def _image(number: int, picture: LabelledPicture) -> list[str]:
    width, height = picture.image_wh
    subset = f" subset={quoted(picture.split)}" if picture.split else ""
    subset += f" task_id={quoted(picture.clip)}" if picture.clip else ""
    lines = [f'  <image id="{number}" name={quoted(picture.name)}{subset} width="{width}" height="{height}">']
    lines += [_shape(one) for one in picture.objects if one.box is not None]
    return [*lines, "  </image>"]


def _shape(one: LabelledBox) -> str:
    assert one.box is not None
    corners = " ".join(f'{name}="{plain_number(number)}"' for name, number in zip(CORNERS, one.box, strict=True))
    attributes = dict(one.attributes)
    occluded = int(attributes.pop("occluded", "") == "true")
    attributes |= {"track_id": one.track} if one.track else {}
    attributes |= {"score": repr(one.score)} if one.score is not None else {}
    inside = "".join(f"<attribute name={quoted(name)}>{_text(text)}</attribute>" for name, text in attributes.items())
    start = f'    <box label={quoted(one.label)} source="manual" occluded="{occluded}" {corners} z_order="0">'
    return f"{start}{inside}</box>"


FORMAT = AnnotationFormat(
    name="cvat",
    help="CVAT for images or video 1.1, one XML file",
    endings=(".xml",),
    read=read,
    write=write,
    holds=frozenset({"track", "attributes", "score"}),
    is_folder=False,
)
