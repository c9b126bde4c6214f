"""IPLoc's published episodes: from a JSON file to episodes (https://github.com/SivanDoveh/IPLoc, arXiv:2411.13317).

A file is a list of records, one for each episode:

    element       the object's category, a text
    image_path    the paths of the supports' pictures, then the query's
    bbox          as many texts "[x1, y1, x2, y2]": `xyxy` in pixels
    image_id      numbers of the pictures; not read, like any other key

There is one for each number of shots: LaSOT with 1, 2, 4 and 8 (144 records each), PDM with 1 and 2 (976), PerSeg with
1 to 3 (40) and 4 (34).

Where the pictures are: the paths were written on another machine, e.g. ``data/ICL_tracking/video/LASOT/airplane/
airplane-1/img/00000001.jpg``. All paths of a file begin with the same folders, which are left out here: as few as it
takes for any path to lead to a file below `image_root`. So `image_root` may be the folder that holds ``airplane``, or
one above it whose folders have the same names. Every other path must begin with the same folders, and lead to a file
below `image_root` too, without going up, or following a link to somewhere else.

What is made of defects; records are counted from 0:

    a box without width or height: [0, 0, 0, 0] and   absent="skip": the record is left out, counted as "records_"
    [1, 1, 1, 1] in the published files; a negative   and the note of its first such box.
    one; one of which nothing lies in the picture     absent="keep": a query's is None, with its note; a support is left
                                                      out, counted as "supports_" and the note, and so is a record
                                                      without another, as "records_no_support"
    a box that reaches beyond the picture             clipped
    more or fewer pictures than shots + 1 (20 of PDM  left out, counted as "records_other_shots"
    with 1 shot, and 57 with 2, have fewer)
    a key missing, a value of another type, lists of  DatasetError: file, record, what was expected and found; or left
    different length, a bbox that is no JSON list of  out and counted as "records_bad"
    four finite numbers, a picture twice, a path that
    leads nowhere or out of `image_root`, a picture
    without a readable head or end

A file says nothing of frames where the object is out of sight but has a box; LaSOT's own labels do.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple, get_args

from focus_env.boxes import clip_box
from focus_env.datasets.sampler import MAX_BAD_SHOWN, AbsentPolicy, BadPolicy
from focus_env.errors import DatasetError
from focus_env.images import picture_wh
from focus_env.text_files import as_name, inside, json_numbers, read_json
from focus_env.types import Box, Episode, Exemplar, Frame, Note

LEAVE_OUT = "correct the record, or leave it out, with `on_bad` 'skip'"
ADVICE = "pass as `root` one of IPLoc's JSON files, e.g. test_LASOT_4_shot.json"


class _Record(NamedTuple):
    """An entry of the file, whose types and numbers are right."""

    number: int
    element: str
    paths: list[tuple[str, ...]]
    boxes: list[Box]


class IPLocEpisodes:
    """The episodes of one file, all checked at construction, which reads the head and end of every picture.

    Attributes:
        skipped: How many records and supports were left out, by reason, see the module.
        bad: What was wrong with the first bad records.

    Args:
        path: The JSON file.
        image_root: The folder below which its pictures are, see the module.
        shots: k, the supports of a record; at least 1.
        absent: What becomes of records that lack the object in a picture, see the module.
        on_bad: Whether a malformed record is an error or is left out.

    Raises:
        ValueError: If an argument is none of the above, or no record has `shots` supports.
        DatasetError: If the file is malformed, or pictures are missing or damaged.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        image_root: str | Path,
        shots: int,
        absent: AbsentPolicy = "skip",
        on_bad: BadPolicy = "raise",
    ) -> None:
        if shots < 1:
            raise ValueError(f"shots must be at least 1, got {shots!r}; an episode needs an exemplar")
        if absent not in ("skip", "keep"):
            raise ValueError(
                f"absent must be 'skip' or 'keep' for a file of episodes, which has no other frames to go to, got "
                f"{absent!r}"
            )
        if on_bad not in get_args(BadPolicy):
            raise ValueError(f"on_bad must be one of {get_args(BadPolicy)}, got {on_bad!r}")
        self._path = Path(path)
        self._image_root = Path(image_root)
        self._absent = absent
        self._on_bad = on_bad
        self._skipped: dict[str, int] = {}
        self.bad: list[str] = []
        self._episodes = self._read(shots)

    @property
    def skipped(self) -> Mapping[str, int]:
        """See the class."""
        return MappingProxyType(self._skipped)

    def __len__(self) -> int:
        return len(self._episodes)

    def __getitem__(self, index: int, /) -> Episode:
        if not 0 <= index < len(self):
            raise IndexError(f"episode index must be in 0 .. {len(self) - 1}, got {index}")
        return self._episodes[index]

    def _read(self, shots: int) -> list[Episode]:
        entries = read_json(self._path, advice=ADVICE)
        if not isinstance(entries, list) or not entries:
            raise DatasetError(f"{self._path}: expected a list of records, got {_brief(entries)}; {ADVICE}")
        if not self._image_root.is_dir():
            raise DatasetError(
                f"{self._image_root}: expected the folder of the pictures, found none; pass `image_root`"
            )
        records: list[_Record] = []
        for number, entry in enumerate(entries):
            try:
                records.append(_parse(entry, number, self._where(number)))
            except DatasetError as error:
                self._leave_out(error)
        lengths = {len(record.paths) - 1 for record in records}
        if records and shots not in lengths:
            raise ValueError(
                f"{self._path}: no record has {shots} supports and a query, they have {sorted(lengths)} supports; pass "
                "another number of shots, or another file"
            )
        prefix = self._find_prefix([path for record in records for path in record.paths]) if records else ()
        frames: dict[Path, Frame] = {}
        episodes = []
        for record in records:
            if len(record.paths) != shots + 1:
                self._count("records_other_shots")
                continue
            try:
                episode = self._build(record, prefix, frames)
            except DatasetError as error:
                self._leave_out(error)
                continue
            if episode is not None:
                episodes.append(episode)
        return episodes

    def _where(self, number: int) -> str:
        return f"{self._path}, record {number}"

    def _count(self, reason: str) -> None:
        self._skipped[reason] = self._skipped.get(reason, 0) + 1

    def _leave_out(self, error: DatasetError) -> None:
        if self._on_bad == "raise":
            raise error
        self._count("records_bad")
        self.bad += [str(error)] if len(self.bad) < MAX_BAD_SHOWN else []

    def _find_prefix(self, paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        """Return the folders that are left out of every path; see the module."""
        for length in range(max(map(len, paths))):
            # A file has thousands of paths, but few folders at a time: most lengths are settled by a look at one.
            tops = {path[length] for path in paths if len(path) > length}
            present = {top for top in tops if os.path.exists(self._image_root / top)}
            for path in paths:
                rest = path[length:]
                if (
                    rest
                    and rest[0] in present
                    and ".." not in rest
                    and os.path.isfile(self._image_root.joinpath(*rest))
                ):
                    return path[:length]
        raise DatasetError(
            f"{self._path}: expected pictures below {self._image_root}, found none, neither {'/'.join(paths[0])!r} nor "
            "any other under a later part of its path; pass another `image_root`"
        )

    def _build(self, record: _Record, prefix: tuple[str, ...], frames: dict[Path, Frame]) -> Episode | None:
        """Return the episode of a record; None if too little is left of it."""
        where = self._where(record.number)
        shown = [self._frame(path, prefix, frames, where) for path in record.paths]
        if len({frame.name for frame in shown}) < len(shown):
            raise DatasetError(
                f"{where}: expected different pictures, got {[frame.name for frame in shown]}; remove it"
            )
        placed = [_place(box, frame.image_wh) for box, frame in zip(record.boxes, shown, strict=True)]
        notes = [note for _, note in placed if note]
        if self._absent == "skip" and notes:
            self._count(f"records_{notes[0]}")
            return None
        support = []
        for frame, (box, note) in zip(shown[:-1], placed[:-1], strict=True):
            if box is None:
                self._count(f"supports_{note}")
            else:
                support.append(Exemplar(frame, box))
        if not support:
            self._count("records_no_support")
            return None
        target_box, target_note = placed[-1]
        return Episode(
            episode_id=f"{self._path.stem}/{record.number}",
            support=tuple(support),
            query_frame=shown[-1],
            target_box=target_box,
            # A video may have several objects.
            identity=as_name(str(PurePosixPath(shown[-1].name).parent / record.element)),
            category=as_name(record.element),
            target_note=target_note,
        )

    def _frame(self, path: tuple[str, ...], prefix: tuple[str, ...], frames: dict[Path, Frame], where: str) -> Frame:
        if path[: len(prefix)] != prefix:
            raise DatasetError(
                f"{where}: expected a path that begins with {'/'.join(prefix)!r}, like others of the file, got "
                f"{'/'.join(path)!r}; pass as `image_root` a folder above both"
            )
        name = "/".join(path[len(prefix) :])
        source = inside(self._image_root, name, where=where)
        if source not in frames:
            try:
                frame = Frame(name, picture_wh(source), source)
                frame.check()
            except DatasetError as error:
                raise DatasetError(f"{where}: {error}") from error
            frames[source] = frame
        return frames[source]


def _parse(entry: Any, number: int, where: str) -> _Record:
    """Return an entry of the file, its types and numbers checked."""
    if not isinstance(entry, dict):
        raise DatasetError(f"{where}: expected an object with element, image_path and bbox, got {_brief(entry)}")
    for key in ("element", "image_path", "bbox"):
        if key not in entry:
            raise DatasetError(f"{where}: expected the key {key!r}, found {sorted(entry)}; {LEAVE_OUT}")
    element, paths, boxes = entry["element"], entry["image_path"], entry["bbox"]
    if not isinstance(element, str) or not element.strip():
        raise DatasetError(f"{where}: expected a category as element, got {_brief(element)}")
    for key, texts in (("image_path", paths), ("bbox", boxes)):
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise DatasetError(f"{where}: expected a list of texts as {key}, got {_brief(texts)}")
    if len(paths) != len(boxes):
        raise DatasetError(
            f"{where}: expected as many boxes as pictures, got {len(boxes)} and {len(paths)}; {LEAVE_OUT}"
        )
    # A path from the root of the other machine is one like any other: its beginning is left out.
    parts = [PurePosixPath(path.lstrip("/")).parts for path in paths]
    return _Record(number, element, parts, [_parse_box(text, where) for text in boxes])


def _parse_box(text: str, where: str) -> Box:
    """Return the four numbers that a text spells."""
    try:
        numbers = json_numbers(json.loads(text), 4)
    except (ValueError, RecursionError):
        numbers = None
    if numbers is None:
        raise DatasetError(
            f'{where}: expected a bbox "[x1, y1, x2, y2]" of four finite numbers, got {_brief(text)}; {LEAVE_OUT}'
        )
    return Box(*numbers)


def _place(box: Box, image_wh: tuple[int, int]) -> tuple[Box | None, Note]:
    """Return the part of a box that lies in its picture, None where there is none, and why."""
    if box.x2 < box.x1 or box.y2 < box.y1:
        return None, "negative_size"
    if box.x2 == box.x1 or box.y2 == box.y1:
        return None, "no_size"
    clipped = clip_box(box, image_wh)
    return clipped, "" if clipped is not None else "outside"


def _brief(value: Any) -> str:
    """Cut a value that was found to a length that fits a message."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
