"""Metrics of answers, and their means with intervals.

Each answer becomes a `ScoredAnswer`, see `focus_env.rewards.scores`. `summarize` turns many into named numbers. An
answer that holds no readable box counts as a miss in every `_all` number, so that a model cannot gain by falling
silent. Two shortcuts that earn some IoU without looking are counted by name: answering the whole image, and copying a
support box.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from focus_env.intervals import bootstrap_interval, ratio_bootstrap_interval
from focus_env.types import Box, ParseStatus

HIT_IOU = 0.5
"""IoU from which on a box has found its object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredAnswer:
    """One answer to one episode, with what the metrics need.

    Attributes:
        episode_id: The episode that was answered.
        status: What the text held.
        is_strict: Whether the text had the answer format and nothing else.
        box: The answer, `xyxy` in pixels of the query; None unless the status is `OK` or `CLIPPED`.
        target_box: The truth, likewise; None where the object is absent.
        iou: Of the two boxes, in [0, 1]; 0 where either is None.
        is_whole_image: Whether the answer covers at least `overlap.WHOLE_IMAGE_SHARE` of the query.
        is_support_copy: Whether the answer repeats a support box, see `overlap.COPY_IOU`. A target that has not moved
            makes a right answer a copy, too; compare with a policy that always copies.
        numbers: The four finite numbers that the text gave for a box, in its unit, readable or not; None without them.
        image_wh: (width, height) of the query in pixels.
    """

    episode_id: str
    status: ParseStatus
    is_strict: bool
    box: Box | None
    target_box: Box | None
    iou: float
    is_whole_image: bool
    is_support_copy: bool
    numbers: tuple[float, float, float, float] | None = field(default=None, compare=False)
    image_wh: tuple[int, int] | None = field(default=None, compare=False)

    @property
    def is_absent_target(self) -> bool:
        """Whether the object is not in the query."""
        return self.target_box is None

    @property
    def is_parsed(self) -> bool:
        """Whether the text held one answer: a box, or that the object is absent."""
        return self.box is not None or self.status is ParseStatus.ABSENT

    @property
    def credit(self) -> float:
        """IoU; where the object is absent, 1 for saying so, else 0; the value of `rewards.iou_reward`."""
        if self.is_absent_target:
            return float(self.status is ParseStatus.ABSENT)
        return self.iou

    @property
    def detection(self) -> tuple[int, int, int]:
        """(True positives, false positives, false negatives), each 0 or 1; see `f1_50` of `summarize`."""
        is_hit = not self.is_absent_target and self.iou >= HIT_IOU
        return int(is_hit), int(self.box is not None and not is_hit), int(not self.is_absent_target and not is_hit)


def summarize(answers: Sequence[ScoredAnswer]) -> dict[str, float]:
    """Average many answers.

    Args:
        answers: At least one.

    Returns:
        These numbers, shares and means in [0, 1] except for the count. A number that is undefined for these
        answers is left out, never nan. *Credit* is the IoU, 0 for an unreadable answer; where the object is
        absent it is 1 for saying so, else 0.

        - ``num_answers``: how many answers there are.
        - ``miou_all``: mean credit over all answers.
        - ``miou_parsed``: mean credit over the readable answers, if there is one.
        - ``miou_present``: mean IoU over the targets that are present, if there is one.
        - ``acc_50``, ``acc_75``: share of all answers with a credit of at least 0.5, 0.75.
        - ``parse_rate``: share of all that are readable: one box, or that the object is absent.
        - ``format_rate``: share of all in strict format.
        - ``whole_image_rate``: share of all that answer the whole image.
        - ``copy_rate``: share of all that repeat a support box.
        - ``absent_rate``: share of the targets that are absent, if there is one.
        - ``absent_recall``: share of the absent targets that are called absent, if there is one.
        - ``absent_precision``: share of the answers "absent" that are right, if there is one and a target is absent.
        - ``f1_50``: joint F1 over present and absent targets, 2 TP / (2 TP + FP + FN), if there are targets of both
            kinds. A true positive is a box with an IoU of at least 0.5. Any other box is a false positive, whether its
            target is elsewhere or absent. A present target without a true positive is a false negative: a box that
            misses it counts twice, "absent" and an unreadable answer once. An absent target that is answered without a
            box does not enter, as true negatives do not enter an F1; ``absent_recall`` counts them.

    Raises:
        ValueError: If there is no answer.
    """
    means = {name: float(np.mean(values)) for name, values in _metric_values(answers).items()}
    if (terms := _f1_terms(answers)) is not None:
        means["f1_50"] = float(terms[0].sum() / terms[1].sum())
    return {"num_answers": float(len(answers)), **means}


def summarize_with_intervals(answers: Sequence[ScoredAnswer]) -> dict[str, dict[str, Any]]:
    """Return the numbers of `summarize`, each with a 95% bootstrap interval over the answers that it counts.

    Args:
        answers: At least one, and one for each episode.

    Returns:
        By name, `mean` and `interval` (low, high). Undefined ones are left out.

    Raises:
        ValueError: If there is no answer.
    """
    found: dict[str, dict[str, Any]] = {
        name: {"mean": float(np.mean(values)), "interval": bootstrap_interval(values)}
        for name, values in _metric_values(answers).items()
    }
    if (terms := _f1_terms(answers)) is not None:
        f1, interval = float(terms[0].sum() / terms[1].sum()), ratio_bootstrap_interval(*terms)
        found["f1_50"] = {"mean": f1, "interval": interval}
    return found


def _f1_terms(answers: Sequence[ScoredAnswer]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """Return each answer's part of the numerator and the denominator of the joint F1; None: F1 is not defined."""
    if len({answer.is_absent_target for answer in answers}) < 2:
        return None
    counts = np.array([answer.detection for answer in answers], dtype=np.float64)
    return 2 * counts[:, 0], counts @ (2.0, 1.0, 1.0)


def _metric_values(answers: Sequence[ScoredAnswer]) -> dict[str, list[float]]:
    """Return the values behind each mean in `summarize`, by the mean's name."""
    if not answers:
        raise ValueError("summarize needs at least one answer, got none; was the data set empty?")

    def values(value: Callable[[ScoredAnswer], float], among: Sequence[ScoredAnswer] = answers) -> list[float]:
        return [float(value(answer)) for answer in among]

    metrics = {
        "miou_all": values(lambda a: a.credit),
        "acc_50": values(lambda a: a.credit >= 0.5),
        "acc_75": values(lambda a: a.credit >= 0.75),
        "parse_rate": values(lambda a: a.is_parsed),
        "format_rate": values(lambda a: a.is_strict),
        "whole_image_rate": values(lambda a: a.is_whole_image),
        "copy_rate": values(lambda a: a.is_support_copy),
    }
    if parsed := [a for a in answers if a.is_parsed]:
        metrics["miou_parsed"] = values(lambda a: a.credit, parsed)
    if present := [a for a in answers if not a.is_absent_target]:
        metrics["miou_present"] = values(lambda a: a.iou, present)
    if absent := [a for a in answers if a.is_absent_target]:
        metrics["absent_rate"] = values(lambda a: a.is_absent_target)
        metrics["absent_recall"] = values(lambda a: a.status is ParseStatus.ABSENT, absent)
        if called_absent := [a for a in answers if a.status is ParseStatus.ABSENT]:
            metrics["absent_precision"] = values(lambda a: a.is_absent_target, called_absent)
    return metrics
