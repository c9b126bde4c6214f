"""TAO: from its annotation file to tracks (https://taodataset.org, Dave et al., arXiv:2005.10356).

Layout; TAO-Amodal has the same files, with those of the test set:

    <root>/frames/<file_name>                         pictures, e.g. train/YFCC100M/<video>/frame0391.jpg
    <root>/annotations/train.json                     split "train"
    <root>/annotations/validation.json                split "val"
    <root>/annotations/test.json                      split "test", or where that is not there,
    <root>/annotations/tao_test_annotations.json      this

Such a file is an object of lists. Of their entries is read:

    videos                                            id, name
    images                                            id, video_id, file_name, width, height, frame_index
    tracks                                            id, video_id, category_id
    categories                                        id, name, merged: near-synonyms, a list of objects with an id
    annotations                                       id, image_id, track_id, category_id,
                                                      bbox: [x_min, y_min, width, height] in pixels

Tracks come in the order in which `annotations` first names them, their frames in the order of frame_index. Ids of
merged categories are replaced by that of the category whose list has them, as TAO's toolkit does.

What is made of defects:

    a width or height <= 0                            no box in that frame, noted
    a box that reaches beyond the picture             clipped; no box where nothing of it is left, noted
    a track without annotations                       left out: it has no frames
    a frame_index that two images of a video have     their order is that of the annotations
    a picture missing or of another size              DatasetError when it is asked for
    a list, key or id missing, a value of another     DatasetError: file, list and position, what was expected and
    type, not finite, or that contradicts another,    found; all of it is looked at when the split is opened
    ids, names or files twice, two boxes of a track
    in one picture, two categories merged into each
    other, a path that leaves the frames
    the same of an annotation, with `on_bad` 'skip'   DatasetError when its track is asked for

No picture is opened until it is asked for: their sizes are in the file. Sizes and boxes are those of pictures as they
are shown, see `focus_env.images`: one that its EXIF orientation turns away from the size in the file is an error.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from focus_env.datasets.readers.base import ReadTracks
from focus_env.datasets.readers.files import XYWH, as_name, inside, json_numbers, placed_box, read_json
from focus_env.errors import DatasetError
from focus_env.images import LARGEST_PICTURE
from focus_env.types import Frame, Track

FILES = {
    "train": ("train.json",),
    "val": ("validation.json",),
    "test": ("test.json", "tao_test_annotations.json"),
}
"""By split, the files of which the first is read that is there."""

LISTS_OF_TEST_VIDEOS = (*FILES["test"], "test_without_annotations.json")
ADVICE = "pass as `root` the folder that holds annotations/ and frames/ of TAO, and copy what is missing there"
TEST_ADVICE = "TAO-Amodal has the boxes of the test set, annotations/tao_test_annotations.json; " + ADVICE
CORRECT = "correct the entry, or remove it with what names it"
ANNOTATION = {"id": int, "image_id": int, "track_id": int, "category_id": int, "bbox": list}
KINDS = {int: "a whole number", str: "a string that is not empty", list: "a list"}


@dataclass(frozen=True, slots=True)
class _Row:
    """One track: ids of its images, in the order of time, and its box in each, as the file has it."""

    identity: str
    video: str
    category: str
    images: tuple[int, ...]
    boxes: tuple[XYWH, ...]
    fault: str = ""
    """What is wrong with one of its annotations."""


class TaoTracks(ReadTracks[_Row]):
    """The tracks of a split. The file is read once; what is kept of it are numbers and names.

    Args:
        root: The folder that holds ``annotations`` and ``frames``.
        split: ``"train"``, ``"val"`` or ``"test"``.
        skips: Whether an annotation that is wrong costs its track alone, which then raises when it is read.

    Raises:
        ValueError: If the split does not exist.
        DatasetError: If its file is missing or malformed.
    """

    def __init__(self, root: str | Path, *, split: str, skips: bool = False) -> None:
        if split not in FILES:
            raise ValueError(f"TAO split must be one of {tuple(FILES)}, got {split!r}")
        self._frames = Path(root) / "frames"
        path = _first_there(Path(root), FILES[split], advice=TEST_ADVICE if split == "test" else ADVICE)
        self._images, self._keys = _read_rows(path, frames=self._frames, skips=skips)

    def _read(self, key: _Row) -> Track:
        if key.fault:
            raise DatasetError(key.fault)
        named = [self._images[image] for image in key.images]
        frames = tuple(Frame(name, image_wh, self._frames / name) for name, image_wh in named)
        placed = [placed_box(box, frame.image_wh) for box, frame in zip(key.boxes, frames, strict=True)]
        boxes, notes = zip(*placed, strict=True)
        return Track(key.identity, frames, boxes, category=key.category, notes=notes, video=key.video)


def tao_held_out_lasot_videos(root: str | Path) -> frozenset[str]:
    """Names of the LaSOT sequences in TAO's test and validation sets, to be left out of a training.

    TAO asks not to train on them; most are in LaSOT's training set
    (https://github.com/TAO-Dataset/tao/blob/master/docs/faqs.md).

    Args:
        root: The folder that holds ``annotations``; in it, one of `LISTS_OF_TEST_VIDEOS` must be, and the validation
            set's file is read if it is there.

    Returns:
        Names as LaSOT has them, e.g. ``"zebra-14"``.

    Raises:
        DatasetError: If there is no list of test videos, a file is malformed, or the test set names no video of LaSOT.
    """
    test = _first_there(Path(root), LISTS_OF_TEST_VIDEOS, advice=ADVICE)
    names = _lasot_videos(test)
    if not names:
        raise DatasetError(
            f"{test}: expected videos such as 'test/LaSOT/zebra-14', got none of LaSOT; pass as `root` TAO's own folder"
        )
    (validation,) = (Path(root) / "annotations" / name for name in FILES["val"])
    return names | _lasot_videos(validation) if os.path.lexists(validation) else names


def _lasot_videos(path: Path) -> frozenset[str]:
    videos = _entries(read_json(path, advice=ADVICE, root=path.parent), "videos", {"name": str}, path)
    parts = [video["name"].split("/") for _, video in videos]
    return frozenset(name for *_, source, name in (part for part in parts if len(part) > 1) if source == "LaSOT")


def _first_there(root: Path, names: Sequence[str], *, advice: str) -> Path:
    paths = [root / "annotations" / name for name in names]
    for path in paths:
        if os.path.lexists(path):
            return path
    raise DatasetError(f"{' or '.join(map(str, paths))}: expected this file, found none; {advice}")


def _read_rows(path: Path, *, frames: Path, skips: bool) -> tuple[dict[int, tuple[str, tuple[int, int]]], list[_Row]]:
    """Name and size of the images by id, and the tracks."""
    data = read_json(path, advice=ADVICE, root=path.parent)
    videos = _by_id(data, "videos", {"name": str}, path, unique=("name",))
    categories = _by_id(data, "categories", {"name": str}, path)
    images = _read_images(data, videos, path, frames=frames)
    tracks = _by_id(data, "tracks", {"video_id": int, "category_id": int}, path)
    merged = _merged(data, path)
    for position, track in enumerate(tracks.values()):
        where = f"{path}, tracks[{position}]"
        _require_known(track["video_id"], videos, "video_id", where)
        track["category_id"] = merged.get(track["category_id"], track["category_id"])
        _require_known(track["category_id"], categories, "category_id", where)
    rows = []
    by_track, faults = _boxes_by_track(data, images, tracks, merged, path, skips=skips)
    for identity, boxes in by_track.items():
        in_time = sorted(boxes, key=lambda image: int(images[image]["frame_index"]))
        video = videos[tracks[identity]["video_id"]]["name"]
        category = categories[tracks[identity]["category_id"]]["name"]
        in_order = tuple(boxes[image] for image in in_time)
        fault = faults.get(identity, "")
        rows.append(_Row(as_name(f"{video}/{identity}"), video, as_name(category), tuple(in_time), in_order, fault))
    sizes = {key: (image["file_name"], (image["width"], image["height"])) for key, image in images.items()}
    return sizes, rows


def _read_images(data: Any, videos: Mapping[int, Any], path: Path, *, frames: Path) -> dict[int, dict[str, Any]]:
    fields = {"video_id": int, "file_name": str, "width": int, "height": int, "frame_index": int}
    images = _by_id(data, "images", fields, path, unique=("file_name",))
    for position, image in enumerate(images.values()):
        where = f"{path}, images[{position}]"
        _require_known(image["video_id"], videos, "video_id", where)
        inside(frames, image["file_name"], where=where)
        width, height = image["width"], image["height"]
        if min(width, height) < 1 or width * height > LARGEST_PICTURE:
            raise DatasetError(
                f"{where}: expected a width and height from 1, and at most {LARGEST_PICTURE} pixels, "
                f"got {reprlib.repr(width)} x {reprlib.repr(height)}; {CORRECT}"
            )
    return images


def _merged(data: Any, path: Path) -> dict[int, int]:
    """By category id, the one that replaces it."""
    merged: dict[int, int] = {}
    for where, category in _entries(data, "categories", {}, path):
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
    for one, other in merged.items():
        if other != one and merged.get(other) == one:
            raise DatasetError(
                f"{path}, categories: expected one of two categories to be merged into the other, got {one} and "
                f"{other}, each merged into the other; take one out of the other's `merged`"
            )
    return merged


def _boxes_by_track(
    data: Any,
    images: Mapping[int, Any],
    tracks: Mapping[int, Any],
    merged: Mapping[int, int],
    path: Path,
    *,
    skips: bool,
) -> tuple[dict[int, dict[int, XYWH]], dict[int, str]]:
    """By track id, in the order in which they are first annotated: the box in each image, and what is wrong, if any."""
    by_track: dict[int, dict[int, XYWH]] = {}
    faults: dict[int, str] = {}
    seen: set[int] = set()
    for position, entry in enumerate(_list(data, "annotations", path)):
        where = f"{path}, annotations[{position}]"
        try:
            annotation = _checked(entry, ANNOTATION, where)
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
            track = entry.get("track_id") if isinstance(entry, dict) else None
            if not skips or type(track) is not int or track not in tracks:
                raise
            by_track.setdefault(track, {})
            faults.setdefault(track, str(error))
    return by_track, faults


def _require_fitting(
    annotation: Mapping[str, Any],
    images: Mapping[int, Any],
    tracks: Mapping[int, Any],
    merged: Mapping[int, int],
    where: str,
) -> None:
    """See that the image and the category of an annotation are those of its track."""
    image, track, category = annotation["image_id"], annotation["track_id"], annotation["category_id"]
    _require_known(image, images, "image_id", where)
    _require_known(track, tracks, "track_id", where)
    for name, value, expected in (
        ("an image of video", images[image]["video_id"], tracks[track]["video_id"]),
        ("category", merged.get(category, category), tracks[track]["category_id"]),
    ):
        if value != expected:
            raise DatasetError(f"{where}: expected {name} {expected}, as track {track} has it, got {value}; {CORRECT}")


def _box(values: list[Any], where: str) -> XYWH:
    numbers = json_numbers(values, 4)
    if numbers is None:
        raise DatasetError(
            f"{where}: expected bbox to be [x_min, y_min, width, height], four finite numbers, got "
            f"{reprlib.repr(values)}; {CORRECT}"
        )
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _by_id(
    data: Any, key: str, fields: Mapping[str, type], path: Path, *, unique: tuple[str, ...] = ()
) -> dict[int, dict[str, Any]]:
    """The entries of a list by their id, in their order; neither ids nor the fields in `unique` may repeat."""
    by_id: dict[int, dict[str, Any]] = {}
    seen: dict[str, set[Any]] = {name: set() for name in ("id", *unique)}
    for where, entry in _entries(data, key, {"id": int, **fields}, path):
        for name, values in seen.items():
            _require_unseen(entry, name, values, where)
        by_id[entry["id"]] = entry
    return by_id


def _require_unseen(entry: Mapping[str, Any], name: str, seen: set[Any], where: str) -> None:
    if entry[name] in seen:
        raise DatasetError(
            f"{where}: expected {name} to be its own, got {entry[name]!r} a second time; remove one of them"
        )
    seen.add(entry[name])


def _entries(data: Any, key: str, fields: Mapping[str, type], path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries of a list, each with its place in the file, once their fields are there and of their types."""
    for position, entry in enumerate(_list(data, key, path)):
        where = f"{path}, {key}[{position}]"
        yield where, _checked(entry, fields, where)


def _list(data: Any, key: str, path: Path) -> list[Any]:
    if not isinstance(data, dict):
        raise DatasetError(f"{path}: expected an object, got {reprlib.repr(data)}; {ADVICE}")
    if not isinstance(entries := data.get(key), list):
        raise DatasetError(f"{path}: expected a list {key!r}, got {_shown(data, key)}; {ADVICE}")
    return entries


def _checked(entry: Any, fields: Mapping[str, type], where: str) -> dict[str, Any]:
    """An entry, once its fields are there and of their types."""
    if not isinstance(entry, dict):
        raise DatasetError(f"{where}: expected an object, got {reprlib.repr(entry)}; {CORRECT}")
    for field, kind in fields.items():
        value = entry.get(field)
        if type(value) is not kind or value == "":  # not isinstance: true is no number
            raise DatasetError(f"{where}: expected {field} to be {KINDS[kind]}, got {_shown(entry, field)}; {CORRECT}")
    return entry


def _shown(entry: Mapping[str, Any], key: str) -> str:
    return reprlib.repr(entry[key]) if key in entry else "nothing"


def _require_known(value: int, known: Mapping[int, Any], name: str, where: str) -> None:
    if value not in known:
        raise DatasetError(f"{where}: expected {name} to be an id in the file, got {value!r}; {CORRECT}")
