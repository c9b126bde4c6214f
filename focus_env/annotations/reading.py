"""The result that a reader of a format fills: pictures, their boxes, and the faults of any of them.

A format says what stands in its files. What a box, a label or the name of a picture may be is decided here, once for
all formats:

    used, and noted
        a box that reaches beyond the picture         cut there (by less than a pixel: cut, no note)
        a box twice, the same in all                  taken once
        a picture that is named twice                 taken once, with the boxes of both
        boxes drawn on a picture without the turn     turned with the picture
        that its EXIF asks for, as the stated size
        shows
        a picture that is not there or is damaged,    read with the size that the file states
        where nobody asked for pixels
        a score that is no number                     left out
    left out, and named
        a box of which nothing lies in the picture; without area; with its corners in the wrong order; with
        something else than four finite numbers; without a label; of a picture that is left out
        a picture whose name leads out of the folder; that is not there; that is damaged; whose size is another
        than the file states
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from focus_env.annotations.lookup import Lookup, split_named
from focus_env.annotations.records import Annotations, LabelledBox, LabelledPicture, Remark
from focus_env.annotations.values import as_label, as_track, turned_box, upright, whole_size
from focus_env.boxes import CoordinateFrame, are_shares, clip_box, frame_to_box
from focus_env.errors import DatasetError
from focus_env.images import picture_wh
from focus_env.picture_files import DECODER_ERRORS, opened
from focus_env.text_files import as_name, finite_number
from focus_env.types import Box

ROUNDING = 1.0
"""Pixels by which tools that write whole numbers may leave a picture."""

Numbers = Sequence[float | None]
"""Four numbers of a file; None where there is something else."""


class Draft:
    """A picture whose boxes are being read.

    Attributes:
        name: As `LabelledPicture` has it.
        image_wh: (width, height) as the annotations mean it: before the turn of EXIF where they do.
        is_usable: Whether the picture can be used; boxes of others are counted, and left out.
    """

    def __init__(self, reading: Reading, name: str, path: Path | None, image_wh: tuple[int, int]) -> None:
        self.name, self.path, self.image_wh = name, path, image_wh
        self.is_usable = True
        self.turn = 1
        self.clip, self.split = "", ""
        self.objects: list[LabelledBox] = []
        self._keys: set[tuple[Any, ...]] = set()
        self._reading = reading

    def add(
        self,
        label: object,
        numbers: Numbers,
        *,
        where: str,
        in_any_order: bool = False,
        in_pixels: bool = True,
        track: object = "",
        attributes: Mapping[str, str] | None = None,
        score: object = None,
    ) -> None:
        """Add a box.

        Args:
            label: The object's name.
            numbers: `xyxy` in pixels of the picture as the annotations mean it.
            where: The file, with the line or entry.
            in_any_order: Whether the format has two opposite corners, in any order.
            in_pixels: Whether the format has pixels; else these were shares.
            track: Which object it is; None, empty and a negative number: not said.
            attributes: What else is said of it.
            score: How sure somebody was; None and an empty text: not said.
        """
        name = as_label(label)
        if not name:
            self._reading.fault("boxes_no_label", f"{where}: expected the name of an object, got {label!r:.80}; add it")
        elif (box := self._placed(numbers, in_any_order, in_pixels, where)) is not None:
            self._keep(name, box, where, track, attributes, score)

    def add_absent(
        self,
        label: object,
        *,
        where: str,
        track: object = "",
        attributes: Mapping[str, str] | None = None,
        score: object = None,
    ) -> None:
        """Add that an object is not in the picture; arguments are those of `add`."""
        if name := as_label(label):
            self._keep(name, None, where, track, attributes, score)
        else:
            self._reading.fault("boxes_no_label", f"{where}: expected the name of an object, got {label!r:.80}; add it")

    def add_shares(self, label: object, shares: Numbers, *, where: str, **others: Any) -> None:
        """Add a box in shares of the width and height, from 0 to 1; other arguments are those of `add`."""
        known = [share for share in shares if share is not None]
        box = frame_to_box(tuple(known), CoordinateFrame.NORM_1, image_wh=self.image_wh) if len(known) == 4 else shares  # type: ignore[arg-type]
        self.add(label, box, where=where, in_pixels=False, **others)

    def _keep(
        self,
        label: str,
        box: Box | None,
        where: str,
        track: object,
        attributes: Mapping[str, str] | None,
        score: object,
    ) -> None:
        reading = self._reading
        if not self.is_usable:
            reading.fault("boxes_no_picture", f"{where}: its picture {self.name!r} cannot be used")
            return
        reading.declare(label)
        one = LabelledBox(label, box, as_track(track), dict(attributes or {}), reading.score(score, where))
        key = (label, box, one.track, one.score, *sorted(one.attributes.items()))
        if key in self._keys:
            reading.note("boxes_twice", f"{where}: the same box of {label!r} a second time, taken once")
            return
        self._keys.add(key)
        self.objects.append(one)

    def _placed(self, numbers: Numbers, in_any_order: bool, in_pixels: bool, where: str) -> Box | None:
        """Return the box in the picture as it is seen; None, and a fault, where nothing can be used."""
        reading = self._reading
        found = [number for number in numbers if number is not None and math.isfinite(number)]
        if len(found) != 4 or len(numbers) != 4:
            reading.fault(
                "boxes_not_finite", f"{where}: expected four finite numbers of a box, got {list(numbers)}; correct them"
            )
            return None
        x1, y1, x2, y2 = found
        if in_any_order:
            x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
        shown = f"x1={x1:.10g}, y1={y1:.10g}, x2={x2:.10g}, y2={y2:.10g}"
        if x2 < x1 or y2 < y1:
            reason, expected = "boxes_reversed", "x1 < x2 and y1 < y2"
        elif x1 == x2 or y1 == y2:
            reason, expected = "boxes_no_area", "a box with an area"
        elif not self.is_usable:
            return Box(x1, y1, x2, y2)
        elif (box := clip_box((x1, y1, x2, y2), self.image_wh)) is None:
            reason, expected = "boxes_outside", f"a box in the picture of {self.image_wh[0]} x {self.image_wh[1]}"
        else:
            beyond = max(-x1, -y1, x2 - self.image_wh[0], y2 - self.image_wh[1])
            if beyond > ROUNDING:
                reading.note("boxes_clipped", f"{where}: {shown} reaches {beyond:.4g} pixels beyond the picture, cut")
            if in_pixels:
                reading.num_pixels += 1
                reading.num_shares += are_shares(box, self.image_wh)
            return turned_box(box, self.image_wh, self.turn)
        reading.fault(reason, f"{where}: expected {expected}, got {shown}; correct it")
        return None


class Reading:
    """A file or folder of annotations that is being read.

    Attributes:
        path: The file or folder.
        lookup: Where its pictures are.
        needs_pictures: Whether pictures that are not there are of no use.
        labels: Names of objects, in the order in which they are declared.
        num_pixels: Boxes that were meant in pixels.
        num_shares: Those of them that look like shares of the picture.

    Args:
        path: The file or folder.
        image_root: The folder of the pictures.
        needs_pictures: As the attribute.
        on_picture: Called with the number of pictures read.
    """

    def __init__(
        self, path: Path, *, image_root: Path, needs_pictures: bool, on_picture: Callable[[int], None]
    ) -> None:
        self.path = path
        self.lookup = Lookup(image_root)
        self.needs_pictures = needs_pictures
        self.labels: dict[str, None] = {}
        self._on_picture = on_picture
        self.num_pixels, self.num_shares = 0, 0
        self._drafts: dict[str, Draft] = {}
        self._faults: list[Remark] = []
        self._notes: list[Remark] = []

    @property
    def root(self) -> Path:
        """The folder that files of annotations must lie in, links followed."""
        return self.path if self.path.is_dir() else self.path.absolute().parent

    def fault(self, reason: str, message: str) -> None:
        """Name something that cannot be used."""
        self._faults.append(Remark(reason, message))

    def note(self, reason: str, message: str) -> None:
        """Name something odd that is used."""
        self._notes.append(Remark(reason, message))

    @contextlib.contextmanager
    def one_of_many(self) -> Iterator[None]:
        """Around the reading of a file: of a folder of files, one that cannot be read is named, and others are read."""
        try:
            yield
        except DatasetError as error:
            if not self.path.is_dir():
                raise
            self.fault("files_bad", str(error))

    def declare(self, label: str) -> None:
        """Name a label, whether or not a box has it."""
        self.labels.setdefault(label)

    def score(self, value: object, where: str) -> float | None:
        """Return a score, if it is a number."""
        if value is None or value == "":
            return None
        number = finite_number(value)
        if number is None:
            self.note("scores_bad", f"{where}: expected a number as score, got {value!r:.80}; left out")
        return number

    def picture(
        self,
        name: object,
        *,
        where: str,
        near: Sequence[Path] = (),
        stated_wh: tuple[object, object] | None = None,
        clip: object = "",
        split: str = "",
        is_repeated: bool = False,
    ) -> Draft:
        """Return the draft of a picture, to which boxes are added; of one that cannot be used, too.

        Args:
            name: As the annotations have it.
            where: The file, with the line or entry.
            near: Folders that the name may begin at; empty: the folder of the pictures.
            stated_wh: Its width and height as the annotations have them; None: they have none.
            clip: The video or sequence that the file says it is from.
            split: The split that the file says it belongs to; empty: what the names of its folders say.
            is_repeated: Whether the format names a picture once for each box.
        """
        try:
            text = name if isinstance(name, str) else ""
            path, known = self.lookup.find(text, near=near or [self.lookup.root], where=where)
        except DatasetError as error:
            return self._unusable(str(name), "pictures_outside", str(error))
        known = as_name(known)
        draft = self._drafts.get(known)
        if draft is not None and not is_repeated:
            self.note("pictures_twice", f"{where}: the picture {known!r} a second time; the boxes of both are taken")
        if draft is None:
            draft = self._drafts[known] = self._new(known, path, whole_size(stated_wh), where)
            self._on_picture(len(self._drafts))
        draft.clip = draft.clip or as_name(str(clip or ""))
        draft.split = draft.split or split or next(filter(None, map(split_named, known.split("/")[:-1])), "")
        return draft

    def result(self) -> Annotations:
        """Return all that was read.

        Raises:
            DatasetError: If all boxes look like shares of the pictures in a format that has pixels.
        """
        if 0 < self.num_pixels == self.num_shares:
            raise DatasetError(
                f"{self.path}: expected boxes in pixels, got {self.num_shares} that all lie in the first pixel of "
                "their pictures, as shares of the width and height would; multiply x by the width and y by the height"
            )
        pictures = tuple(
            LabelledPicture(
                name=draft.name,
                image_wh=upright(draft.image_wh, draft.turn),
                objects=tuple(draft.objects),
                path=draft.path,
                clip=draft.clip,
                split=draft.split,
            )
            for draft in self._drafts.values()
            if draft.is_usable
        )
        return Annotations(pictures, tuple(self.labels), tuple(self._faults), tuple(self._notes))

    def _unusable(self, name: str, reason: str, message: str) -> Draft:
        self.fault(reason, message)
        draft = Draft(self, as_name(name), None, (1, 1))
        draft.is_usable = False
        return draft

    def _new(self, name: str, path: Path | None, stated: tuple[int, int] | None, where: str) -> Draft:
        """Return a picture that was not read before; its size is that of its file."""
        try:
            found = None if path is None else picture_wh(path)
            reason = "pictures_missing"
            message = f"{where}: expected the picture {name!r} below {self.lookup.root}, found none"
        except DatasetError as error:
            found, reason, message = None, "pictures_bad", f"{where}: {error}"
        if found is None:
            if self.needs_pictures or stated is None:
                return self._unusable(name, reason, f"{message}; copy it there, or pass another `image_root`")
            self.note(reason, f"{message}; its size {stated[0]} x {stated[1]} is taken from the annotations")
            return Draft(self, name, None, stated)
        draft = Draft(self, name, path, found)
        if stated is None or stated == found:
            return draft
        turn = _turn_of(path) if path and stated == found[::-1] else 1
        if turn < 5:
            return self._unusable(
                name,
                "pictures_other_size",
                f"{where}: expected the picture {name!r} of {stated[0]} x {stated[1]} pixels, as stated there, got "
                f"{found[0]} x {found[1]}; put the picture there that its boxes are for, or correct the size",
            )
        self.note(
            "pictures_turned",
            f"{where}: the boxes of {name!r} are in pixels of {stated[0]} x {stated[1]}, before the turn that its EXIF "
            f"asks for; they are turned with it, to {found[0]} x {found[1]}",
        )
        draft.image_wh, draft.turn = stated, turn
        return draft


def _turn_of(path: Path) -> int:
    try:
        with opened(path) as (_, orientation):
            return orientation
    except DECODER_ERRORS:
        return 1
