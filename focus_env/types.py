"""The records that flow through the package, from data set to reward.

    Track -> Episode -> observation -> Message -> (a policy) -> text -> ParseResult -> reward

Boxes here are always `xyxy`: float, absolute pixels of the original image, x right, y down, continuous area
(a box from 3 to 5 is 2 wide). Every other frame exists only at the text boundary, see `focus_env.boxes`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

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


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture, decoded when it is asked for.

    Attributes:
        name: Names the picture within its data set, e.g. ``"train/dog/00000003.jpg"``.
        image_wh: (width, height) in pixels, known without decoding.
        source: Where the pixels are: an image file, or an array [H, W, 3] uint8.
    """

    name: str
    image_wh: tuple[int, int]
    source: Path | ImageArray

    def image(self) -> ImageArray:
        """Decode the picture: a new array [H, W, 3] uint8, RGB.

        Raises:
            ValueError: If the file's size is not `image_wh`, since boxes would then mean something else.
        """
        if isinstance(self.source, np.ndarray):
            return self.source.copy()
        with Image.open(self.source) as picture:
            array = np.array(picture.convert("RGB"))
        if array.shape[:2] != (self.image_wh[1], self.image_wh[0]):
            raise ValueError(
                f"frame {self.name!r}: expected an image of {self.image_wh} (width, height), "
                f"got {array.shape[1::-1]} from {self.source}; index the data set again"
            )
        return array


@dataclass(frozen=True, slots=True)
class Track:
    """One object through the frames of one video, as an adapter reads it; boxes are None where it is absent."""

    identity: str
    frames: tuple[Frame, ...]
    boxes: tuple[Box | None, ...]
    category: str | None = None


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A support picture with the box that shows the object."""

    frame: Frame
    box: Box


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
    """

    episode_id: str
    support: tuple[Exemplar, ...]
    query_frame: Frame
    target_box: Box | None
    identity: str
    category: str | None = None


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
    """

    text: str
    box_span: tuple[int, int] | None = None


class ImagePart(NamedTuple):
    """A picture in a message: [H, W, 3] uint8."""

    image: ImageArray


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of the conversation that a policy sees."""

    role: Literal["system", "user", "assistant"]
    content: Sequence[TextPart | ImagePart]


class ParseStatus(enum.StrEnum):
    """What a model's text turned out to hold. Only `OK` carries a box."""

    OK = "ok"
    ABSENT = "absent"
    """The answer says that the object is not in the picture."""
    NO_BOX = "no_box"
    BAD_NUMBERS = "bad_numbers"
    """Four values in brackets, of which one is no finite number."""
    OUT_OF_RANGE = "out_of_range"
    """A coordinate outside its frame."""
    REVERSED = "reversed"
    """x2 < x1 or y2 < y1."""
    DEGENERATE = "degenerate"
    """No area."""
    MULTIPLE = "multiple"
    """More than one box; taking either would be a guess."""


@dataclass(frozen=True, slots=True)
class ParseResult:
    """What was read from a model's text.

    Attributes:
        status: What the text holds.
        box: `xyxy` in pixels of the query image if the status is `OK`, else None.
        is_strict: Whether the whole text has the answer format, and nothing else. The format reward pays for this.
    """

    status: ParseStatus
    box: Box | None
    is_strict: bool
