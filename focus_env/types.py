"""The records that flow through the package, from data set to reward.

    Track -> Episode -> observation -> Message -> (a policy) -> text -> ParseResult -> reward

Boxes here are always `xyxy`: float, absolute pixels of the original image, x right, y down, continuous area
(a box from 3 to 5 is 2 wide). Every other frame exists only at the text boundary, see `focus_env.boxes`.
"""

from __future__ import annotations

import enum
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image

from focus_env.arrays import Picture, as_picture
from focus_env.errors import DatasetError
from focus_env.images import RECENT, check_picture, check_size, decode, enlarged_wh, shown_wh

ImageArray: TypeAlias = npt.NDArray[np.uint8]
"""[H, W, 3] uint8, RGB."""

BoxArray: TypeAlias = npt.NDArray[np.float64]
"""[..., 4] float64, `xyxy` in pixels."""


class Box(NamedTuple):
    """One box, `xyxy` in pixels of the original image; `x1 < x2` and `y1 < y2` in a valid one."""

    x1: float
    y1: float
    x2: float
    y2: float


@runtime_checkable
class PictureBytes(Protocol):
    """The place of an encoded picture, for example in a store; hashable and picklable."""

    def read(self) -> bytes:
        """Return the bytes that would be in its file."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture, decoded when it is asked for.

    Attributes:
        name: Names the picture within its data set, e.g. ``"train/dog/00000003.jpg"``.
        image_wh: (width, height) in pixels, known without decoding.
        source: Where the pixels are: an image file, its bytes somewhere else, or a picture as `focus_env.arrays` takes
            it, such as an array [H, W, 3] uint8.
        file_wh: (width, height) of the file, where the picture is shown smaller than that; None: as `image_wh`.
    """

    name: str
    image_wh: tuple[int, int]
    source: Path | PictureBytes | Picture
    file_wh: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.source, str) and "://" not in self.source:
            object.__setattr__(self, "source", Path(self.source))
        elif isinstance(self.source, io.IOBase):  # which can be read once
            object.__setattr__(self, "source", self.source.read())

    def image(self) -> ImageArray:
        """Decode the picture: a new array [H, W, 3] uint8, RGB. Files that were decoded lately are remembered.

        Raises:
            DatasetError: If the file is missing or damaged, or of another size, since boxes would then mean something
                else.
        """
        source = self.source
        # An array first: what is no subclass of a protocol takes long to tell.
        if isinstance(source, np.ndarray) or not isinstance(source, Path | PictureBytes):
            try:
                pixels = as_picture(source, f"picture {self.name!r}")
            except ValueError as error:
                raise DatasetError(str(error)) from error
            check_size((pixels.shape[1], pixels.shape[0]), self.file_wh or self.image_wh, f"picture {self.name!r}")
            if self.file_wh is None:
                return pixels.copy()
            return np.array(Image.fromarray(pixels).resize(self.image_wh))
        changed = source.stat().st_mtime_ns if isinstance(source, Path) and source.exists() else None
        return RECENT.get((source, changed, self.file_wh or self.image_wh, self.image_wh), self._decode).copy()

    def check(self) -> None:
        """Look whether a file has a picture of the right size, and an end, without decoding it.

        Raises:
            DatasetError: If not.
        """
        if isinstance(self.source, Path):
            check_picture(self.source, self.file_wh or self.image_wh)

    def shrunk(self, max_pixels: int | None) -> Frame:
        """Return the same picture, shown in at most so many pixels; see `focus_env.images.shown_wh`."""
        size = shown_wh(self.image_wh, max_pixels)
        return self if size == self.image_wh else replace(self, image_wh=size, file_wh=self.file_wh or self.image_wh)

    def enlarged(self, min_pixels: int) -> Frame:
        """Return the same picture, shown in at least so many pixels; see `focus_env.images.enlarged_wh`."""
        size = enlarged_wh(self.image_wh, min_pixels)
        return self if size == self.image_wh else replace(self, image_wh=size, file_wh=self.file_wh or self.image_wh)

    def _decode(self) -> ImageArray:
        source = self.source
        assert isinstance(source, Path | PictureBytes)
        encoded = source if isinstance(source, Path) else source.read()
        return decode(encoded, file_wh=self.file_wh or self.image_wh, image_wh=self.image_wh, name=self.name)


Note: TypeAlias = Literal["", "flagged_absent", "no_size", "negative_size", "outside"]
"""The odd thing about the box of a frame. The source says that the object cannot be seen, with or without a box; or
there is no box, because its width or height is 0 or less, or because none of it lies in the picture."""


@dataclass(frozen=True, slots=True)
class Track:
    """One object through the frames of one video, as an adapter reads it.

    Attributes:
        identity: Names the object within its data set.
        frames: The annotated pictures, in the order of time.
        boxes: One for each frame, as the file has it, but for what lies outside the picture; None where that leaves
            nothing.
        category: Its class name where the source has one.
        notes: One for each frame; empty if nothing is odd about any that has a box.
        video: Names the video, where it may have several tracks; empty: the track is its only one.
    """

    identity: str
    frames: tuple[Frame, ...]
    boxes: tuple[Box | None, ...]
    category: str | None = None
    notes: tuple[Note, ...] = ()
    video: str = ""

    def note(self, position: int) -> Note:
        """Return the odd thing about a frame's box."""
        if self.notes:
            return self.notes[position]
        return "" if self.boxes[position] is not None else "no_size"


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A support picture with the box that shows the object, and what the source says against it."""

    frame: Frame
    box: Box
    note: Note = ""


@dataclass(frozen=True, slots=True)
class Episode:
    """One question: k exemplars of an object, and a query picture in which to find it.

    Attributes:
        episode_id: Names the episode within its data set.
        support: The exemplars, in the order in which the prompt shows them.
        query_frame: The picture to answer for.
        target_box: Where the object is in the query; None where it is absent.
        identity: Which object it is. Splits are disjoint in it.
        category: Its class name where the source has one. Never part of a prompt.
        target_note: What the source says against `target_box`, or why there is none.
    """

    episode_id: str
    support: tuple[Exemplar, ...]
    query_frame: Frame
    target_box: Box | None
    identity: str
    category: str | None = None
    target_note: Note = ""


class EpisodeDataset(Protocol):
    """A sized, indexable, picklable collection of episodes; the same index gives the same episode."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Episode: ...


class TextPart(NamedTuple):
    """A piece of text in a message.

    Attributes:
        text: The words.
        box_span: Where `text` writes a support's box, as (start, stop) in characters, brackets included; None in a
            text without one. Attention losses look for the tokens that lie there.
        box: The box that is written there, `xyxy` in pixels and not rounded, for policies that do not read.
    """

    text: str
    box_span: tuple[int, int] | None = None
    box: Box | None = None


class ImagePart(NamedTuple):
    """A picture in a message: [H, W, 3] uint8."""

    image: ImageArray


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of the conversation that a policy sees."""

    role: Literal["system", "user", "assistant"]
    content: Sequence[TextPart | ImagePart]


class ParseStatus(enum.StrEnum):
    """The kinds of texts that a model writes. Only `OK` and `CLIPPED` carry a box."""

    OK = "ok"
    CLIPPED = "clipped"
    """A box that left the picture by a hair, and was cut; see `focus_env.boxes.CLIP_TOLERANCE`."""
    ABSENT = "absent"
    """The answer says that the object is not in the picture."""
    NO_BOX = "no_box"
    BAD_NUMBERS = "bad_numbers"
    """Four values in brackets, of which one is no finite number, or a decimal where the unit has whole numbers."""
    OUT_OF_RANGE = "out_of_range"
    """A coordinate outside its frame."""
    REVERSED = "reversed"
    """x2 < x1 or y2 < y1."""
    DEGENERATE = "degenerate"
    """No area."""
    MULTIPLE = "multiple"
    """More than one box; taking either would be a guess."""
    AMBIGUOUS = "ambiguous"
    """Four numbers whose order is not known; taking one would be a guess."""


@dataclass(frozen=True, slots=True)
class ParseResult:
    """The result of reading a model's text.

    Attributes:
        status: What the text holds.
        box: `xyxy` in pixels of the query image if the status is `OK` or `CLIPPED`, else None.
        is_strict: Whether the whole text has the answer format, and nothing else. The format reward pays for this.
        numbers: The four numbers of its one box, in the unit of the text, whatever the status; None without one, and
            where one is not finite.
    """

    status: ParseStatus
    box: Box | None
    is_strict: bool
    numbers: tuple[float, float, float, float] | None = field(default=None, compare=False)
