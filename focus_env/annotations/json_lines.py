"""JSON lines: an object for each picture.

    {"image": "a.jpg", "width": 640, "height": 480, "clip": "kitchen", "split": "train", "objects": [
        {"label": "mug", "box": [x1, y1, x2, y2], "track_id": "7", "score": 0.9, "attributes": {"colour": "red"}},
        {"label": "key", "box": null}]}

all in one line; boxes are in pixels of the picture as a person sees it, and ``null`` says that the object is not
there. Only `image`, `label` and `box` are needed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from focus_env.annotations.formats import AnnotationFormat, Writing
from focus_env.annotations.lookup import walk
from focus_env.annotations.reading import Reading
from focus_env.annotations.records import LabelledBox, LabelledPicture
from focus_env.annotations.values import as_attributes, as_written, plain_attributes
from focus_env.errors import DatasetError
from focus_env.text_files import LARGEST_JSON, finite_number, read_text

ADVICE = 'pass a file with lines such as {"image": "a.jpg", "objects": [{"label": "mug", "box": [1, 2, 30, 40]}]}'


def read(reading: Reading) -> None:
    """Read a file, or all such files below a folder."""
    paths = list(walk(reading.path, (".jsonl", ".ndjson"))) if reading.path.is_dir() else [reading.path]
    if not paths:
        raise DatasetError(f"{reading.path}: expected a file of JSON lines, found none; {ADVICE}")
    for path in paths:
        with reading.one_of_many():
            _read_file(reading, path)


def _read_file(reading: Reading, path: Path) -> None:
    text = read_text(path, advice=ADVICE, root=reading.root, max_bytes=LARGEST_JSON)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip(" \t\r\0\x1a")]
    if not lines:
        raise DatasetError(f"{path}: expected a line for each picture, got an empty file; {ADVICE}")
    for number, line in lines:
        _read_line(reading, path, line, f"{path}, line {number}")


def _read_line(reading: Reading, path: Path, line: str, where: str) -> None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        reading.fault("entries_bad", f"{where}: expected JSON, got something else ({error}); correct the line")
        return
    objects = entry.get("objects", []) if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(objects, list):
        reading.fault("entries_bad", f"{where}: expected an object with a list 'objects', got {line!r:.80}")
        return
    draft = reading.picture(
        entry.get("image"), where=where, near=reading.lookup.near(path.parent),
        stated_wh=(entry.get("width"), entry.get("height")), clip=entry.get("clip", ""),
        split=str(entry.get("split") or ""),
    )  # fmt: skip
    for position, one in enumerate(objects):
        place = f"{where}, objects[{position}]"
        if not isinstance(one, dict):
            reading.fault("entries_bad", f"{place}: expected an object, got {one!r:.80}; remove it")
            continue
        others: dict[str, Any] = {
            "where": place, "track": one.get("track_id", ""), "attributes": as_attributes(one.get("attributes")),
            "score": one.get("score"),
        }  # fmt: skip
        box = one.get("box", [])
        if box is None:
            draft.add_absent(one.get("label"), **others)
        else:
            values = box if isinstance(box, list) else []
            numbers = [None if isinstance(value, str) else finite_number(value) for value in values]
            draft.add(one.get("label"), numbers, **others)


def write(job: Writing) -> None:
    """Write all pictures to one file."""
    with job.target.open("w", encoding="utf-8", newline="\n") as file:
        for picture in job.pictures:
            file.write(line_of(picture) + "\n")


def line_of(picture: LabelledPicture) -> str:
    """Return the line of a picture, without its end."""
    entry: dict[str, Any] = {"image": picture.name, "width": picture.image_wh[0], "height": picture.image_wh[1]}
    entry |= {name: text for name, text in (("clip", picture.clip), ("split", picture.split)) if text}
    entry["objects"] = [_object(one) for one in picture.objects]
    return json.dumps(entry, ensure_ascii=False)


def _object(one: LabelledBox) -> dict[str, Any]:
    found: dict[str, Any] = {"label": one.label, "box": None if one.box is None else [*map(as_written, one.box)]}
    if one.track:
        found["track_id"] = one.track
    if one.score is not None:
        found["score"] = one.score
    if one.attributes:
        found["attributes"] = plain_attributes(one.attributes)
    return found


FORMAT = AnnotationFormat(
    name="jsonl",
    help="JSON lines, an object for each picture",
    endings=(".jsonl", ".ndjson"),
    read=read,
    write=write,
    holds=frozenset({"track", "attributes", "score", "absent"}),
    is_folder=False,
)
