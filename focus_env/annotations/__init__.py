"""Annotation files of the trade, read and written: COCO, YOLO, VOC, LabelMe, Label Studio, CVAT, CSV, JSON lines.

`read_annotations` reads a file or folder of any format into `LabelledPicture` records, `write_annotations` writes
them. Boxes are `xyxy` in pixels of the picture as a person sees it, whatever a format has. One file here is one
format; what a box, a label and the name of a picture may be is decided once for all of them, in
`focus_env.annotations.reading`.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from focus_env.annotations.formats import AnnotationFormat, Writing, check_names
from focus_env.annotations.lookup import default_image_root
from focus_env.annotations.reading import Reading
from focus_env.annotations.records import (
    Annotations,
    LabelledBox,
    LabelledPicture,
    Part,
    Remark,
    count_parts,
    labels_of,
)
from focus_env.annotations.registry import FORMATS, format_named, format_of, format_to_write
from focus_env.boxes import CLIP_TOLERANCE, as_box, clip_box, validate_box
from focus_env.errors import DatasetError
from focus_env.files import fresh_file, fresh_folder
from focus_env.types import Box

__all__ = [
    "FORMATS",
    "AnnotationFormat",
    "Annotations",
    "LabelledBox",
    "LabelledPicture",
    "Part",
    "Remark",
    "check_free",
    "check_pictures",
    "count_parts",
    "format_named",
    "format_of",
    "format_to_write",
    "labels_of",
    "read_annotations",
    "write_annotations",
]


def read_annotations(
    path: str | Path,
    *,
    format: str | None = None,
    image_root: str | Path | None = None,
    needs_pictures: bool = False,
    on_bad: str = "raise",
    on_picture: Callable[[int], None] = lambda num_read: None,
) -> Annotations:
    """Read annotations.

    Args:
        path: A file, or a folder of files.
        format: A name of `FORMATS`; None: the format is found out.
        image_root: The folder of the pictures, which no name may leave; None: the folder, that of the file, or the one
            above it if that is called ``annotations``.
        needs_pictures: Whether a picture that is not there is a fault; else the size that the file states will do.
        on_bad: ``"raise"``, or ``"skip"`` to leave out what cannot be used; `Annotations.faults` names it.
        on_picture: Called with the number of pictures read, for progress.

    Raises:
        ValueError: If there is no such format, or `on_bad` is something else.
        DatasetError: If the file is missing or cannot be read at all; or without ``"skip"``, if anything in it cannot
            be used. The message names the first, and how many others there are.
        MissingDependencyError: If a format needs a package that is not installed.
    """
    if on_bad not in ("raise", "skip"):
        raise ValueError(f"on_bad must be 'raise' or 'skip', got {on_bad!r}")
    path = Path(os.path.expanduser(path))
    found = format_of(path) if format is None else format_named(format)
    if not path.exists():
        raise DatasetError(f"{path}: expected annotations, found nothing; correct the path")
    root = default_image_root(path) if image_root is None else Path(os.path.expanduser(image_root))
    if not root.is_dir():
        raise DatasetError(f"{root}: expected the folder of the pictures, found none; pass `image_root`")
    reading = Reading(path, image_root=root, needs_pictures=needs_pictures, on_picture=on_picture)
    found.read(reading)
    result = reading.result()
    if on_bad == "raise" and result.faults:
        others = ", ".join(f"{reason}: {count}" for reason, count in result.skipped.items())
        raise DatasetError(
            f"{result.faults[0].message} (all that cannot be used: {others}); or leave it out, with `on_bad` 'skip'"
        )
    return result


def write_annotations(
    path: str | Path,
    pictures: Iterable[LabelledPicture],
    *,
    format: str | None = None,
    labels: Sequence[str] = (),
    overwrite: bool = False,
    copy_pictures: bool = False,
) -> AnnotationFormat:
    """Write annotations, all at once: at whatever moment this is stopped, the path is as before or whole.

    Args:
        path: The file to write, or the folder of a format with a file for each picture.
        pictures: What to write. What the format has no place for is left out, see `AnnotationFormat.holds` and
            `count_parts`.
        format: A name of `FORMATS`; None: by the ending of `path`.
        labels: Labels in the order in which classes are to be numbered; others follow by name.
        overwrite: Whether what is there is replaced, a folder with all that is in it.
        copy_pictures: Whether the pictures are copied into the folder, where the format expects them.

    Returns:
        The format.

    Raises:
        ValueError: If the format is not known or is only read, something is at the path, a box is none in its picture,
            two pictures have one name, or pictures are to be copied that are not there or into a format of one file.
        StorageError: If it cannot be written.
    """
    path = Path(os.path.expanduser(path))
    found = format_to_write(path) if format is None else format_named(format)
    listed = [_checked(picture) for picture in pictures]
    check_pictures(listed, found)
    if found.write is None:
        raise ValueError(f"annotation format {found.name!r} is only read, not written; choose another")
    if copy_pictures:
        _require_copies(found, listed)
    check_free(path, found, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    job = Writing(pictures=listed, labels=labels_of(listed, labels), target=path, place=path)
    if not found.is_folder:
        with fresh_file(path) as scratch:
            found.write(dataclasses.replace(job, target=scratch))
        return found
    with fresh_folder(path) as scratch:
        scratch.mkdir()
        for picture in listed if copy_pictures else ():
            assert picture.path is not None
            copy = scratch / (found.pictures_folder or "") / _below(picture.name, found)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture.path, copy)
        beside = [dataclasses.replace(p, path=None) for p in listed] if copy_pictures else listed
        found.write(dataclasses.replace(job, pictures=beside, target=scratch))
    return found


def check_pictures(pictures: Sequence[LabelledPicture], found: AnnotationFormat) -> None:
    """Refuse pictures whose names cannot stand in a format together; sizes and objects are not looked at.

    Raises:
        ValueError: If a name is absolute or goes up, two are the same, or the format cannot tell two apart.
    """
    check_names(pictures)
    found.check(pictures)


def check_free(path: Path, found: AnnotationFormat, *, overwrite: bool) -> None:
    """Refuse a path at which something lies that is not to be replaced.

    Raises:
        ValueError: If there is something; an empty folder is nothing, where a folder is to be written.
    """
    if found.is_folder and path.exists() and not path.is_dir():
        raise ValueError(f"{path}: expected a folder to write {found.name} to, got a file; choose another path")
    if not found.is_folder and path.is_dir():
        raise ValueError(f"{path}: expected a file to write {found.name} to, got a folder; choose another path")
    is_there = any(path.iterdir()) if path.is_dir() else os.path.lexists(path) and not path.is_char_device()
    if is_there and not overwrite:
        raise ValueError(
            f"{path}: expected a free path, found a file or folder there; choose another path, or pass `overwrite`"
        )


def _below(name: str, found: AnnotationFormat) -> str:
    """Return the name of a picture below the folder of pictures, which it may begin with."""
    start = f"{found.pictures_folder}/"
    return name.removeprefix(start) if found.pictures_folder else name


def _checked(picture: LabelledPicture) -> LabelledPicture:
    """Return a picture whose boxes are known to lie in it."""
    for place, one in enumerate(picture.objects):
        if not one.label:
            raise ValueError(f"object {place} of picture {picture.name!r}: expected a label, got none")
    objects = tuple(
        one if one.box is None else dataclasses.replace(one, box=_inside(one, picture)) for one in picture.objects
    )
    return dataclasses.replace(picture, objects=objects)


def _inside(one: LabelledBox, picture: LabelledPicture) -> Box:
    name = f"box of {one.label!r} in {picture.name!r}"
    box = as_box(one.box, name)
    validate_box(box, picture.image_wh, name, tolerance=CLIP_TOLERANCE)
    inside = clip_box(box, picture.image_wh)
    if inside is None:
        raise ValueError(f"{name} must lie inside the image of {picture.image_wh} (width, height), got {tuple(box)}")
    return inside


def _require_copies(found: AnnotationFormat, pictures: Sequence[LabelledPicture]) -> None:
    if found.pictures_folder is None:
        raise ValueError(f"annotation format {found.name!r} is one file: leave out `copy_pictures`")
    for picture in pictures:
        if picture.path is None:
            raise ValueError(f"picture {picture.name!r}: expected its file to copy, found none; pass `image_root`")
