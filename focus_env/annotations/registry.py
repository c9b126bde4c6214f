"""Formats of annotations by name, and by what is in a file or folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from focus_env.annotations import coco, csv_table, cvat, folder, json_lines, label_studio, labelme, voc, yolo
from focus_env.annotations.formats import AnnotationFormat
from focus_env.annotations.lookup import ENDINGS, walk
from focus_env.annotations.xml_files import read_xml
from focus_env.errors import DatasetError
from focus_env.registry import Registry
from focus_env.text_files import read_json

FORMATS: Registry[AnnotationFormat] = Registry(
    "annotation format",
    "focus_env.annotations",
    AnnotationFormat,
    [
        coco.FORMAT, yolo.FORMAT, voc.FORMAT, labelme.FORMAT, label_studio.FORMAT, cvat.FORMAT, csv_table.FORMAT,
        json_lines.FORMAT, folder.FORMAT,
    ],
)  # fmt: skip
"""The formats that are known by name; installed packages add theirs, see `focus_env.registry`."""

MOST_LOOKED_AT = 50
"""Files of a folder that are opened to see what they are."""


def format_named(name: str) -> AnnotationFormat:
    """Return the format of a name.

    Raises:
        ValueError: If there is none.
    """
    if (found := FORMATS.find(name)) is None:
        raise ValueError(f"unknown annotation format {name!r}; there are {FORMATS.known()}")
    return found


def format_to_write(path: Path) -> AnnotationFormat:
    """Return the format that a file is to be written in, by its ending: .json is COCO's.

    Raises:
        ValueError: If the ending is none of a file of annotations, or that of a folder.
    """
    found = _by_ending(path)
    if found is None or found.is_folder:
        files = ", ".join(
            ending for entry in FORMATS.built_in.values() if not entry.is_folder for ending in entry.endings
        )
        folders = ", ".join(entry.name for entry in FORMATS.built_in.values() if entry.is_folder)
        raise ValueError(
            f"{path}: expected one of the endings {files} to tell the format by, got {path.suffix or 'none'}; name the "
            f"format; {folders} are folders"
        )
    return found


def _by_ending(path: Path) -> AnnotationFormat | None:
    return next((entry for entry in FORMATS.built_in.values() if path.suffix.lower() in entry.endings), None)


def format_of(path: Path) -> AnnotationFormat:
    """Return the format of annotations that are there, by their endings and by what is in them.

    Raises:
        DatasetError: If there is nothing, or it is in no format that is known.
    """
    if not path.exists():
        raise DatasetError(f"{path}: expected annotations, found nothing; correct the path")
    if not path.is_dir():
        found = _json_kind(path) if path.suffix.lower() == ".json" else _xml_kind(path, path.parent)
        name = found or (entry.name if (entry := _by_ending(path)) else "")
    else:
        name = next(_kinds_in(path), "")
    if not name:
        raise DatasetError(
            f"{path}: expected annotations in a format that is known, got something else; name the format, one of "
            f"{FORMATS.known()}"
        )
    return format_named(name)


def _json_kind(path: Path) -> str:
    data = read_json(path, advice="correct the path")
    if coco.is_coco(data):
        return "coco"
    if labelme.is_labelme(data):
        return "labelme"
    return "labelstudio" if label_studio.is_label_studio(data) else "unknown" if not isinstance(data, dict) else ""


def _xml_kind(path: Path, root: Path) -> str:
    if path.suffix.lower() != ".xml":
        return ""
    return {"annotation": "voc", "annotations": "cvat"}.get(read_xml(path, root=root).name, "")


def _kinds_in(root: Path) -> Iterator[str]:
    """Yield the formats of a folder, the surest first."""
    if any((root / name).is_file() for name in ("data.yaml", "data.yml", "dataset.yaml", *yolo.NAME_FILES[1:3])):
        yield "yolo"
    for ending in (".xml", ".json"):
        for path in islice(walk(root, (ending,)), MOST_LOOKED_AT):
            try:
                if found := _xml_kind(path, root) or (_json_kind(path) if ending == ".json" else ""):
                    yield found
            except (DatasetError, json.JSONDecodeError):
                continue
    for name, endings in (("csv", (".csv", ".tsv")), ("jsonl", (".jsonl", ".ndjson"))):
        if any(True for _ in walk(root, endings)):
            yield name
    if (root / "labels").is_dir() or (root / "classes.txt").is_file():
        yield "yolo"
    pictures = {path.with_suffix("") for path in islice(walk(root, ENDINGS), 10**5)}
    if any(path.with_suffix("") in pictures for path in walk(root, (".txt",))):
        yield "folder"
