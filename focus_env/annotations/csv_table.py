"""CSV: a line for each box, with a heading.

Columns are found by their names, several of which are known: image (filename, file, path, …), x1 y1 x2 y2 (xmin …) or
x y width height with image_width and image_height, label (class, name, category), track_id, score, absent, attributes
(a JSON object). All other columns are attributes. Without a heading the columns are image, x1, y1, x2, y2, label, as in
keras-retinanet. Values are between commas, semicolons or tabs. A line with neither box nor label means that the picture
has no object.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from focus_env.annotations.formats import AnnotationFormat, Writing
from focus_env.annotations.lookup import walk
from focus_env.annotations.reading import Reading
from focus_env.annotations.records import LabelledBox, LabelledPicture
from focus_env.annotations.values import as_attributes, plain_attributes, plain_number
from focus_env.errors import DatasetError
from focus_env.text_files import LARGEST_JSON, finite_number, read_text

ADVICE = "pass a CSV file with a heading such as image,x1,y1,x2,y2,label, or the folder that holds it"
COLUMNS = (
    "image", "width", "height", "x1", "y1", "x2", "y2", "label", "track_id", "score", "absent", "attributes", "clip",
    "split",
)  # fmt: skip
"""As they are written."""
OTHER_NAMES = {
    "image": ("image", "filename", "file_name", "file", "path", "image_path", "imagepath", "image_name", "picture"),
    "width": ("width", "image_width", "img_width", "imagewidth"),
    "height": ("height", "image_height", "img_height", "imageheight"),
    "x1": ("x1", "xmin", "x_min", "left"),
    "y1": ("y1", "ymin", "y_min", "top"),
    "x2": ("x2", "xmax", "x_max", "right"),
    "y2": ("y2", "ymax", "y_max", "bottom"),
    "label": ("label", "class", "label_name", "class_name", "category", "name"),
    "track_id": ("track_id", "track", "identity", "object_id", "instance_id"),
    "score": ("score", "confidence", "conf"),
    "absent": ("absent",),
    "attributes": ("attributes",),
    "clip": ("clip", "video", "sequence"),
    "split": ("split", "subset"),
}
"""Names of columns by their meaning, in small letters."""
OF_SIZE = {
    "left": ("x", "bbox_x"), "top": ("y", "bbox_y"), "wide": ("width", "w", "bbox_width"),
    "high": ("height", "h", "bbox_height"), "width": OTHER_NAMES["width"][1:], "height": OTHER_NAMES["height"][1:],
}  # fmt: skip
"""The same where a box is x, y, width, height."""
BARE = ("image", "x1", "y1", "x2", "y2", "label")


def read(reading: Reading) -> None:
    """Read a file, or all such files below a folder."""
    paths = list(walk(reading.path, (".csv", ".tsv"))) if reading.path.is_dir() else [reading.path]
    if not paths:
        raise DatasetError(f"{reading.path}: expected a CSV file, found none; {ADVICE}")
    for path in paths:
        with reading.one_of_many():
            _read_file(reading, path)


def _read_file(reading: Reading, path: Path) -> None:
    text = read_text(path, advice=ADVICE, root=reading.root, max_bytes=LARGEST_JSON).rstrip("\0\x1a")
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows = _rows(reading, lines, path)
    start = next(rows, None)
    if start is None:
        raise DatasetError(f"{path}: expected a heading and a line for each box, got an empty file; {ADVICE}")
    columns = _columns([name.strip().lower() for name in start[1]])
    if columns is None and len(start[1]) == len(BARE) and finite_number(start[1][1]) is not None:
        columns = dict(zip(BARE, range(len(BARE)), strict=True))
        _read_row(reading, path, start[0], start[1], columns, [])
        names: list[str] = []
    elif columns is None:
        raise DatasetError(f"{path}, line 1: expected a heading with {', '.join(BARE)}, got {first!r:.120}; {ADVICE}")
    else:
        names = [name.strip() for name in start[1]]
    for number, row in rows:
        _read_row(reading, path, number, row, columns, names)


def _rows(reading: Reading, lines: Any, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines of a reader of CSV that hold something, with their numbers."""
    while True:
        number = lines.line_num + 1
        try:
            row = next(lines)
        except StopIteration:
            return
        except csv.Error as error:  # the rest of the file may hang on it
            reading.fault("entries_bad", f"{path}, line {number}: expected values between commas: {error}; correct it")
            continue
        if any(value.strip() for value in row):
            yield number, row


def _columns(heading: list[str]) -> dict[str, int] | None:
    """Return places of the columns by their meaning; None if these are no names of ours."""

    def place(names: tuple[str, ...]) -> int | None:
        return next((heading.index(name) for name in names if name in heading), None)

    found = {meaning: at for meaning, names in OTHER_NAMES.items() if (at := place(names)) is not None}
    if found.keys() >= {"image", "x1", "y1", "x2", "y2"}:
        return found
    found |= {f"of_{meaning}": at for meaning, names in OF_SIZE.items() if (at := place(names)) is not None}
    if found.keys() >= {"image", "of_left", "of_top", "of_wide", "of_high"}:
        for meaning in ("width", "height"):
            found.pop(meaning, None)
            if f"of_{meaning}" in found:
                found[meaning] = found.pop(f"of_{meaning}")
        return found
    return None


def _read_row(
    reading: Reading, path: Path, number: int, row: list[str], columns: Mapping[str, int], names: list[str]
) -> None:
    where = f"{path}, line {number}"

    def value(meaning: str) -> str:
        at = columns.get(meaning, len(row))
        return row[at].strip() if at < len(row) else ""

    if not value("image"):
        reading.fault("entries_bad", f"{where}: expected the name of a picture, got none; add it")
        return
    stated = (value("width"), value("height")) if "width" in columns and "height" in columns else None
    draft = reading.picture(
        value("image"), where=where, near=reading.lookup.near(path.parent), stated_wh=stated, clip=value("clip"),
        split=value("split"), is_repeated=True,
    )  # fmt: skip
    texts = [value(name) for name in ("x1", "y1", "x2", "y2")]
    if "of_left" in columns:
        texts = [value(f"of_{name}") for name in ("left", "top", "wide", "high")]
    attributes = _attributes(reading, value("attributes"), where)
    others = {name: row[at].strip() for at, name in enumerate(names) if at not in columns.values() and at < len(row)}
    attributes |= {name: text for name, text in others.items() if name and text}
    track, score = value("track_id"), value("score")
    label = value("label") or ("" if "label" in columns else "object")
    if value("absent").lower() in ("1", "true", "yes"):
        draft.add_absent(label, where=where, track=track, attributes=attributes, score=score)
    elif any(texts) or value("label"):
        numbers = [finite_number(text) for text in texts]
        if "of_left" in columns and all(known is not None for known in numbers):
            numbers = [*numbers[:2], *((numbers[at] or 0) + (numbers[at + 2] or 0) for at in (0, 1))]
        draft.add(label, numbers, where=where, track=track, attributes=attributes, score=score)


def _attributes(reading: Reading, text: str, where: str) -> dict[str, str]:
    if not text:
        return {}
    try:
        return as_attributes(json.loads(text))
    except (ValueError, RecursionError):
        reading.note("attributes_bad", f"{where}: expected a JSON object as attributes, got {text!r:.80}; left out")
        return {}


def write(job: Writing) -> None:
    """Write all pictures to one file."""
    with job.target.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(COLUMNS)
        for picture in job.pictures:
            for one in picture.objects:
                lines.writerow(_row(picture, one))
            if not picture.objects:
                lines.writerow(_row(picture, None))


def _row(picture: LabelledPicture, one: LabelledBox | None) -> list[object]:
    start: list[object] = [picture.name, *picture.image_wh]
    end = [picture.clip, picture.split]
    if one is None:
        return [*start, *[""] * 9, *end]
    corners = [""] * 4 if one.box is None else [plain_number(number) for number in one.box]
    score = "" if one.score is None else repr(one.score)
    attributes = json.dumps(plain_attributes(one.attributes), ensure_ascii=False) if one.attributes else ""
    absent = "true" if one.box is None else ""
    return [*start, *corners, one.label, one.track, score, absent, attributes, *end]


FORMAT = AnnotationFormat(
    name="csv",
    help="CSV, a line for each box",
    endings=(".csv", ".tsv"),
    read=read,
    write=write,
    holds=frozenset({"track", "attributes", "score", "absent"}),
    is_folder=False,
)
