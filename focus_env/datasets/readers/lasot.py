"""LaSOT: from files to tracks (http://vision.cs.stonybrook.edu/~lasot, Fan et al., arXiv:1809.07845).

Layout, with one line per frame in groundtruth.txt:

    <root>/training_set.txt                           one sequence name per line; may be missing, see below
    <root>/testing_set.txt                            the same, of the test sequences
    <root>/<class>/<class>-<n>/img/%08d.jpg           frames, from 00000001
    <root>/<class>/<class>-<n>/groundtruth.txt        x_min,y_min,width,height in pixels
    <root>/<class>/<class>-<n>/full_occlusion.txt     one line: 1 where the object is hidden, else 0, with commas
    <root>/<class>/<class>-<n>/out_of_view.txt        the same: 1 where the object is out of the picture; both may be
                                                      missing

Splits; the last two are those of ICL-LaSOT, IPLoc's benchmark (arXiv:2411.13317), whose categories are disjoint:

    train                                             1,120 sequences, of training_set.txt
    test                                              280 sequences, of testing_set.txt
    iploc_test                                        144: those of "test" of the first 36 categories
    iploc_train                                       680: those of "train" and "test" of the other 34

What is made of defects:

    hidden or out of the picture                      noted; the box stays as it is, some flagged frames have one
    a width or height <= 0, "0,0,0,0", "1,1,0,0"      no box in that frame, noted
    a box that reaches beyond the picture             clipped; no box where nothing of it is left, noted
    training_set.txt missing                          the folders of LaSOT's 70 categories that testing_set.txt lacks,
                                                      as many as there are
    full_occlusion.txt or out_of_view.txt missing     no frame is flagged by it; a warning says so
    other separators, ends of lines, encodings,       read, see `focus_env.text_files`
    .JPG, .jpeg or .png; a PNG called .jpg
    other files beside the frames, ._00000001.jpg     passed over
    any other file missing, a line or value too       DatasetError: file, line, what was expected and found
    many or too few, anything but numbers, a frame
    number left out, a sequence listed twice, a link
    out of <root>, a pipe for a file

Boxes are in pixels of the frames as they are shown, see `focus_env.images`. The size of a sequence's frames is read
from the header of its first one. No frame is decoded until its picture is asked for.

Some training sequences are in TAO's test set: leave them out of a training that is tested there, by
``exclude=focus_env.datasets.readers.tao.tao_test_lasot_videos(tao_root)``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from importlib import resources
from pathlib import Path

from focus_env.datasets.readers.base import ReadTracks
from focus_env.datasets.readers.files import LEAVE_OUT, as_flags, numbered_frames, placed_box, read_boxes, warn_once
from focus_env.errors import DatasetError
from focus_env.text_files import inside, read_lines, split_fields
from focus_env.types import Track

SPLITS = ("train", "test", "iploc_test", "iploc_train")
ADVICE = "pass as `root` the folder that holds a folder for each category of LaSOT, and copy what is missing there"
TRAINING_ADVICE = (
    "write one sequence name per line, or remove it: then the folders that testing_set.txt lacks are taken"
)
TESTING_ADVICE = (
    "it is part of LaSOT's evaluation toolkit, sequence_evaluation_config/testing_set.txt at "
    "https://github.com/HengLan/LaSOT_Evaluation_Toolkit; copy it there"
)


def lasot_categories() -> tuple[str, ...]:
    """Return the 70 categories of LaSOT, in the order of the alphabet.

    >>> len(lasot_categories()), lasot_categories()[35]
    (70, 'horse')
    """
    names = resources.files("focus_env.datasets.readers").joinpath("lasot_categories.json").read_text(encoding="utf-8")
    return tuple(json.loads(names))


IPLOC_TEST = lasot_categories()[:36]
"""The categories that IPLoc tests on."""

IPLOC_TRAIN = lasot_categories()[36:]
"""The categories that IPLoc trains on."""


class LasotTracks(ReadTracks[str]):
    """The sequences of a split, read from their files each time one is asked for.

    Args:
        root: The folder that holds a folder for each category.
        split: ``"train"``, ``"test"``, ``"iploc_test"`` or ``"iploc_train"``, see the module.
        exclude: Names of sequences to leave out, e.g. ``{"zebra-14"}``; those of other splits do no harm.

    Raises:
        ValueError: If the split does not exist, or `exclude` is a string.
        DatasetError: If a list of sequences is missing or malformed.
    """

    def __init__(self, root: str | Path, *, split: str, exclude: Collection[str] = ()) -> None:
        if split not in SPLITS:
            raise ValueError(f"LaSOT split must be one of {SPLITS}, got {split!r}")
        if isinstance(exclude, str):
            raise ValueError(f"exclude must be a collection of sequence names, got the string {exclude!r}; wrap it")
        self._root = Path(root)
        excluded = frozenset(exclude)
        self._folders: dict[str, Path] = {}
        for name, where in self._listed(split):
            if name in self._folders:
                raise DatasetError(f"{where}: expected each sequence once, got {name!r} again; remove one of them")
            self._folders[name] = inside(self._root, f"{_category(name, where)}/{name}", where=where)
        categories = {"iploc_test": IPLOC_TEST, "iploc_train": IPLOC_TRAIN}.get(split)
        self._keys = [
            name
            for name in self._folders
            if name not in excluded and (categories is None or _category(name, "") in categories)
        ]

    def _listed(self, split: str) -> Iterator[tuple[str, str]]:
        """Yield names of the sequences that the split may draw on, each with what names it."""
        if split in ("train", "iploc_train"):
            yield from self._training()
        if split != "train":
            yield from self._read_list("testing_set.txt", advice=TESTING_ADVICE)

    def _training(self) -> Iterator[tuple[str, str]]:
        if os.path.lexists(path := self._root / "training_set.txt"):
            yield from self._read_list(path.name, advice=TRAINING_ADVICE)
            return
        test = {name for name, _ in self._read_list("testing_set.txt", advice=TESTING_ADVICE)}
        found = [(name, str(folder)) for name, folder in _sequence_folders(self._root) if name not in test]
        if not found:
            raise DatasetError(f"{path}: expected this file, or folders of training sequences, found neither; {ADVICE}")
        yield from found

    def _read_list(self, file: str, *, advice: str) -> list[tuple[str, str]]:
        """Return the names in a list of sequences, each with its file and line."""
        path = self._root / file
        lines = enumerate(read_lines(path, advice=advice, root=self._root), start=1)
        names = [(line.strip(), f"{path}, line {number}") for number, line in lines if line.strip()]
        if not names:
            raise DatasetError(f"{path}: expected one sequence name per line, got an empty file; {advice}")
        return names

    def _read(self, key: str) -> Track:
        folder = self._folders[key]
        category = _category(key, str(folder))
        advice = f"unpack it, take {key!r} out of the list of sequences, or {LEAVE_OUT}"
        corners = read_boxes(folder / "groundtruth.txt", advice=advice, root=self._root)
        hidden = self._read_flags(folder / "full_occlusion.txt", expected=len(corners))
        out_of_view = self._read_flags(folder / "out_of_view.txt", expected=len(corners))
        prefix = f"{category}/{key}/img"
        frames = numbered_frames(self._root, folder / "img", prefix=prefix, expected=len(corners))
        boxes, notes = zip(
            *(
                placed_box(box, frame.image_wh, is_flagged=is_hidden or is_out)
                for box, is_hidden, is_out, frame in zip(corners, hidden, out_of_view, frames, strict=True)
            ),
            strict=True,
        )
        return Track(identity=key, frames=frames, boxes=boxes, category=category, notes=notes)

    def _read_flags(self, path: Path, *, expected: int) -> list[bool]:
        if not os.path.lexists(path):
            warn_once(f"{self._root}: sequences without {path.name}, of which no frame counts as absent by it")
            return [False] * expected
        lines = read_lines(path, advice=ADVICE, root=self._root)
        if len(lines) != 1:
            raise DatasetError(
                f"{path}: expected one line of {expected} values, got {len(lines)} lines; replace it by the data "
                f"set's, or {LEAVE_OUT}"
            )
        return as_flags(split_fields(lines[0]), expected=expected, what="value", path=path)


def _category(name: str, where: str) -> str:
    category, _, number = name.rpartition("-")
    if not category or not number:
        raise DatasetError(f"{where}: expected a sequence name such as 'airplane-1', got {name!r}; correct it")
    return category


def _sequence_folders(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield folders <category>/<category>-<n>, by category and number."""
    for category in lasot_categories():
        found = (root / category).iterdir() if (root / category).is_dir() else ()
        parts = [path.name.rpartition("-") for path in found if path.is_dir()]
        numbers = [number for name, _, number in parts if name == category and number.isascii() and number.isdecimal()]
        for number in sorted(numbers, key=int):
            yield f"{category}-{number}", root / category / f"{category}-{number}"
