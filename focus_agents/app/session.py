"""One open page: its pictures, the objects looked for, and the answers. All of it is gone when the session ends."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from focus_agents.app.uploads import Upload, read_upload
from focus_agents.finding.answers import Answer, Looked
from focus_agents.serving import RefusedError
from focus_env.annotations import LabelledPicture, write_annotations
from focus_env.boxes import as_box
from focus_env.errors import StorageError
from focus_env.files import fresh_file
from focus_env.text_files import as_name
from focus_env.types import Box

MOST_PICTURES = 500
MOST_BYTES = 512 * 2**20
"""Of the files and previews of a session."""
MOST_OBJECTS = 20
MOST_BOXES = 64
"""Of an object."""
LONGEST_LABEL = 100


@dataclass(frozen=True)
class Sought:
    """An object that somebody has drawn boxes around.

    Attributes:
        key: The page's number of it.
        label: Its name.
        boxes: Each a picture's number, and the box `xyxy` in its pixels.
    """

    key: int
    label: str
    boxes: tuple[tuple[int, Box], ...]

    def boxes_in(self, number: int) -> list[Box]:
        """Return its boxes in a picture."""
        return [box for own, box in self.boxes if own == number]


@dataclass
class Session:
    """One open page.

    Attributes:
        keep: The folder in which its pictures and answers are kept; None: nowhere.
        key: What the page names it by; nobody else knows it.
        pictures: By their numbers.
        sought: What was looked for last.
        answers: By picture and by object, those of the last search.
        version: Of what is looked for; answers to another are not kept.
        last_seen: By `time.monotonic`.
    """

    keep: Path | None = None
    key: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    pictures: dict[int, Upload] = field(default_factory=dict)
    sought: tuple[Sought, ...] = ()
    answers: dict[int, dict[int, Answer]] = field(default_factory=dict)
    version: int = 0
    last_seen: float = field(default_factory=time.monotonic)
    lock: threading.RLock = field(default_factory=threading.RLock)
    _last: int = 0

    def add(self, content: bytes, name: str) -> tuple[dict[int, Upload], str]:
        """Take in a picture, or the frames of a video; see `uploads.read_upload`.

        Returns:
            (The pictures by their numbers, what is to be said of them).
        """
        with self.lock:
            room = MOST_BYTES - sum(one.num_bytes for one in self.pictures.values())
            found, note = read_upload(content, name, taken=[one.name for one in self.pictures.values()], room=room)
            if len(self.pictures) + len(found) > MOST_PICTURES:
                raise RefusedError(
                    f"{name:.80}: expected at most {MOST_PICTURES} pictures, got {len(self.pictures) + len(found)}; "
                    "remove some, or take focus find",
                    413,
                )
            added = {}
            for one in found:
                self._last += 1
                added[self._last] = one
            for number, one in added.items():
                self._keep_file(number, one)
            self.pictures |= added
            return added, note

    def remove(self, numbers: Sequence[int]) -> None:
        """Forget pictures, and their answers."""
        with self.lock:
            for number in numbers:
                self.pictures.pop(number, None)
                self.answers.pop(number, None)

    def picture(self, number: object) -> Upload:
        """Return a picture by its number.

        Raises:
            RefusedError: If there is none.
        """
        found = self.pictures.get(number) if isinstance(number, int) else None
        if found is None:
            raise RefusedError(f"picture: expected the number of a picture that is here, got {number!r:.80}", 404)
        return found

    def read_sought(self, value: object) -> tuple[Sought, ...]:
        """Return objects as a page describes them.

        Args:
            value: A list of objects with "id", "label" and "boxes", each with "picture" and "box".

        Raises:
            RefusedError: If it is something else, two objects have one name, or a box does not lie in its picture.
        """
        found: list[Sought] = []
        for one in _records(value, "objects", MOST_OBJECTS):
            label = as_name(str(one.get("label", ""))).strip()
            if not label or len(label) > LONGEST_LABEL:
                raise RefusedError(
                    f"expected a name of each object, of 1 to {LONGEST_LABEL} letters, got {label!r:.120}"
                )
            if any(label == other.label for other in found):
                raise RefusedError(f"expected a name of its own for each object, got {label!r} twice")
            boxes = []
            for drawn in _records(one.get("boxes"), f"boxes of {label!r}", MOST_BOXES):
                upload = self.picture(drawn.get("picture"))
                where = f"box of {label!r} in {upload.name}"
                try:
                    boxes.append((drawn["picture"], as_box(drawn.get("box"), where, image_wh=upload.image_wh)))
                except (ValueError, TypeError) as error:
                    raise RefusedError(str(error)) from error
            key = one.get("id")
            if not isinstance(key, int) or any(key == other.key for other in found):
                raise RefusedError(f"objects: expected a number of its own for each, got {key!r:.80}")
            found.append(Sought(key, label, tuple(boxes)))
        return tuple(found)

    def seek(self, sought: Sequence[Sought]) -> int:
        """Look for other objects from now on; return the version."""
        with self.lock:
            self.sought, self.answers, self.version = tuple(sought), {}, self.version + 1
            return self.version

    def search(self) -> tuple[tuple[Sought, ...], int]:
        """Return the objects looked for now, and their version.

        Raises:
            RefusedError: If there are none yet.
        """
        with self.lock:
            if not self.sought:
                raise RefusedError("expected objects to look for, got none yet; draw a box in a picture", 409)
            return self.sought, self.version

    def keep_answers(self, number: int, found: Mapping[int, Answer], version: int) -> None:
        """Note the answers about a picture, unless something else is looked for by now."""
        with self.lock:
            if version == self.version and number in self.pictures:
                self.answers[number] = dict(found)
            if self.keep is not None:
                self._keep_answers()

    def labelled(
        self, sought: Sequence[Sought], min_score: float | None, *, names: Mapping[int, str] | None = None
    ) -> list[LabelledPicture]:
        """Return the pictures that have an answer or a drawn box, as annotations.

        Args:
            sought: The objects by their names of now, with the boxes of now, which stand in place of answers.
            min_score: Boxes of a lower score count as not there.
            names: Of the pictures; None: their own.
        """
        with self.lock:
            found: list[LabelledPicture] = []
            for number, upload in self.pictures.items():
                answers: list[Answer] = []
                for one in sought:
                    if drawn := one.boxes_in(number):
                        answers += [Answer(one.label, "given", box) for box in drawn]
                    elif (known := self.answers.get(number, {}).get(one.key)) is not None and known.kind != "given":
                        answers.append(replace(known, label=one.label))
                if answers:
                    name = names[number] if names else upload.name
                    looked = Looked(number, name, upload.image_wh, tuple(answers), clip=upload.clip)
                    labelled = looked.labelled(min_score)
                    assert labelled is not None
                    found.append(labelled)
            return found

    def _file(self, number: int) -> str:
        """Return the name of a picture's file where it is kept, which is never made of the sender's name."""
        return f"picture_{number:04d}{self.pictures[number].ending}"

    def _keep_file(self, number: int, upload: Upload) -> None:
        if self.keep is not None:
            try:
                self.keep.mkdir(parents=True, exist_ok=True)
                with fresh_file(self.keep / f"picture_{number:04d}{upload.ending}") as scratch:
                    scratch.write_bytes(upload.content)
            except OSError as error:
                raise StorageError(f"{self.keep}: cannot keep {upload.name}: {error}") from error

    def _keep_answers(self) -> None:
        assert self.keep is not None
        names = {number: self._file(number) for number in self.pictures}
        pictures = self.labelled(self.sought, None, names=names)
        write_annotations(self.keep / "found.json", pictures, format="coco", overwrite=True)


def _records(value: object, what: str, most: int) -> list[dict[str, Any]]:
    """Return a list of JSON objects, checked."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise RefusedError(f"{what}: expected a list of objects, got {value!r:.80}")
    if len(value) > most:
        raise RefusedError(f"{what}: expected at most {most}, got {len(value)}; remove some")
    return value
