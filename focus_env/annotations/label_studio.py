"""Label Studio: one JSON file, a list of tasks (https://labelstud.io/guide/export#Label-Studio-JSON-format-of-annotated-tasks).

Read of a task: in `data` the address of its picture, and the `result` of its annotations: regions of the kinds
rectanglelabels, polygonlabels, ellipselabels and their unlabelled kinds with a result "labels" of the same id. Values
are hundredths of the picture's width and height; a turned rectangle is the box around it. Of several annotations of a
task the one that is called the ground truth counts, else the first that was not cancelled; without any, the first
prediction, with its score. Choices, numbers and texts of a region are attributes, and so is what stands in its
`meta`; `track_id` is the track. The short form of the export "JSON-MIN" is read, too.

Addresses are those of the picture's folder: ``/data/local-files/?d=a/b.jpg`` is a/b.jpg below it, and of an upload
``/data/upload/3/1a2b3c4d-b.jpg`` or a web address the last part, without the eight digits before the dash if need be.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from focus_env.annotations.formats import AnnotationFormat, Writing
from focus_env.annotations.lookup import walk
from focus_env.annotations.reading import Draft, Numbers, Reading
from focus_env.annotations.records import LabelledBox, LabelledPicture
from focus_env.annotations.values import as_attribute, as_attributes, plain_attributes
from focus_env.errors import DatasetError
from focus_env.text_files import finite_number, read_json

ADVICE = "pass Label Studio's JSON export, or the folder that holds it"
REGIONS = ("rectangle", "polygon", "ellipse")
VALUES = ("choices", "text", "number", "rating", "taxonomy")
PICTURES = ("image", "img", "photo", "picture", "url")
_UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)")
_ENDING = re.compile(r"\.(?:jpe?g|png|webp|bmp|gif|tiff?|ppm)(?:$|[?#])", re.IGNORECASE)


def is_label_studio(data: object) -> bool:
    """Return whether JSON is Label Studio's."""
    return isinstance(data, list) and any(isinstance(task, dict) and ("data" in task or _short(task)) for task in data)


def _short(task: Mapping[str, Any]) -> list[Any]:
    """Return the regions of a task of JSON-MIN."""
    return [
        region
        for value in task.values()
        if isinstance(value, list)
        for region in value
        if isinstance(region, dict) and any(f"{kind}labels" in region for kind in REGIONS)
    ]


def read(reading: Reading) -> None:
    """Read a file, or all such files below a folder."""
    paths = list(walk(reading.path, (".json",))) if reading.path.is_dir() else [reading.path]
    num_files = 0
    for path in paths:
        with reading.one_of_many():
            data = read_json(path, advice=ADVICE, root=reading.root)
            if is_label_studio(data):
                num_files += 1
                for position, task in enumerate(data):
                    _read_task(reading, task, path, f"{path}, task {position}")
    if not num_files:
        raise DatasetError(f"{reading.path}: expected a list of tasks of Label Studio, found none; {ADVICE}")


def _read_task(reading: Reading, task: Any, path: Path, where: str) -> None:
    if not isinstance(task, dict):
        reading.fault("entries_bad", f"{where}: expected an object, got {task!r:.80}; remove it")
        return
    data = task["data"] if isinstance(task.get("data"), dict) else task
    address = _address(data)
    if address is None:
        reading.fault("pictures_missing", f"{where}: expected the address of a picture in data, found none")
        return
    regions = [*_chosen(reading, task, where)]
    stated = next(
        (
            (one.get("original_width"), one.get("original_height"))
            for one, _ in regions
            if isinstance(one, dict) and one.get("original_width")
        ),
        None,
    )
    near = [reading.lookup.root, *reading.lookup.near(path.parent)]
    name = _name(reading, address, near, where)
    draft = reading.picture(name, where=where, near=near, stated_wh=stated)
    beside: dict[str, dict[str, str]] = {}
    labels: dict[str, str] = {}
    for one, _ in regions:
        if isinstance(one, dict) and isinstance(value := one.get("value"), dict):
            if one.get("type") == "labels" and isinstance(value.get("labels"), list) and value["labels"]:
                labels[repr(one.get("id"))] = str(value["labels"][0])
            if found := _attributes(one, value):
                beside.setdefault(repr(one.get("id")), {}).update(found)
    for number, (one, score) in enumerate(regions):
        _read_region(reading, draft, one, score, labels, beside, f"{where}, result {number}")


def _address(data: Mapping[str, Any]) -> str | None:
    texts = {name: text for name, text in data.items() if isinstance(text, str)}
    for name in PICTURES:
        if name in texts:
            return texts[name]
    return next((text for text in texts.values() if _ENDING.search(text)), None)


def _name(reading: Reading, address: str, near: list[Path], where: str) -> str:
    """Return the name of the picture at an address, as it lies on this disk."""
    parts = urlsplit(address) if "://" in address or address.startswith("/data/") else None
    if parts is None:
        return address
    if local := parse_qs(parts.query).get("d"):
        return local[0]
    name = unquote(parts.path).rpartition("/")[2]
    plain = _UPLOADED.fullmatch(name)
    is_there = not plain or not name or reading.lookup.find(name, near=near, where=where)[0]
    return name if is_there or plain is None else plain[1]


def _chosen(reading: Reading, task: Mapping[str, Any], where: str) -> Iterator[tuple[Any, Any]]:
    """Yield the regions that count, each with the score of its prediction."""
    found = [one for one in task.get("annotations") or task.get("completions") or () if isinstance(one, dict)]
    given = [one for one in found if not one.get("was_cancelled")]
    given.sort(key=lambda one: not one.get("ground_truth"))
    predicted = [one for one in task.get("predictions") or () if isinstance(one, dict)]
    for one in given[1:]:
        reading.note("annotations_others", f"{where}: annotation {one.get('id')!r:.40} beside another, not read")
    chosen, score = (
        (given[0], None) if given else (predicted[0], predicted[0].get("score")) if predicted else ({}, None)
    )
    result = chosen.get("result")
    for one in result if isinstance(result, list) else _short(task):
        yield (one if not isinstance(one, dict) or "value" in one else _long(one)), score


def _long(region: Mapping[str, Any]) -> dict[str, Any]:
    """Return a region of JSON-MIN as others are."""
    kind = next(f"{kind}labels" for kind in REGIONS if f"{kind}labels" in region)
    sizes = {name: region.get(name) for name in ("original_width", "original_height")}
    return {**sizes, "type": kind, "value": region}


def _attributes(one: Mapping[str, Any], value: Mapping[str, Any]) -> dict[str, str]:
    found = as_attributes(one.get("meta")) if isinstance(one.get("meta"), dict) else {}
    for name in VALUES:
        if name in value and one.get("type") in (name, "textarea"):
            given = value[name]
            given = given[0] if isinstance(given, list) and len(given) == 1 else given
            if (text := as_attribute(given)) is not None:
                found[str(one.get("from_name", name))] = text
    return found


def _read_region(
    reading: Reading,
    draft: Draft,
    one: Any,
    score: Any,
    labels: Mapping[str, str],
    beside: Mapping[str, dict[str, str]],
    where: str,
) -> None:
    if not isinstance(one, dict) or not isinstance(value := one.get("value"), dict):
        reading.fault("entries_bad", f"{where}: expected an object with a value, got {one!r:.80}; remove it")
        return
    kind = str(one.get("type", ""))
    shape = next((shape for shape in REGIONS if kind in (shape, f"{shape}labels")), None)
    if shape is None:
        if kind.endswith("labels") and kind != "labels":
            reading.fault("boxes_no_area", f"{where}: expected one of {', '.join(REGIONS)}, got {kind!r:.40}")
        return
    if one.get("image_rotation"):
        turn = one["image_rotation"]
        reading.fault("boxes_turned", f"{where}: its picture was turned by {turn!r:.20} degrees there; turn it back")
        return
    named = value.get(f"{shape}labels") or value.get("labels")
    names = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    if len(names) > 1:
        reading.note("labels_others", f"{where}: expected one label, got {names!r:.120}; the first is taken")
    attributes = dict(beside.get(repr(one.get("id")), {})) if one.get("id") is not None else _attributes(one, value)
    track = attributes.pop("track_id", "")
    own = one.get("score", score)
    box = _box(value, shape, draft.image_wh)
    label = names[0] if names else labels.get(repr(one.get("id")))
    draft.add(label, box, where=where, in_pixels=False, track=track, attributes=attributes, score=own)


def _box(value: Mapping[str, Any], shape: str, image_wh: tuple[int, int]) -> Numbers:
    """Return the corners of the box around a region, in pixels."""
    scale_x, scale_y = image_wh[0] / 100, image_wh[1] / 100

    def numbers(*names: str) -> list[float]:
        found = [None if isinstance(value.get(name), str) else finite_number(value.get(name)) for name in names]
        return [number for number in found if number is not None]

    angle = math.radians((numbers("rotation") or [0.0])[0])
    cos, sin = math.cos(angle), math.sin(angle)
    if shape == "rectangle" and len(found := numbers("x", "y", "width", "height")) == 4:
        # Turned about the upper left corner, clockwise, in pixels.
        x, y, width, height = found[0] * scale_x, found[1] * scale_y, found[2] * scale_x, found[3] * scale_y
        if not angle:
            return [x, y, x + width, y + height]
        xs = [x, x + width * cos, x - height * sin, x + width * cos - height * sin]
        ys = [y, y + width * sin, y + height * cos, y + width * sin + height * cos]
        return [min(xs), min(ys), max(xs), max(ys)]
    if shape == "ellipse" and len(found := numbers("x", "y", "radiusX", "radiusY")) == 4:
        x, y, rx, ry = found[0] * scale_x, found[1] * scale_y, found[2] * scale_x, found[3] * scale_y
        wide, high = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
        return [x - wide, y - high, x + wide, y + high]
    points = value.get("points")
    if shape == "polygon" and isinstance(points, list) and points:
        flat = [finite_number(number) for point in points if isinstance(point, list) for number in point]
        known = [number for number in flat if number is not None]
        if len(known) == 2 * len(points):
            xs, ys = [x * scale_x for x in known[::2]], [y * scale_y for y in known[1::2]]
            return [min(xs), min(ys), max(xs), max(ys)]
    return [None] * 4


def write(job: Writing) -> None:
    """Write all pictures to one file of tasks, for a Label Studio with local storage at the pictures' folder."""
    tasks = [_task(number, picture) for number, picture in enumerate(job.pictures, start=1)]
    job.target.write_text(json.dumps(tasks, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _task(number: int, picture: LabelledPicture) -> dict[str, Any]:
    boxes = [one for one in picture.objects if one.box is not None]
    result = [region(f"{number}-{place}", one, picture.image_wh) for place, one in enumerate(boxes, start=1)]
    return {
        "id": number,
        "data": {"image": f"/data/local-files/?d={quote(picture.name)}"},
        "annotations": [{"id": number, "was_cancelled": False, "ground_truth": False, "result": result}],
        "predictions": [],
    }


def region(
    name: str, one: LabelledBox, image_wh: tuple[int, int], *, from_name: str = "label", to_name: str = "image"
) -> dict[str, Any]:
    """Return a box as an entry of a `result`.

    Args:
        name: Its id in the task.
        one: The object; it has a box.
        image_wh: (width, height) of the picture in pixels.
        from_name: The control of the project's configuration that draws such boxes.
        to_name: The picture's name there.
    """
    assert one.box is not None
    (width, height), (x1, y1, x2, y2) = image_wh, one.box
    shares = {
        "x": 100 * x1 / width, "y": 100 * y1 / height, "width": 100 * (x2 - x1) / width,
        "height": 100 * (y2 - y1) / height,
    }  # fmt: skip
    found: dict[str, Any] = {
        "id": name, "from_name": from_name, "to_name": to_name, "type": "rectanglelabels",
        "original_width": width, "original_height": height, "image_rotation": 0,
        "value": {**shares, "rotation": 0, "rectanglelabels": [one.label]},
    }  # fmt: skip
    meta = plain_attributes(one.attributes) | ({"track_id": one.track} if one.track else {})
    if meta:
        found["meta"] = meta
    if one.score is not None:
        found["score"] = one.score
    return found


FORMAT = AnnotationFormat(
    name="labelstudio",
    help="Label Studio, one JSON file of tasks",
    endings=(),
    read=read,
    write=write,
    holds=frozenset({"track", "attributes", "score"}),
    is_folder=False,
)
