"""COCO: one JSON file for all pictures (https://cocodataset.org/#format-data).

Read of an object of lists: `images` (id, file_name, width, height; video_id), `annotations` (image_id, category_id,
bbox [x, y, width, height] in pixels; track_id or instance_id, score, iscrowd, attributes; where there is no bbox, the
polygons of segmentation), `categories` (id, name), `videos` (id, name). Ids are whole numbers or texts.

An object that is not in a picture stands in the picture's `neg_category_ids`, as in LVIS, or, with its track or
score, in a list `absent` of our own beside it; other tools pass over both.

What is made of defects, beside those of `focus_env.annotations.reading`:

    two categories of one name                        the second is called "name (id)", and noted
    two annotations of one id                         both are used, and noted
    two images or two categories of one id            left out, with what names them: nobody knows which is meant
    an image_id or category_id that nothing has       the annotation is left out
    iscrowd                                           the attribute `iscrowd`: the box is around many
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from focus_env.annotations.formats import AnnotationFormat, Writing
from focus_env.annotations.lookup import split_named, walk
from focus_env.annotations.reading import Draft, Numbers, Reading
from focus_env.annotations.records import LabelledBox
from focus_env.annotations.values import as_attributes, as_label, as_written, plain_attributes
from focus_env.errors import DatasetError
from focus_env.text_files import finite_number, read_json

ADVICE = "pass COCO's file of instances, or the folder that holds it"
LISTS = ("images", "annotations", "categories")
_AFTER_LAST = re.compile(r"[^_]*$")


def is_coco(data: object) -> bool:
    """Return whether JSON is COCO's."""
    return isinstance(data, dict) and isinstance(data.get("images"), list) and isinstance(data.get("annotations"), list)


def read(reading: Reading) -> None:
    """Read a file, or all such files below a folder; where some are called ``instances_``, these."""
    if not reading.path.is_dir():
        data = read_json(reading.path, advice=ADVICE)
        if not is_coco(data):
            raise DatasetError(f"{reading.path}: expected an object with lists {', '.join(LISTS)}; {ADVICE}")
        _read_file(reading, reading.path, data)
        return
    paths = list(walk(reading.path, (".json",)))
    instances = [path for path in paths if path.name.startswith("instances")]
    found = [(path, data) for path in instances or paths if is_coco(data := _load(reading, path))]
    if not found:
        raise DatasetError(f"{reading.path}: expected a COCO file, found none; {ADVICE}")
    for path, data in found:
        _read_file(reading, path, data)


def _load(reading: Reading, path: Path) -> Any:
    try:
        return read_json(path, advice=ADVICE, root=reading.root)
    except DatasetError as error:
        reading.fault("files_bad", str(error))
        return None


def _read_file(reading: Reading, path: Path, data: dict[str, Any]) -> None:
    names = _categories(reading, path, data)
    clips = {_key(video.get("id")): video.get("name", "") for _, video in _entries(reading, path, data, "videos")}
    stem = path.stem.removesuffix(".coco")
    split = split_named(stem) or split_named(path.parent.name)
    last = _AFTER_LAST.search(stem)
    near = reading.lookup.near(path.parent, last[0] if last else "", split)
    drafts: dict[str, Draft | None] = {}
    for where, image in _entries(reading, path, data, "images"):
        key = _key(image.get("id"))
        draft = reading.picture(
            image.get("file_name"),
            where=where,
            near=near,
            stated_wh=(image.get("width"), image.get("height")),
            clip=clips.get(_key(image.get("video_id")), ""),
            split=split,
        )
        if key in drafts or not key:
            given = f"{image.get('id')!r:.80} a second time" if key else f"{image.get('id')!r:.80}"
            reading.fault("pictures_id", f"{where}: expected an id of its own, got {given}; give each image its own")
            for other in (draft, drafts.get(key)):
                if other is not None:
                    other.is_usable = False
            drafts[key] = None
            continue
        drafts[key] = draft
        _read_absent(draft, image, names, where)
    seen: set[str] = set()
    for where, one in _entries(reading, path, data, "annotations"):
        _read_annotation(reading, one, drafts, names, where)
        if (key := _key(one.get("id"))) and key in seen:
            reading.note("boxes_id", f"{where}: the id {one['id']!r:.80} a second time; both boxes are taken")
        seen.add(key)


def _entries(reading: Reading, path: Path, data: dict[str, Any], key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the entries of a list that are objects, each behind its place."""
    found = data.get(key, [])
    if not isinstance(found, list):
        reading.fault("entries_bad", f"{path}: expected a list {key!r}, got {type(found).__name__}; correct it")
        return
    for position, entry in enumerate(found):
        where = f"{path}, {key}[{position}]"
        if isinstance(entry, dict):
            yield where, entry
        else:
            reading.fault("entries_bad", f"{where}: expected an object, got {entry!r:.80}; remove it")


def _categories(reading: Reading, path: Path, data: dict[str, Any]) -> dict[str, str]:
    """Return labels by id; an id that two categories have gives none."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    doubles: set[str] = set()
    for where, category in _entries(reading, path, data, "categories"):
        key, name = _key(category.get("id")), as_label(category.get("name"))
        if not key or not name or key in names:
            doubles |= {key} & set(names)
            reading.fault(
                "categories_bad", f"{where}: expected an id of its own and a name, got {category!r:.120}; correct it"
            )
            continue
        if name in taken:
            number = f"{name} ({key})"
            reading.note("labels_twice", f"{where}: the name {name!r} a second time; this one is called {number!r}")
            name = number
        taken.add(name)
        names[key] = name
    for name in names.values():
        reading.declare(name)
    return {key: name for key, name in names.items() if key not in doubles}


def _read_absent(draft: Draft, image: dict[str, Any], names: dict[str, str], where: str) -> None:
    told = image.get("absent")
    told = [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []
    known = {_key(one.get("category_id")) for one in told}
    plain = image.get("neg_category_ids")
    told += [{"category_id": key} for key in plain if _key(key) not in known] if isinstance(plain, list) else []
    for one in told:
        draft.add_absent(
            names.get(_key(one.get("category_id")), ""),
            where=where,
            track=one.get("track_id", ""),
            attributes=as_attributes(one.get("attributes")),
            score=one.get("score"),
        )


def _read_annotation(
    reading: Reading, one: dict[str, Any], drafts: dict[str, Draft | None], names: dict[str, str], where: str
) -> None:
    draft = drafts.get(_key(one.get("image_id")))
    label = names.get(_key(one.get("category_id")))
    for name, found in (("image_id", draft), ("category_id", label)):
        if found is None:
            reading.fault(
                "boxes_no_" + ("picture" if name == "image_id" else "label"),
                f"{where}: expected {name} to be the id of one entry of the file, got {one.get(name)!r:.80}; mend it",
            )
            return
    assert draft is not None
    attributes = as_attributes(one.get("attributes"))
    track = next((one[key] for key in ("track_id", "instance_id") if key in one), attributes.pop("track_id", ""))
    if one.get("iscrowd"):
        attributes["iscrowd"] = "true"
    draft.add(label, _box(one), where=where, track=track, attributes=attributes, score=one.get("score"))


def _box(one: dict[str, Any]) -> Numbers:
    """Return the corners of an annotation."""
    box = one.get("bbox")
    if isinstance(box, list) and len(box) == 4:
        x, y, width, height = (None if isinstance(value, str) else finite_number(value) for value in box)
        if x is None or y is None or width is None or height is None:
            return [x, y, width, height]
        return [x, y, x + width, y + height]
    polygons = one.get("segmentation")
    if box is None and isinstance(polygons, list):
        flat = [finite_number(value) for polygon in polygons if isinstance(polygon, list) for value in polygon]
        xs, ys = [x for x in flat[::2] if x is not None], [y for y in flat[1::2] if y is not None]
        if len(xs) + len(ys) == len(flat) and len(xs) == len(ys) and xs:
            return [min(xs), min(ys), max(xs), max(ys)]
    return [None] * 4


def _key(value: object) -> str:
    """Return an id as a text; empty if it is none. A file may have 7 in one place and "7" in another."""
    return str(value) if type(value) is int or (isinstance(value, str) and value) else ""


def write(job: Writing) -> None:
    """Write all pictures to one file."""
    ids = {label: number for number, label in enumerate(job.labels, start=1)}
    clips = {clip: number for number, clip in enumerate(dict.fromkeys(p.clip for p in job.pictures if p.clip), start=1)}
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for picture in job.pictures:
        width, height = picture.image_wh
        image: dict[str, Any] = {
            "id": len(images) + 1, "file_name": picture.name, "width": width, "height": height,
        }  # fmt: skip
        if picture.clip:
            image["video_id"] = clips[picture.clip]
        _add_absent(image, [one for one in picture.objects if one.box is None], ids)
        images.append(image)
        boxes += [_entry(one, image["id"], ids) for one in picture.objects if one.box is not None]
    for number, box in enumerate(boxes, start=1):
        box["id"] = number
    data: dict[str, Any] = {
        "info": {"description": "written by FOCUS"},
        "images": images,
        "annotations": boxes,
        "categories": [{"id": number, "name": label, "supercategory": ""} for label, number in ids.items()],
    }
    if clips:
        data["videos"] = [{"id": number, "name": clip} for clip, number in clips.items()]
    job.target.write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _entry(one: LabelledBox, image_id: int, ids: dict[str, int]) -> dict[str, Any]:
    assert one.box is not None
    x1, y1, x2, y2 = one.box
    box = [as_written(x1), as_written(y1), as_written(x2 - x1), as_written(y2 - y1)]
    others = {name: text for name, text in one.attributes.items() if name != "iscrowd"}
    entry: dict[str, Any] = {
        "id": 0, "image_id": image_id, "category_id": ids[one.label], "bbox": box,
        "area": as_written((x2 - x1) * (y2 - y1)), "segmentation": [],
        "iscrowd": int(one.attributes.get("iscrowd") == "true"),
    }  # fmt: skip
    return entry | _beside(one, others)


def _beside(one: LabelledBox, attributes: dict[str, str]) -> dict[str, Any]:
    """Return the fields of an object beside its label and box."""
    found: dict[str, Any] = {}
    if one.track:
        found["track_id"] = int(one.track) if re.fullmatch("0|[1-9][0-9]{0,17}", one.track) else one.track
    if one.score is not None:
        found["score"] = one.score
    if attributes:
        found["attributes"] = plain_attributes(attributes)
    return found


def _add_absent(image: dict[str, Any], absent: Sequence[LabelledBox], ids: dict[str, int]) -> None:
    if absent:
        image["neg_category_ids"] = sorted({ids[one.label] for one in absent})
    told = [{"category_id": ids[one.label], **_beside(one, dict(one.attributes))} for one in absent]
    if any(len(one) > 1 for one in told):
        image["absent"] = told


FORMAT = AnnotationFormat(
    name="coco",
    help="COCO, one JSON file",
    endings=(".json",),
    read=read,
    write=write,
    holds=frozenset({"track", "attributes", "score", "absent"}),
    is_folder=False,
)
