"""GOT-10k: from files to tracks (https://got-10k.aitestunion.com, Huang et al., arXiv:1810.11981).

Layout, with one line per frame in the label files:

    <root>/{train,val}/list.txt                       one sequence name per line; may be missing
    <root>/{train,val}/<sequence>/%08d.jpg            frames, from 00000001
    <root>/{train,val}/<sequence>/groundtruth.txt     x_min,y_min,width,height in pixels
    <root>/{train,val}/<sequence>/absence.label       1 where the object is absent, else 0; may be missing
    <root>/{train,val}/<sequence>/meta_info.ini       "key: value" lines, object_class among them; may be missing

What is made of defects:

    absence flag 1                                    noted; the box stays as it is
    a width or height <= 0                            no box in that frame, noted
    a box that reaches beyond the picture             clipped; no box where nothing of it is left, noted
    object_class or meta_info.ini missing             category None
    absence.label missing                             no frame is flagged; a warning says so
    list.txt missing                                  all folders with boxes, by name; a warning says so
    a name that list.txt has twice                    taken once
    other separators, ends of lines, encodings,       read, see `focus_env.text_files`
    .JPG, .jpeg or .png; a PNG called .jpg
    other files beside the frames, ._00000001.jpg     passed over
    any other file missing, a line too many or too    DatasetError: file, line, what was expected and found
    few, anything but numbers, a frame number left
    out, a link out of <root>, a pipe for a file

Boxes are in pixels of the frames as they are shown, see `focus_env.images`. The size of a sequence's frames is read
from the header of its first one: ``resolution`` in meta_info.ini says the same, and where it does not, the file is
right. No frame is decoded until its picture is asked for.
"""

from __future__ import annotations

import os
from pathlib import Path

from focus_env.datasets.readers.base import ReadTracks
from focus_env.datasets.readers.files import LEAVE_OUT, as_flags, numbered_frames, placed_box, read_boxes, warn_once
from focus_env.errors import DatasetError
from focus_env.text_files import as_name, inside, is_stray, read_lines
from focus_env.types import Track

SPLITS = ("train", "val")
ADVICE = "pass as `root` the folder that holds train/list.txt and val/list.txt of GOT-10k"


class Got10kTracks(ReadTracks[str]):
    """The sequences of a split, read from their files each time one is asked for.

    Args:
        root: The folder that holds ``train`` and ``val``.
        split: ``"train"`` or ``"val"``.

    Raises:
        ValueError: If the split does not exist.
        DatasetError: If the split is not there, or is ``"test"``, whose boxes are not public.
    """

    def __init__(self, root: str | Path, *, split: str) -> None:
        if split == "test":
            raise DatasetError(
                "GOT-10k publishes only the first box of each test sequence, so no query could be scored; "
                "use split 'val'"
            )
        if split not in SPLITS:
            raise ValueError(f"GOT-10k split must be one of {SPLITS}, got {split!r}")
        self._root = Path(root)
        self._split = split
        self._keys = self._listed(self._root / split)

    def _listed(self, folder: Path) -> list[str]:
        """Return the names of the split's sequences."""
        file = folder / "list.txt"
        found = [] if os.path.lexists(file) else sorted(path.parent.name for path in folder.glob("*/groundtruth.txt"))
        if found := [name for name in found if not is_stray(name)]:
            warn_once(f"{file}: expected this file, found none; all {len(found)} folders with boxes are taken")
            return found
        lines = read_lines(file, advice=ADVICE, root=self._root)
        return list(dict.fromkeys(line.strip() for line in lines if line.strip()))

    def _read(self, key: str) -> Track:
        where = str(self._root / self._split / "list.txt")
        folder = inside(self._root, f"{self._split}/{key}", where=where)
        advice = f"unpack it, take {key!r} out of {where}, or {LEAVE_OUT}"
        corners = read_boxes(folder / "groundtruth.txt", advice=advice, root=self._root)
        flags = self._read_flags(folder / "absence.label", expected=len(corners))
        frames = numbered_frames(self._root, folder, prefix=f"{self._split}/{key}", expected=len(corners))
        boxes, notes = zip(
            *(
                placed_box(box, frame.image_wh, is_flagged=is_absent)
                for box, is_absent, frame in zip(corners, flags, frames, strict=True)
            ),
            strict=True,
        )
        return Track(identity=key, frames=frames, boxes=boxes, category=self._read_category(folder), notes=notes)

    def _read_flags(self, label: Path, *, expected: int) -> list[bool]:
        if not os.path.lexists(label):
            warn_once(f"{self._root / self._split}: sequences without {label.name}, of which no frame counts as absent")
            return [False] * expected
        lines = read_lines(label, advice=ADVICE, root=self._root)
        return as_flags(lines, expected=expected, what="line", path=label)

    def _read_category(self, folder: Path) -> str | None:
        if not os.path.lexists(folder / "meta_info.ini"):
            return None
        for line in read_lines(folder / "meta_info.ini", advice=ADVICE, root=self._root):
            key, _, value = line.partition(":")
            if key.strip() == "object_class":
                return as_name(value.strip()) or None
        return None
