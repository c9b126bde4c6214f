"""Answers as arrays, the argument of reward terms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from focus_env.boxes import CLIP_TOLERANCE, iou, validate_box
from focus_env.overlap import covers_image, repeats_support, support_shares, to_shares
from focus_env.types import BoxArray, Episode, ParseResult, ParseStatus

NO_BOX = (math.nan,) * 4

Array = TypeVar("Array", bound=npt.NDArray[Any])


@dataclass(frozen=True, eq=False, kw_only=True)
class AnswerBatch:
    """N answers, to one episode or to several, and what they are scored by.

    The arrays are read-only if they come from `from_parses`: all terms of a reward see the same ones. IoU and the two
    shortcuts are computed when they are first asked for, and kept for all who ask afterwards.

    Attributes:
        boxes: [N, 4] float64 `xyxy` in pixels of the query; nan where the answer holds no readable box.
        says_absent: [N] bool, whether the answer says that the object is not there.
        is_strict: [N] bool, whether the whole text has the answer format.
        target_boxes: [N, 4] float64, the truth in the same pixels; nan where the object is absent.
        image_wh: [N, 2] float64 width and height of the query in pixels.
        support_boxes: [N, K, 4] float64 `xyxy` as shares of the widths and heights of their own images; nan where an
            episode has fewer than K supports.
        texts: [N] what the model wrote; None for a box action.
        episode_ids: [N] names of the episodes.
        progress: How far the training is, from 0 to 1, for terms with a curriculum. An evaluation is at 1.

    Raises:
        ValueError: If an array has another shape, or `progress` is no share.
    """

    boxes: BoxArray
    says_absent: npt.NDArray[np.bool_]
    is_strict: npt.NDArray[np.bool_]
    target_boxes: BoxArray
    image_wh: npt.NDArray[np.float64]
    support_boxes: BoxArray
    texts: tuple[str | None, ...]
    episode_ids: tuple[str, ...]
    progress: float = 1.0

    def __post_init__(self) -> None:
        count = len(self.texts)
        shapes = {"says_absent": (), "is_strict": (), "boxes": (4,), "target_boxes": (4,), "image_wh": (2,)}
        shapes["support_boxes"] = (*self.support_boxes.shape[1:2], 4)
        for name, shape in shapes.items():
            if getattr(self, name).shape != (count, *shape):
                raise ValueError(
                    f"answers: {name} must have the shape {[count, *shape]} for {count} texts, "
                    f"got {list(getattr(self, name).shape)}"
                )
        if len(self.episode_ids) != count:
            raise ValueError(f"answers: expected an episode id for each of {count} texts, got {len(self.episode_ids)}")
        if not 0 <= self.progress <= 1:
            raise ValueError(f"progress must be from 0 (the start of training) to 1 (its end), got {self.progress}")

    @classmethod
    def from_parses(
        cls,
        episodes: Sequence[Episode],
        parses: Sequence[ParseResult],
        texts: Sequence[str | None] | None = None,
        *,
        progress: float = 1.0,
    ) -> AnswerBatch:
        """Collect what was read from answers.

        Args:
            episodes: [N] the episode that each answers.
            parses: [N] what was read.
            texts: [N] what was written; None: box actions.
            progress: How far the training is, from 0 to 1.

        Raises:
            ValueError: If the lengths differ, `progress` is no share, or a target is no box in its picture: one that
                is not finite would count as absent, and nothing could hit a reversed one.
        """
        for episode in episodes:
            if episode.target_box is not None:
                name = f"episode {episode.episode_id!r}: target_box"
                validate_box(episode.target_box, episode.query_frame.image_wh, name, tolerance=CLIP_TOLERANCE)
        texts = (None,) * len(parses) if texts is None else tuple(texts)
        if not len(episodes) == len(parses) == len(texts):
            raise ValueError(
                "answers: expected an episode, a parse and a text for each, "
                f"got {len(episodes)}, {len(parses)} and {len(texts)}"
            )
        return cls(
            boxes=_box_array([parse.box for parse in parses]),
            says_absent=_read_only(np.array([parse.status is ParseStatus.ABSENT for parse in parses], dtype=np.bool_)),
            is_strict=_read_only(np.array([parse.is_strict for parse in parses], dtype=np.bool_)),
            target_boxes=_box_array([episode.target_box for episode in episodes]),
            image_wh=_read_only(_as_floats([episode.query_frame.image_wh for episode in episodes]).reshape(-1, 2)),
            support_boxes=_read_only(_support_array(episodes)),
            texts=texts,
            episode_ids=tuple(episode.episode_id for episode in episodes),
            progress=progress,
        )

    def __len__(self) -> int:
        return len(self.texts)

    def row(self, position: int) -> AnswerBatch:
        """Return one of the answers, as a batch of one."""
        rows = slice(position, position + 1)
        return AnswerBatch(
            boxes=self.boxes[rows],
            says_absent=self.says_absent[rows],
            is_strict=self.is_strict[rows],
            target_boxes=self.target_boxes[rows],
            image_wh=self.image_wh[rows],
            support_boxes=self.support_boxes[rows],
            texts=self.texts[rows],
            episode_ids=self.episode_ids[rows],
            progress=self.progress,
        )

    @property
    def has_box(self) -> npt.NDArray[np.bool_]:
        """[N] whether the answer holds a readable box."""
        return ~np.isnan(self.boxes[:, 0])

    @property
    def is_present(self) -> npt.NDArray[np.bool_]:
        """[N] whether the object is in the query."""
        return ~np.isnan(self.target_boxes[:, 0])

    @property
    def box_shares(self) -> BoxArray:
        """[N, 4] the answers' boxes as shares of the query's width and height."""
        return to_shares(self.boxes, self.image_wh)

    @property
    def target_shares(self) -> BoxArray:
        """[N, 4] the true boxes, likewise."""
        return to_shares(self.target_boxes, self.image_wh)

    @cached_property
    def ious(self) -> npt.NDArray[np.float64]:
        """[N] IoU of answer and target, in [0, 1]; 0 where either is missing. Read-only."""
        return _read_only(iou(self.boxes, self.target_boxes))

    @cached_property
    def is_whole_image(self) -> npt.NDArray[np.bool_]:
        """[N] whether the answer takes the whole query, see `overlap.covers_image`. Read-only."""
        return _read_only(covers_image(self.boxes, self.image_wh))

    @cached_property
    def copies_support(self) -> npt.NDArray[np.bool_]:
        """[N, K] whether the answer repeats a support's box, see `overlap.repeats_support`. Read-only."""
        return _read_only(repeats_support(self.box_shares, self.support_boxes))


def _as_floats(values: object) -> npt.NDArray[np.float64]:
    return np.array(values, dtype=np.float64)


def _read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array


def _box_array(boxes: Sequence[tuple[float, ...] | None]) -> BoxArray:
    return _read_only(_as_floats([NO_BOX if box is None else box for box in boxes]).reshape(-1, 4))


def _support_array(episodes: Sequence[Episode]) -> BoxArray:
    """Return [N, K, 4] support boxes as shares, computed once for all answers to one episode."""
    distinct = {id(episode): episode for episode in episodes}
    shares = {key: support_shares(episode) for key, episode in distinct.items()}
    num_supports = max(map(len, shares.values()), default=0)
    array = np.full((len(episodes), num_supports, 4), math.nan)
    for row, episode in zip(array, episodes, strict=True):
        row[: len(episode.support)] = shares[id(episode)]
    return array
