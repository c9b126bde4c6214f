"""PerSeg: from files to tracks (Zhang et al., arXiv:2305.03048).

Layout, with a folder for each of 40 objects:

    <root>/Images/<object>/NN.jpg         pictures, each of its own size
    <root>/Annotations/<object>/NN.png    the mask of each, of the same size: not 0 where the object is

The box of a picture is the tightest around its mask's pixels. An object's folder names it, and is its category.

What is made of defects:

    a mask that is 0 everywhere                       no box in that picture, noted
    other files, names that begin with a dot,         passed over
    __MACOSX, Thumbs.db
    .JPG, .jpeg or .png; a PNG called .jpg            read
    a picture without its mask, a mask without its    DatasetError: file, what was expected and found
    picture, two of one name, a mask that is no PNG
    or of another size, a link to a place outside
    <root>, a pipe for a file

Boxes are in pixels of the pictures as they are shown, see `focus_env.images`, so a mask has that size too. Masks are
decoded when an object is first asked for, and their boxes are remembered; pictures are not.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from focus_env.datasets.readers.base import ReadTracks
from focus_env.errors import DatasetError
from focus_env.images import picture_wh
from focus_env.picture_files import DECODER_ERRORS, TURNS, opened
from focus_env.text_files import as_name, inside, is_stray
from focus_env.types import Box, Frame, Track

SPLITS = ("test",)
ADVICE = "pass as `root` the folder that holds Images and Annotations of PerSeg"


class PerSegTracks(ReadTracks[str]):
    """One track for each object: its pictures in the order of their names, of which no two need be of one scene.

    Args:
        root: The folder that holds ``Images`` and ``Annotations``.
        split: ``"test"``: all objects. There is no other, since PerSeg is for evaluation alone.

    Raises:
        ValueError: If the split does not exist.
        DatasetError: If a folder is not there, or there is no object.
    """

    def __init__(self, root: str | Path, *, split: str = "test") -> None:
        if split not in SPLITS:
            raise ValueError(
                f"PerSeg split must be one of {SPLITS}, got {split!r}; it is for evaluation alone, pass split='test'"
            )
        self._root = Path(root)
        self._keys = sorted({*_folders(self._root / "Images"), *_folders(self._root / "Annotations")})
        if not self._keys:
            raise DatasetError(f"{self._root / 'Images'}: expected a folder for each object, found none; {ADVICE}")
        self._read_tracks: dict[str, Track] = {}

    def _read(self, key: str) -> Track:
        if key not in self._read_tracks:
            self._read_tracks[key] = self._decode(key)
        return self._read_tracks[key]

    def _decode(self, name: str) -> Track:
        pictures = self._files("Images", name, ".jpg", ".jpeg", ".png")
        masks = self._files("Annotations", name, ".png")
        if odd := sorted(pictures.keys() ^ masks.keys()):
            path, lacking = (pictures[odd[0]], "mask") if odd[0] in pictures else (masks[odd[0]], "picture")
            raise DatasetError(
                f"{path}: expected a {lacking} that goes with it, found none; put it there, delete this file, or leave "
                "the object out, with `on_bad` 'skip'"
            )
        if not pictures:
            raise DatasetError(f"{self._root / 'Images' / name}: expected pictures NN.jpg, found none; {ADVICE}")
        frames = tuple(
            Frame(f"Images/{name}/{path.name}", picture_wh(path), path) for _, path in sorted(pictures.items())
        )
        boxes = tuple(
            mask_box(path, image_wh=frame.image_wh)
            for (_, path), frame in zip(sorted(masks.items()), frames, strict=True)
        )
        return Track(identity=as_name(name), frames=frames, boxes=boxes, category=as_name(name))

    def _files(self, kind: str, name: str, *suffixes: str) -> dict[str, Path]:
        """Return the files of an object that are not hidden, by their names without suffix."""
        folder = inside(self._root, f"{kind}/{name}", where=str(self._root / kind))
        if not folder.is_dir():
            raise DatasetError(
                f"{folder}: expected a folder of *{suffixes[0]}, found none; unpack it, delete the other folder of "
                f"{name!r}, or leave the object out, with `on_bad` 'skip'"
            )
        found: dict[str, Path] = {}
        for file in sorted(os.listdir(folder)):
            stem, suffix = os.path.splitext(file)
            if suffix.lower() not in suffixes or is_stray(file):
                continue
            if stem in found:
                raise DatasetError(
                    f"{folder}: expected one file {stem!r}, got {found[stem].name} and {file}; delete one"
                )
            found[stem] = inside(self._root, f"{kind}/{name}/{file}", where=str(folder))
        return found


def _folders(path: Path) -> list[str]:
    if not path.is_dir():
        raise DatasetError(f"{path}: expected this folder, found none; {ADVICE}")
    with os.scandir(path) as entries:
        return [entry.name for entry in entries if entry.is_dir() and not is_stray(entry.name)]


def mask_box(path: Path, *, image_wh: tuple[int, int]) -> Box | None:
    """Return the tightest box around the object of a mask.

    Args:
        path: A PNG that is not 0 where the object is: in any colour, or as an index into a palette.
        image_wh: (width, height) that it must have.

    Returns:
        `xyxy` in pixels, or None if the mask is 0 everywhere. An object in pixel 3 alone reaches from 3 to 4.

    Raises:
        DatasetError: If it has another size, or is no PNG that can be decoded.
    """
    if (found := picture_wh(path)) != image_wh:
        raise DatasetError(
            f"{path}: expected a mask of {image_wh[0]} x {image_wh[1]} pixels, as its picture has, got {found[0]} x "
            f"{found[1]}; copy both again, or leave the object out, with `on_bad` 'skip'"
        )
    try:
        with opened(path, formats=("PNG",)) as (mask, orientation):
            values = np.asarray(mask.transpose(TURNS[orientation]) if orientation in TURNS else mask)
    except DECODER_ERRORS as error:
        raise DatasetError(
            f"{path}: expected a whole PNG: {error}; copy it again, or leave the object out, with `on_bad` 'skip'"
        ) from error
    is_object = np.any(_colours(values) != 0, axis=-1)
    rows, columns = np.flatnonzero(is_object.any(axis=1)), np.flatnonzero(is_object.any(axis=0))
    if rows.size == 0:
        return None
    return Box(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def _colours(values: npt.NDArray[np.number]) -> npt.NDArray[np.number]:
    """Return [H, W] or [H, W, channels] as [H, W, colours]: without alpha, which is not 0 everywhere."""
    if values.ndim == 2:
        return values[..., None]
    return values[..., : {2: 1, 4: 3}.get(values.shape[-1])]
