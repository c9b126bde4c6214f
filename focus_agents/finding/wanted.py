"""The objects to find: objects by name, each with pictures that show the object in a box.

One support as a text is `PICTURE:x1,y1,x2,y2`, or `PICTURE:x1,y1,x2,y2:NAME` if there are several objects. The picture
may be any path, also one with colons and commas.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from focus_env.annotations import LabelledPicture, read_annotations
from focus_env.boxes import as_box
from focus_env.images import read_picture
from focus_env.pictures import as_supports
from focus_env.text_files import finite_number
from focus_env.types import Box, ImageArray

T = TypeVar("T")

UNNAMED = "object"
"""The name of an object without a name."""
DEFAULT_SHOTS = 4
"""Supports of an object that are taken from a file of annotations, which may hold thousands."""


@dataclass(frozen=True, eq=False)
class Wanted:
    """An object to find.

    Attributes:
        label: Name of the object.
        supports: Pictures [H, W, 3] uint8, each with a box `xyxy` in its pixels.
        files: File of each support; None: in memory.
        num_known: Number of the object's boxes in a file of annotations, from which the supports were taken.
    """

    label: str
    supports: tuple[tuple[ImageArray, Box], ...]
    files: tuple[Path | None, ...]
    num_known: int = 0

    def digest(self) -> str:
        """Return a digest that changes with the name, the pictures and the boxes."""
        found = hashlib.sha256(repr(self.label).encode())
        for image, box in self.supports:
            found.update(repr((image.shape, tuple(box))).encode())
            found.update(image.tobytes())
        return found.hexdigest()


def read_support(text: str) -> tuple[Path, Box, str]:
    r"""Return the picture, the box and the name of a support that is written as the module says.

    Raises:
        ValueError: If the text is not such a support; the message names the wrong part.

    >>> read_support(r"C:\photos\a.jpg:10,20,80,120:my mug")[1:]
    (Box(x1=10.0, y1=20.0, x2=80.0, y2=120.0), 'my mug')
    """
    parts = text.split(":")
    for num_behind in (1, 2):  # a name may look like a box, and a picture may end like one
        numbers = parts[-num_behind].split(",") if len(parts) > num_behind else []
        values = [finite_number(number) for number in numbers]
        if len(values) == 4 and None not in values:
            path = ":".join(parts[:-num_behind])
            label = ":".join(parts[len(parts) - num_behind + 1 :]).strip()
            if not path or (num_behind == 2 and not label):
                missing = "name" if path else "picture"
                raise ValueError(f"support {text!r}: expected a {missing} beside the box, got none")
            return Path(os.path.expanduser(path)), Box(*(value for value in values if value is not None)), label
    last = next((part for part in reversed(parts[1:]) if "," in part), "")
    got = f"got the box {last!r}" if last else "found no box"
    raise ValueError(
        f"support {text!r}: expected PICTURE:x1,y1,x2,y2 with four numbers in pixels, such as a.jpg:10,20,80,120, {got}"
    )


def wanted_of_texts(texts: Sequence[str], *, name: str = UNNAMED) -> list[Wanted]:
    """Return the objects that supports as texts show, see the module.

    Args:
        texts: The supports.
        name: Name of an object whose supports have none.

    Raises:
        ValueError: If a support is malformed, or its box is not inside its picture.
        DatasetError: If a picture cannot be read.
    """
    shown: dict[str, list[tuple[Path, Box]]] = {}
    pixels: dict[Path, ImageArray] = {}
    for text, (path, box, label) in [(text, read_support(text)) for text in texts]:
        image = pixels[path] if path in pixels else pixels.setdefault(path, read_picture(path))
        wh = image.shape[1], image.shape[0]
        shown.setdefault(label or name, []).append((path, as_box(box, f"box of support {text!r}", image_wh=wh)))
    return [
        Wanted(label, tuple((pixels[path], box) for path, box in pairs), tuple(path for path, _ in pairs))
        for label, pairs in shown.items()
    ]


def wanted_of_file(
    file: Path,
    *,
    names: Sequence[str] = (),
    shots: int = DEFAULT_SHOTS,
    format: str | None = None,
    image_root: Path | None = None,
) -> tuple[list[Wanted], list[str]]:
    """Return the objects that annotations show, of any format that `focus_env.annotations` reads.

    Args:
        file: The file or folder.
        names: Labels of the objects to find; none: all labels.
        shots: Most supports of each object, spread evenly over its boxes.
        format: As for `read_annotations`.
        image_root: Likewise.

    Returns:
        (The objects, the faults of annotations that were left out.)

    Raises:
        ValueError: If a label has no box.
        DatasetError: If nothing can be read.
    """
    read = read_annotations(file, format=format, image_root=image_root, needs_pictures=True, on_bad="skip")
    boxes = boxes_of(read.pictures)
    left_out = [fault.message for fault in read.faults]
    if not boxes:
        raise ValueError(": ".join([f"{file}: expected boxes to look for, found none", *left_out[:1]]))
    if missing := [name for name in names if name not in boxes]:
        raise ValueError(f"{file}: expected boxes of {missing[0]!r}, found {', '.join(map(repr, boxes))}")
    pixels: dict[Path, ImageArray] = {}
    wanted = []
    for label in names or boxes:
        supports, files = [], []
        for picture, box in spread(boxes[label], shots):
            path = picture.path
            assert path is not None, f"{picture.name} was read without its file"
            image = pixels[path] if path in pixels else pixels.setdefault(path, read_picture(path))
            supports.append((image, box))
            files.append(path)
        wanted.append(Wanted(label, tuple(supports), tuple(files), len(boxes[label])))
    return wanted, left_out


def boxes_of(pictures: Sequence[LabelledPicture]) -> dict[str, list[tuple[LabelledPicture, Box]]]:
    """Return the boxes that can be supports, by label, in the order of the pictures."""
    found: dict[str, list[tuple[LabelledPicture, Box]]] = {}
    for picture in pictures:
        for one in picture.objects:
            if one.box is not None and one.attributes.get("iscrowd") != "true":
                found.setdefault(one.label, []).append((picture, one.box))
    return found


def spread(known: Sequence[T], count: int) -> list[T]:
    """Return `count` items of a sequence, evenly spread, or all items if there are fewer.

    >>> spread("abcdefg", 3)
    ['a', 'd', 'g']
    """
    places = np.unique(np.linspace(0, len(known) - 1, min(count, len(known))).round().astype(int))
    return [known[place] for place in places.tolist()]


def as_wanted(supports: Any, *, name: str = UNNAMED) -> list[Wanted]:
    """Return the objects that supports in Python show.

    Args:
        supports: Pairs of a picture and a box of one object, as for `focus_env.pictures.as_supports`; texts as in the
            module; or a mapping from names of objects to either of these.
        name: Name of an object without one.

    Raises:
        ValueError: If there is no support, or one is malformed.
        DatasetError: If a picture cannot be read.
    """
    if isinstance(supports, str):
        supports = [supports]
    if isinstance(supports, Mapping):
        if not supports:
            raise ValueError("supports: expected at least one object, got none")
        found = [as_wanted(own, name=str(label)) for label, own in supports.items()]
        if several := [label for label, own in zip(supports, found, strict=True) if len(own) > 1]:
            raise ValueError(f"supports of {several[0]!r}: expected supports without a name of their own")
        return joined([one for own in found for one in own])
    if isinstance(supports, Sequence) and supports and all(isinstance(one, Wanted) for one in supports):
        return joined(supports)
    if isinstance(supports, Sequence) and supports and all(isinstance(one, str) for one in supports):
        return wanted_of_texts(supports, name=name)
    pairs = as_supports(supports)
    files = tuple(Path(pair[0]) if isinstance(pair[0], str | Path) else None for pair in supports)
    return [Wanted(name, tuple(pairs), files)]


def joined(parts: Sequence[Wanted]) -> list[Wanted]:
    """Return the objects, those of the same name joined into one."""
    found: dict[str, Wanted] = {}
    for one in parts:
        if (before := found.get(one.label)) is not None:
            one = Wanted(
                one.label,
                (*before.supports, *one.supports),
                (*before.files, *one.files),
                before.num_known + one.num_known,
            )
        found[one.label] = one
    if bad := [label for label in found if not label.strip()]:
        raise ValueError(f"supports: expected a name of each object, got {bad[0]!r}")
    return list(found.values())


def given_boxes(wanted: Wanted, path: Path | None) -> list[Box]:
    """Return the boxes that supports of an object give in a picture, where no policy need be asked.

    Args:
        wanted: The object.
        path: The picture's file; None: the picture is in memory, and no support names it.
    """
    if path is None:
        return []
    found = []
    for file, (_, box) in zip(wanted.files, wanted.supports, strict=True):
        try:
            if file is not None and os.path.samefile(file, path):
                found.append(box)
        except OSError:
            continue
    return found
