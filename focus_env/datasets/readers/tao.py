"""TAO: from its annotation file to tracks (https://taodataset.org, Dave et al., arXiv:2005.10356).

Layout; TAO-Amodal has the same files, with those of the test set:

    <root>/frames/<file_name>                         pictures, e.g. train/YFCC100M/<video>/frame0391.jpg
    <root>/annotations/train.json                     split "train"
    <root>/annotations/validation.json                split "val"
    <root>/annotations/test.json                      split "test", or where that is not there,
    <root>/annotations/tao_test_annotations.json      this

Such a file is an object of lists. Of their entries is read:

    videos                                            id, name
    images                                            id, video_id, file_name, width, height, frame_index
    tracks                                            id, video_id, category_id
    categories                                        id, name, merged: near-synonyms, a list of objects with an id
    annotations                                       id, image_id, track_id, category_id,
                                                      bbox: [x_min, y_min, width, height] in pixels

Tracks come in the order in which `annotations` first names them, their frames in the order of frame_index. Ids of
merged categories are replaced by that of the category whose list has them, as TAO's toolkit does.

What is made of defects:

    a width or height <= 0                            no box in that frame, noted
    a box that reaches beyond the picture             clipped; no box where nothing of it is left, noted
    a track without annotations                       left out: it has no frames
    a frame_index that two images of a video have     their order is that of the annotations
    a picture missing or of another size              DatasetError when it is asked for
    a list, key or id missing, a value of another     DatasetError: file, list and position, what was expected and
    type, not finite, or that contradicts another,    found; all of it is looked at when the split is opened
    ids, names or files twice, two boxes of a track
    in one picture, two categories merged into each
    other, a path that leaves the frames
    the same of any entry of a list, with `on_bad`    DatasetError when a track is asked for that needs the entry; an
    'skip'                                            annotation that names no track counts as a track of its own

No picture is opened until it is asked for: their sizes are in the file. Sizes and boxes are those of pictures as they
are shown, see `focus_env.images`: one that its EXIF orientation turns away from the size in the file is an error.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from focus_env.datasets.readers.base import ReadTracks
from focus_env.datasets.readers.files import placed_box
from focus_env.datasets.readers.tao_file import ADVICE, Row, checked, entries, read_rows
from focus_env.errors import DatasetError
from focus_env.text_files import read_json
from focus_env.types import Frame, Track

FILES = {
    "train": ("train.json",),
    "val": ("validation.json",),
    "test": ("test.json", "tao_test_annotations.json"),
}
"""By split, the files of which the first is read that is there."""

LISTS_OF_TEST_VIDEOS = (*FILES["test"], "test_without_annotations.json")
TEST_ADVICE = "TAO-Amodal has the boxes of the test set, annotations/tao_test_annotations.json; " + ADVICE


class TaoTracks(ReadTracks[Row]):
    """The tracks of a split. The file is read once; what is kept of it are numbers and names.

    Args:
        root: The folder that holds ``annotations`` and ``frames``.
        split: ``"train"``, ``"val"`` or ``"test"``.
        skips: Whether an entry that is wrong costs the tracks that need it alone, which then raise when they are read.

    Raises:
        ValueError: If the split does not exist.
        DatasetError: If its file is missing or malformed.
    """

    def __init__(self, root: str | Path, *, split: str, skips: bool = False) -> None:
        if split not in FILES:
            raise ValueError(f"TAO split must be one of {tuple(FILES)}, got {split!r}")
        self._frames = Path(root) / "frames"
        path = _first_there(Path(root), FILES[split], advice=TEST_ADVICE if split == "test" else ADVICE)
        self._images, self._keys = read_rows(path, frames=self._frames, skips=skips)

    def _read(self, key: Row) -> Track:
        if key.fault:
            raise DatasetError(key.fault)
        named = [self._images[image] for image in key.images]
        frames = tuple(Frame(name, image_wh, self._frames / name) for name, image_wh in named)
        placed = [placed_box(box, frame.image_wh) for box, frame in zip(key.boxes, frames, strict=True)]
        boxes, notes = zip(*placed, strict=True)
        return Track(key.identity, frames, boxes, category=key.category, notes=notes, video=key.video)


def tao_held_out_lasot_videos(root: str | Path) -> frozenset[str]:
    """Return names of the LaSOT sequences in TAO's test and validation sets, to be left out of a training.

    TAO asks not to train on them; most are in LaSOT's training set
    (https://github.com/TAO-Dataset/tao/blob/master/docs/faqs.md).

    Args:
        root: The folder that holds ``annotations``; in it, one of `LISTS_OF_TEST_VIDEOS` must be, and the validation
            set's file is read if it is there.

    Returns:
        Names as LaSOT has them, e.g. ``"zebra-14"``.

    Raises:
        DatasetError: If there is no list of test videos, a file is malformed, or the test set names no video of LaSOT.
    """
    test = _first_there(Path(root), LISTS_OF_TEST_VIDEOS, advice=ADVICE)
    names = _lasot_videos(test)
    if not names:
        raise DatasetError(
            f"{test}: expected videos such as 'test/LaSOT/zebra-14', got none of LaSOT; pass as `root` TAO's own folder"
        )
    (validation,) = (Path(root) / "annotations" / name for name in FILES["val"])
    return names | _lasot_videos(validation) if os.path.lexists(validation) else names


def _lasot_videos(path: Path) -> frozenset[str]:
    videos = entries(read_json(path, advice=ADVICE, root=path.parent), "videos", path)
    parts = [checked(video, {"name": str}, where)["name"].split("/") for where, video in videos]
    return frozenset(name for *_, source, name in (part for part in parts if len(part) > 1) if source == "LaSOT")


def _first_there(root: Path, names: Sequence[str], *, advice: str) -> Path:
    paths = [root / "annotations" / name for name in names]
    for path in paths:
        if os.path.lexists(path):
            return path
    raise DatasetError(f"{' or '.join(map(str, paths))}: expected this file, found none; {advice}")
