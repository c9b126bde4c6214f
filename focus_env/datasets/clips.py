"""Keep pictures that belong together in one split: frames of one clip, and pictures that look alike.

The clip of a picture is, the first of these that is there:

    told      the video, sequence or task that the annotations name
    folder    its folder, with the beginning of its name: all before the last number in it, ``kitchen`` of
              ``kitchen_0012.jpg``; folders called after splits or pictures (``train``, ``images``, …) say nothing
    look      if there are fewer than three clips by these, each picture is one

Then clips are joined that share pictures which look alike: their 9 x 8 thumbnails differ in at most 6 of the 64 signs
of the steps from left to right (dHash), and by at most 8 grey levels on average. If that leaves fewer than three
clips where names gave more, such as of pictures that are all black, it is left undone, and said.

Clips are put into an order by a hash of their names, and of n of them the first max(1, round(0.2 n)) are the test
split, as many the validation split, and the others those to train on. Two clips are training and validation.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from focus_env.annotations import LabelledPicture
from focus_env.annotations.lookup import split_named
from focus_env.errors import DatasetError
from focus_env.images import decode

HELD_OUT_SHARE = 0.2
"""Of the clips: test, and as many again validation."""
MOST_SIGNS, MOST_LEVELS = 6, 8.0
FEWEST = 3
"""Clips for three splits."""
THUMBNAIL_WH = (9, 8)
ROWS_AT_ONCE = 256
_SAYS_NOTHING = frozenset(
    {"images", "image", "imgs", "img", "jpegimages", "pictures", "photos", "frames", "data", "rgb"}
)
_ROBOFLOW = re.compile(r"_(?:jpe?g|png|webp|bmp)\.rf\.[0-9a-zA-Z]+$")
_NUMBER = re.compile(r"[\W_]*[0-9]+[^0-9]*$")


@dataclass(frozen=True)
class Clips:
    """The clip of each picture.

    Attributes:
        names: One for each picture.
        rule: How they were told apart, in words.
    """

    names: tuple[str, ...]
    rule: str


def find_clips(pictures: Sequence[LabelledPicture]) -> Clips:
    """Return the clips of pictures; see the module."""
    names = [clip_of(picture) for picture in pictures]
    rule = "told by the annotations" if all(picture.clip for picture in pictures) else "told by folders and names"
    if len(set(names)) < FEWEST:
        names, rule = [picture.name for picture in pictures], "each picture"
    joined = _joined(names, _alike(pictures))
    if len(set(joined)) == len(set(names)):
        return Clips(tuple(joined), rule)
    if len(set(joined)) < FEWEST <= len(set(names)):
        return Clips(tuple(names), f"{rule}; nearly all look alike, and are not joined for it")
    return Clips(tuple(joined), f"{rule}, joined where pictures look alike")


def clip_of(picture: LabelledPicture) -> str:
    """Return the clip that annotations or names tell; empty if neither does."""
    return picture.clip or named_clip(picture.name)


def named_clip(name: str) -> str:
    """Return the clip that the name of a picture says.

    >>> [named_clip(name) for name in ("images/kitchen_0012.jpg", "mug/a/7.png", "train/cup-1_jpg.rf.0a1b.jpg")]
    ['kitchen', 'mug/a', 'cup']
    """
    path = PurePosixPath(name)
    folders = [part for part in path.parts[:-1] if part.lower() not in _SAYS_NOTHING and not split_named(part)]
    stem = _NUMBER.sub("", _ROBOFLOW.sub("", path.stem))
    return "/".join([*folders, *([stem] if stem else [])])


def _joined(names: Sequence[str], pairs: Sequence[tuple[int, int]]) -> list[str]:
    """Return the clips, those of two pictures of a pair made one, with the first of their names in the alphabet."""
    parent = {name: name for name in names}

    def top(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for one, other in pairs:
        first, second = sorted((top(names[one]), top(names[other])))
        parent[second] = first
    return [top(name) for name in names]


def _alike(pictures: Sequence[LabelledPicture]) -> list[tuple[int, int]]:
    """Return pairs of pictures that look alike; those that cannot be decoded look like none."""
    found = [_thumbnail(picture) for picture in pictures]
    places = [place for place, thumbnail in enumerate(found) if thumbnail is not None]
    if len(places) < 2:
        return []
    levels = np.stack([thumbnail for thumbnail in found if thumbnail is not None]).reshape(len(places), -1)
    grey = levels.reshape(len(places), THUMBNAIL_WH[1], THUMBNAIL_WH[0], 3).mean(axis=-1)
    signs = np.packbits((grey[:, :, 1:] > grey[:, :, :-1]).reshape(len(places), -1), axis=1)
    hashes = signs.view(np.uint64).ravel()
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(places), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        apart = np.bitwise_count(hashes[rows, None] ^ hashes[None, :])
        for one, other in np.argwhere(apart <= MOST_SIGNS):
            first = start + int(one)
            if first < other and np.abs(levels[first] - levels[other]).mean() <= MOST_LEVELS:
                pairs.append((places[first], places[int(other)]))
    return pairs


def _thumbnail(picture: LabelledPicture) -> npt.NDArray[np.float32] | None:
    if picture.path is None:
        return None
    try:
        return _decoded(picture.path, picture.path.stat().st_mtime_ns, picture.image_wh)
    except (DatasetError, OSError):
        return None


@functools.lru_cache(maxsize=2**17)
def _decoded(path: Path, changed: int, image_wh: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return a thumbnail, kept for the other splits of the same pictures."""
    pixels = decode(path, file_wh=image_wh, image_wh=THUMBNAIL_WH, name=str(path))
    return pixels.astype(np.float32)


def split_clips(names: Sequence[str]) -> Mapping[str, str]:
    """Return the split of each clip: ``"train"``, ``"val"`` or ``"test"``; see the module.

    >>> splits = split_clips([f"clip{number}" for number in range(8)])
    >>> sorted(splits.values())
    ['test', 'test', 'train', 'train', 'train', 'train', 'val', 'val']
    """
    ordered = sorted(set(names), key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest())
    held_out = max(1, round(HELD_OUT_SHARE * len(ordered))) if len(ordered) >= FEWEST else 0
    num_val = held_out or int(len(ordered) == 2)
    return {
        name: "test" if place < held_out else "val" if place < held_out + num_val else "train"
        for place, name in enumerate(ordered)
    }
