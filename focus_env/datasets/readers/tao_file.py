"""TAO's annotation file, entry by entry: what is wrong with one costs the tracks that need it; see `tao`."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from focus_env.datasets.readers.files import XYWH
from focus_env.errors import DatasetError
from focus_env.images import LARGEST_PICTURE
from focus_env.text_files import as_name, inside, json_numbers, read_json

ADVICE = "pass as `root` the folder that holds annotations/ and frames/ of TAO, and copy what is missing there"
CORRECT = "correct the entry, or remove it with what names it"
IMAGE = {"id": int, "video_id": int, "file_name": str, "width": int, "height": int, "frame_index": int}
ANNOTATION = {"id": int, "image_id": int, "track_id": int, "category_id": int, "bbox": list}
KINDS = {int: "a whole number", str: "a string that is not empty", list: "a list"}


@dataclass(frozen=True, slots=True)
class Row:
    """One track: ids of its images, in the order of time, and its box in each, as the file has it."""

    identity: str
    video: str
    category: str
    images: tuple[int, ...]
    boxes: tuple[XYWH, ...]
    fault: str = ""
    """The fault of one of the entries that it needs."""


@dataclass
class Entries:
    """The entries of a list by their ids, in their order.

    Attributes:
        by_id: Those that can be used.
        faults: What is wrong with others, by their ids; of those without one, by their places in the file.
        skips: Whether entries that are wrong are kept as faults; else they are errors.
    """

    by_id: dict[int, dict[str, Any]] = field(default_factory=dict)
    faults: dict[int | str, str] = field(default_factory=dict)
    skips: bool = False

    def drop(self, identity: object, where: str, error: DatasetError) -> None:
        """Take note of an entry that is wrong; of two with one id nobody knows which is meant.

        Raises:
            DatasetError: The error, if entries that are wrong are errors.
        """
        if not self.skips:
            raise error
        key = identity if type(identity) is int else where
        self.faults.setdefault(key, str(error))
        if isinstance(key, int):
            self.by_id.pop(key, None)

    def find(self, identity: int, name: str, where: str) -> dict[str, Any]:
        """Return the entry of an id.

        Args:
            identity: The id.
            name: The field that names it.
            where: The entry that has this field.

        Raises:
            DatasetError: If there is none, or it cannot be used.
        """
        if identity in self.faults:
            raise DatasetError(self.faults[identity])
        if identity not in self.by_id:
            raise DatasetError(f"{where}: expected {name} to be an id in the file, got {identity!r}; {CORRECT}")
        return self.by_id[identity]


def read_rows(path: Path, *, frames: Path, skips: bool) -> tuple[dict[int, tuple[str, tuple[int, int]]], list[Row]]:
    """Read a file.

    Args:
        path: The file.
        frames: The folder of the pictures, which no name may leave.
        skips: Whether an entry that is wrong costs the tracks alone that need it, whose rows then say so.

    Returns:
        Name and size of the images by id, and the tracks.

    Raises:
        DatasetError: If the file is missing, has not all of its lists or, without `skips`, has an entry that is wrong.
    """
    data = read_json(path, advice=ADVICE, root=path.parent)
    videos = _read(data, "videos", {"id": int, "name": str}, path, unique=("name",), skips=skips)
    categories, merged = _read_categories(data, path, skips=skips)

    def check_image(image: dict[str, Any], where: str) -> None:
        videos.find(image["video_id"], "video_id", where)
        inside(frames, image["file_name"], where=where)
        _require_size(image, where)

    def check_track(track: dict[str, Any], where: str) -> None:
        videos.find(track["video_id"], "video_id", where)
        track["category_id"] = merged.get(track["category_id"], track["category_id"])
        categories.find(track["category_id"], "category_id", where)

    images = _read(data, "images", IMAGE, path, unique=("file_name",), check=check_image, skips=skips)
    fields = {"id": int, "video_id": int, "category_id": int}
    tracks = _read(data, "tracks", fields, path, check=check_track, skips=skips)
    by_track = _boxes_by_track(data, images, tracks, merged, path)
    rows = []
    for identity, boxes in by_track.items():
        if identity in tracks.faults:
            rows.append(Row(as_name(f"unknown/{identity}"), "", "", (), (), tracks.faults[identity]))
            continue
        track = tracks.by_id[int(identity)]
        video, category = (videos.by_id[track["video_id"]]["name"], categories.by_id[track["category_id"]]["name"])
        in_time = sorted(boxes, key=lambda image: int(images.by_id[image]["frame_index"]))
        in_order = tuple(boxes[image] for image in in_time)
        rows.append(Row(as_name(f"{video}/{identity}"), video, as_name(category), tuple(in_time), in_order))
    sizes = {key: (image["file_name"], (image["width"], image["height"])) for key, image in images.by_id.items()}
    return sizes, rows


def entries(data: Any, key: str, path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the entries of a list, each behind its place in the file.

    Raises:
        DatasetError: If there is no such list.
    """
    if not isinstance(data, dict):
        raise DatasetError(f"{path}: expected an object, got {reprlib.repr(data)}; {ADVICE}")
    if not isinstance(found := data.get(key), list):
        raise DatasetError(f"{path}: expected a list {key!r}, got {_shown(data, key)}; {ADVICE}")
    for position, entry in enumerate(found):
        yield f"{path}, {key}[{position}]", entry


def checked(entry: Any, fields: Mapping[str, type], where: str) -> dict[str, Any]:
    """Return an entry, once its fields are there and of their types.

    Raises:
        DatasetError: If they are not.
    """
    if not isinstance(entry, dict):
        raise DatasetError(f"{where}: expected an object, got {reprlib.repr(entry)}; {CORRECT}")
    for name, kind in fields.items():
        value = entry.get(name)
        if type(value) is not kind or value == "":  # not isinstance: true is no number
            raise DatasetError(f"{where}: expected {name} to be {KINDS[kind]}, got {_shown(entry, name)}; {CORRECT}")
    return entry


def _read(
    data: Any,
    key: str,
    fields: Mapping[str, type],
    path: Path,
    *,
    skips: bool,
    unique: Sequence[str] = (),
    check: Callable[[dict[str, Any], str], None] = lambda entry, where: None,
) -> Entries:
    """Return a list of the file; neither ids nor the fields in `unique` may repeat, each entry must pass a check."""
    found = Entries(skips=skips)
    seen: dict[str, set[Any]] = {name: set() for name in ("id", *unique)}
    for where, entry in entries(data, key, path):
        try:
            checked(entry, fields, where)
            for name, values in seen.items():
                _require_unseen(entry, name, values, where)
            check(entry, where)
            found.by_id[entry["id"]] = entry
        except DatasetError as error:
            found.drop(_id_of(entry, "id"), where, error)
    return found


def _read_categories(data: Any, path: Path, *, skips: bool) -> tuple[Entries, dict[int, int]]:
    """Return the categories; and by a category's id, the one that replaces it."""
    merged: dict[int, int] = {}
    found = _read(
        data,
        "categories",
        {"id": int, "name": str},
        path,
        check=lambda category, where: _merge(category, merged, where),
        skips=skips,
    )
    for one, other in list(merged.items()):
        if other != one and merged.get(other) == one:
            error = DatasetError(
                f"{path}, categories: expected one of two categories to be merged into the other, got {one} and "
                f"{other}, each merged into the other; take one out of the other's `merged`"
            )
            found.drop(one, "", error)
            found.drop(other, "", error)
    return found, merged


def _merge(category: dict[str, Any], merged: dict[int, int], where: str) -> None:
    """Add the near-synonyms that a category replaces."""
    synonyms = category.get("merged", [])
    if not isinstance(synonyms, list) or not all(
        isinstance(synonym, dict) and type(synonym.get("id")) is int for synonym in synonyms
    ):
        raise DatasetError(
            f"{where}: expected merged to be a list of objects with an id, got {reprlib.repr(synonyms)}; {CORRECT}"
        )
    for synonym in synonyms:
        if merged.setdefault(synonym["id"], category["id"]) != category["id"]:
            raise DatasetError(
                f"{where}: expected each category to be merged into one, got {synonym['id']}, which is also "
                f"merged into {merged[synonym['id']]}; {CORRECT}"
            )


def _boxes_by_track(
    data: Any, images: Entries, tracks: Entries, merged: Mapping[int, int], path: Path
) -> dict[int | str, dict[int, XYWH]]:
    """Return by track, in the order of their first annotation, the box in each image; none where it has a fault.

    What is wrong with annotations is added to the faults of their tracks.
    """
    by_track: dict[int | str, dict[int, XYWH]] = {}
    seen: set[int] = set()
    for where, entry in entries(data, "annotations", path):
        named = _id_of(entry, "track_id")
        try:
            annotation = checked(entry, ANNOTATION, where)
            _require_unseen(annotation, "id", seen, where)
            _require_fitting(annotation, images, tracks, merged, where)
            track, image = annotation["track_id"], annotation["image_id"]
            boxes = by_track.setdefault(track, {})
            if image in boxes:
                raise DatasetError(
                    f"{where}: expected one box of track {track} in image {image}, got another; remove one"
                )
            boxes[image] = _box(annotation["bbox"], where)
        except DatasetError as error:
            tracks.drop(named, where, error)
            by_track.setdefault(where if named is None else named, {})
    for key in tracks.faults:
        by_track[key] = {}
    return by_track


def _require_fitting(
    annotation: Mapping[str, Any], images: Entries, tracks: Entries, merged: Mapping[int, int], where: str
) -> None:
    """See that the image and the category of an annotation are those of its track."""
    category, identity = annotation["category_id"], annotation["track_id"]
    image = images.find(annotation["image_id"], "image_id", where)
    track = tracks.find(identity, "track_id", where)
    for name, value, expected in (
        ("an image of video", image["video_id"], track["video_id"]),
        ("category", merged.get(category, category), track["category_id"]),
    ):
        if value != expected:
            raise DatasetError(
                f"{where}: expected {name} {expected}, as track {identity} has it, got {value}; {CORRECT}"
            )


def _require_size(image: Mapping[str, Any], where: str) -> None:
    width, height = image["width"], image["height"]
    if min(width, height) < 1 or width * height > LARGEST_PICTURE:
        raise DatasetError(
            f"{where}: expected a width and height from 1, and at most {LARGEST_PICTURE} pixels, "
            f"got {reprlib.repr(width)} x {reprlib.repr(height)}; {CORRECT}"
        )


def _box(values: list[Any], where: str) -> XYWH:
    numbers = json_numbers(values, 4)
    if numbers is None:
        raise DatasetError(
            f"{where}: expected bbox to be [x_min, y_min, width, height], four finite numbers, got "
            f"{reprlib.repr(values)}; {CORRECT}"
        )
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _require_unseen(entry: Mapping[str, Any], name: str, seen: set[Any], where: str) -> None:
    if entry[name] in seen:
        raise DatasetError(
            f"{where}: expected {name} to be its own, got {entry[name]!r} a second time; remove one of them"
        )
    seen.add(entry[name])


def _id_of(entry: Any, name: str) -> int | None:
    """Return the id in a field of an entry that may be wrong; None if there is none."""
    found = entry.get(name) if isinstance(entry, dict) else None
    return found if type(found) is int else None


def _shown(entry: Mapping[str, Any], key: str) -> str:
    return reprlib.repr(entry[key]) if key in entry else "nothing"
