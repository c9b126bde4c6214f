"""Pictures with labelled boxes: the record that every format is read into and written from."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeAlias

from focus_env.types import Box

Part: TypeAlias = Literal["track", "attributes", "score", "absent"]
"""A part of a `LabelledBox` that not every format has a place for."""


@dataclass(frozen=True, slots=True)
class LabelledBox:
    """One object in a picture, or the statement that it is not there.

    Attributes:
        label: Its name, never empty.
        box: `xyxy` in pixels of the picture as a person sees it, inside the picture; None: the object is not there.
        track: Which object it is, where a file says so; empty: it does not.
        attributes: Whatever else a file says of it, as texts; truth values are ``"true"`` and ``"false"``.
        score: How sure somebody was; None: nobody has said.
    """

    label: str
    box: Box | None
    track: str = ""
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    score: float | None = None

    def parts(self) -> Iterator[Part]:
        """Yield the parts that this object has, beside label and box."""
        if self.track:
            yield "track"
        if self.attributes:
            yield "attributes"
        if self.score is not None:
            yield "score"
        if self.box is None:
            yield "absent"


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """A picture with its objects.

    Attributes:
        name: Its path below the folder of the pictures, with forward slashes.
        image_wh: (width, height) in pixels as a person sees it: the turn that EXIF asks for is made.
        objects: What is in it; none: nobody has drawn a box.
        path: Its file; None: no file was found, and the size is the one that the annotations state.
        clip: The video, sequence or task that it is from, where a file names one; empty: none does.
        split: ``"train"``, ``"val"`` or ``"test"``, where files or folders say so; empty: none does.
    """

    name: str
    image_wh: tuple[int, int]
    objects: tuple[LabelledBox, ...] = ()
    path: Path | None = None
    clip: str = ""
    split: str = ""


class Remark(NamedTuple):
    """Something odd in a file of annotations.

    Attributes:
        reason: What it is counted as, such as ``"boxes_outside"``.
        message: File with line or entry, what was expected, what came, and what to do.
    """

    reason: str
    message: str


@dataclass(frozen=True)
class Annotations:
    """Annotations as they were read.

    Attributes:
        pictures: In the order of the files.
        labels: All names of objects, in the order in which the files declare them, also those that no box has.
        faults: What could not be used, and was left out.
        notes: What is odd and was used all the same; the message says how.
    """

    pictures: tuple[LabelledPicture, ...]
    labels: tuple[str, ...] = ()
    faults: tuple[Remark, ...] = ()
    notes: tuple[Remark, ...] = ()

    @property
    def skipped(self) -> Mapping[str, int]:
        """How much was left out, by reason."""
        return MappingProxyType(dict(Counter(fault.reason for fault in self.faults)))

    @property
    def noted(self) -> Mapping[str, int]:
        """How much was used although it is odd, by reason."""
        return MappingProxyType(dict(Counter(note.reason for note in self.notes)))

    @property
    def num_boxes(self) -> int:
        """Objects that have a box."""
        return sum(one.box is not None for picture in self.pictures for one in picture.objects)


def labels_of(pictures: Sequence[LabelledPicture], declared: Sequence[str] = ()) -> tuple[str, ...]:
    """Return all labels: those that are declared, in their order, then others by name."""
    used = {one.label for picture in pictures for one in picture.objects}
    return (*dict.fromkeys(declared), *sorted(used - set(declared)))


def count_parts(pictures: Sequence[LabelledPicture]) -> dict[Part, int]:
    """Return how many objects have each part, for a format to say which of them it has no place for."""
    return dict(Counter(part for picture in pictures for one in picture.objects for part in one.parts()))
