"""Answers in another unit than the one that was asked for: found by the boxes that their numbers would be there.

A policy that answers perfectly in pixels scores next to nothing where thousandths were asked for, and a parse rate of
100% hides it. Nothing is converted: a hint says which unit fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from focus_env.boxes import CoordinateFrame, frame_to_box, iou
from focus_env.metrics import ScoredAnswer
from focus_env.types import BoxArray

MIN_ANSWERS = 4
"""Answers below which nothing is concluded."""
_MIN_MIOU, _MIN_RATIO = 0.25, 2.0

_CANDIDATES = (CoordinateFrame.PIXEL, CoordinateFrame.NORM_1, CoordinateFrame.NORM_100, CoordinateFrame.NORM_1000)
# Not RESIZED_PIXEL, whose size only the model's processor knows.


@dataclass(frozen=True, slots=True)
class UnitHint:
    """A unit that answers fit far better than the one that they were read in.

    Attributes:
        frame: The unit that fits.
        miou: Mean IoU of the answers in that unit.
        miou_as_read: Mean IoU of the same answers as they were read.
        num_answers: How many answers gave four numbers for an object that is there.
    """

    frame: CoordinateFrame
    miou: float
    miou_as_read: float
    num_answers: int

    def __str__(self) -> str:
        """Return the hint in words, with what to try."""
        return (
            f"{self.num_answers} answers fit another unit of coordinates: mIoU {self.miou:.3f} if they are read as "
            f"{self.frame.value}, {self.miou_as_read:.3f} as they were. Ask in that unit: "
            f"`frame` {self.frame.value}"
        )


def find_unit(answers: Sequence[ScoredAnswer]) -> UnitHint | None:
    """Return the unit that answers fit far better than the one that they were read in, or None.

    The answers must have a mean IoU of at least 0.25 there, and more than twice that which they have as read.

    Args:
        answers: As `focus_env.rewards.scores.score_answers` gives them. Counted are those that gave four numbers, read
            or not, for an object that is there; fewer than `MIN_ANSWERS` of them tell nothing.
    """
    told = [answer for answer in answers if answer.numbers is not None and answer.target_box is not None]
    if len(told) < MIN_ANSWERS:
        return None
    targets = np.array([answer.target_box for answer in told], dtype=np.float64)
    as_read = float(np.mean([answer.iou for answer in told]))
    best = max((_miou_in(frame, told, targets), frame.value) for frame in _CANDIDATES)
    if not fits_far_better(best[0], as_read):
        return None
    return UnitHint(CoordinateFrame(best[1]), best[0], as_read, len(told))


def fits_far_better(miou: float, miou_as_read: float) -> bool:
    """Return whether answers fit another unit so much better that they must be meant in it.

    Args:
        miou: Mean IoU of the answers in that unit.
        miou_as_read: Of the same answers as they were read.
    """
    return miou >= _MIN_MIOU and miou > _MIN_RATIO * miou_as_read


def _miou_in(frame: CoordinateFrame, answers: Sequence[ScoredAnswer], targets: BoxArray) -> float:
    """Return the mean IoU of the answers' numbers as coordinates in a frame; `iou` gives 0 to what is no box there."""
    boxes = [
        frame_to_box(answer.numbers, frame, image_wh=answer.image_wh)
        for answer in answers
        if answer.numbers is not None and answer.image_wh is not None
    ]
    return float(iou(np.array(boxes, dtype=np.float64), targets).mean())
