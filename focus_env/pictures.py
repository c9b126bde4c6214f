"""Check your pictures with boxes, and your own episodes, where they enter."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from focus_env.arrays import as_picture
from focus_env.boxes import CLIP_TOLERANCE, as_box
from focus_env.errors import DatasetError
from focus_env.plain_numbers import as_size
from focus_env.types import Box, Episode, Exemplar, Frame, ImageArray

FourNumbers = Box | Sequence[float] | npt.NDArray[Any]
"""A box as people have it."""


def as_supports(supports: Any) -> list[tuple[ImageArray, Box]]:
    """Return pictures with a box each, as arrays and boxes.

    Args:
        supports: Pairs of a picture, whatever `as_picture` takes, and a box `xyxy` in its pixels: a `Box`, tuple, list
            or array.

    Raises:
        ValueError: If there is none, one is no such pair, or a box is not inside its picture or in shares of it.
    """
    is_listed = isinstance(supports, Iterable) and not isinstance(supports, str | bytes | Mapping | np.ndarray)
    pairs = list(supports) if is_listed else []
    if not pairs:
        got = ", got none" if is_listed else f", as in [(picture, box)], got {type(supports).__name__}"
        raise ValueError(f"supports: expected at least one picture with a box{got}")
    found = []
    for number, pair in enumerate(pairs, start=1):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            got = f"{len(pair)} things" if isinstance(pair, tuple | list) else type(pair).__name__
            raise ValueError(f"support {number}: expected a picture with a box, as in (picture, box), got {got}")
        picture = as_picture(pair[0], f"picture of support {number}")
        image_wh = picture.shape[1], picture.shape[0]
        found.append((picture, as_box(pair[1], f"box of support {number}", image_wh=image_wh)))
    return found


def as_episode(episode: Any) -> Episode:
    """Return an episode of anybody's data set, checked: its parts, and each box against its picture.

    Args:
        episode: An `Episode`. Its supports may be pairs of a frame and a box, and its boxes tuples, lists or arrays. A
            box that leaves its picture by a hair, see `focus_env.boxes.CLIP_TOLERANCE`, is cut there.

    Returns:
        The same episode where nothing is to be changed.

    Raises:
        DatasetError: If it is none, a part is missing or of another kind, or a box is no box in its picture, or in
            shares of it. A target of NaN would count as absent, and nothing could hit a reversed one.
    """
    if not isinstance(episode, Episode):
        raise DatasetError(f"expected an Episode of the data set, got {type(episode).__name__}: {episode!r:.80}")
    where = f"episode {episode.episode_id!r}"
    given: Any = episode.support
    if not isinstance(given, tuple | list):
        raise DatasetError(f"{where}: expected supports, as in (Exemplar(frame, box),), got {type(given).__name__}")
    supports = tuple(
        _as_exemplar(support, f"{where}: %s support {number}") for number, support in enumerate(given, start=1)
    )
    query_wh = _frame_wh(episode.query_frame, f"{where}: query_frame")
    target = episode.target_box
    if target is not None:
        target = _box_in(target, query_wh, f"{where}: target_box")
    is_same = target is episode.target_box and all(map(lambda new, old: new is old, supports, given))
    return episode if is_same else dataclasses.replace(episode, support=supports, target_box=target)


def read_picture(frame: Frame, whose: str) -> ImageArray:
    """Decode a picture of an episode.

    Args:
        frame: The picture.
        whose: Which of which episode it is, for the message.

    Raises:
        DatasetError: If it cannot be read.
    """
    try:
        return frame.image()
    except DatasetError as error:
        named = "" if frame.name in str(error) else f"picture {frame.name!r}: "
        raise DatasetError(f"{whose}: {named}{error}") from error


def _as_exemplar(support: Any, name: str) -> Exemplar:
    """Make an exemplar of one support; `name` has a place for the part of the support that is meant."""
    if isinstance(support, tuple | list) and len(support) == 2:
        support = Exemplar(*support)
    if not isinstance(support, Exemplar):
        raise DatasetError(f"{name % 'the'}: expected an Exemplar(frame, box), got {type(support).__name__}")
    box = _box_in(support.box, _frame_wh(support.frame, name % "frame of"), name % "box of")
    return support if box is support.box else dataclasses.replace(support, box=box)


def _frame_wh(frame: Any, name: str) -> tuple[int, int]:
    if not isinstance(frame, Frame):
        raise DatasetError(f"{name}: expected a Frame(name, image_wh, source), got {type(frame).__name__}")
    try:
        return as_size(frame.image_wh, f"{name}: image_wh")
    except ValueError as error:
        raise DatasetError(str(error)) from error


def _box_in(box: Any, image_wh: tuple[int, int], name: str) -> Box:
    try:
        found = as_box(box, name)
    except ValueError as error:
        raise DatasetError(
            f"{name} must be four finite numbers x1, y1, x2, y2 in pixels, each a real number, got {box!r:.80}"
        ) from error
    try:
        return as_box(found, name, image_wh=image_wh, tolerance=CLIP_TOLERANCE)
    except ValueError as error:
        raise DatasetError(str(error)) from error
