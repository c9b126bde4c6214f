"""What an evaluation reports, and how sure its means are.

Each answer becomes a `ScoredAnswer`, see `focus_env.rewards.scores`. `summarize` turns many into named numbers. An
answer that holds no readable box counts as a miss in every `_all` number, so that a model cannot gain by falling
silent. Two shortcuts that earn some IoU without looking are counted by name: answering the whole image, and copying a
support box.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from focus_env.types import Box, ParseStatus

HIT_IOU = 0.5
"""IoU from which on a box has found its object."""

_CHUNK_VALUES = 1_000_000
"""Resampled values held in memory at once."""


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
    """The numbers of `summarize`, each with a 95% bootstrap interval over the answers that it is of.

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
    """What each answer adds above and below the fraction of the joint F1; None: it is not defined."""
    if len({answer.is_absent_target for answer in answers}) < 2:
        return None
    counts = np.array([answer.detection for answer in answers], dtype=np.float64)
    return 2 * counts[:, 0], counts @ (2.0, 1.0, 1.0)


def _metric_values(answers: Sequence[ScoredAnswer]) -> dict[str, list[float]]:
    """By name of a mean in `summarize`, the values that it is the mean of."""
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


def bootstrap_interval(
    values: npt.ArrayLike, *, confidence: float = 0.95, num_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean.

    Args:
        values: [N] finite numbers, one per independent item (an episode, not a sampled answer: answers to one
            question are no independent items).
        confidence: Coverage of the interval, inside (0, 1).
        num_resamples: How many resamples of size N are drawn.
        seed: The same seed gives the same interval.

    Returns:
        (low, high), which are equal for equal values. Too narrow for small N, as percentile intervals are.

    Raises:
        ValueError: If there is no value, one is not finite, or an argument is out of range.

    Source: Efron (1979), doi:10.1214/aos/1176344552; the percentile interval, without bias correction.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0 or not np.isfinite(array).all():
        raise ValueError(
            f"values must be a non-empty list of finite numbers, got shape {list(array.shape)} with "
            f"{np.count_nonzero(~np.isfinite(array))} not finite"
        )
    _check_bootstrap(confidence, num_resamples)
    if (array == array[0]).all():
        return float(array[0]), float(array[0])
    means = np.concatenate([array[drawn].mean(axis=1) for drawn in _resamples(len(array), num_resamples, seed)])
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def ratio_bootstrap_interval(
    above: npt.ArrayLike,
    below: npt.ArrayLike,
    *,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a ratio of two sums over the same items, such as an F1.

    Args:
        above: [N] finite numbers, what each independent item adds above the fraction.
        below: [N] likewise below it, none of them negative and one at least above 0.
        confidence: As in `bootstrap_interval`.
        num_resamples: As in `bootstrap_interval`; resamples with nothing below the fraction are left out.
        seed: As in `bootstrap_interval`.

    Returns:
        (low, high).

    Raises:
        ValueError: If the numbers are none of the above.
    """
    terms = np.array([above, below], dtype=np.float64)
    if terms.ndim != 2 or not np.isfinite(terms).all() or (terms[1] < 0).any() or not terms[1].any():
        raise ValueError(
            "above and below: expected two equally long lists of finite numbers, none below 0 in the second and one at "
            f"least above it, got {terms.tolist()!r:.200}"
        )
    _check_bootstrap(confidence, num_resamples)
    sums = np.concatenate(
        [terms[:, drawn].sum(axis=2) for drawn in _resamples(terms.shape[1], num_resamples, seed)], axis=1
    )
    sums = sums[:, sums[1] > 0]
    tail = (1 - confidence) / 2
    low, high = np.quantile(sums[0] / sums[1], [tail, 1 - tail])
    return float(low), float(high)


def _resamples(num_values: int, num_resamples: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Positions of the values of all resamples, [rows, num_values] at a time."""
    rng = np.random.default_rng(seed)
    rows_per_chunk = max(1, _CHUNK_VALUES // num_values)
    for start in range(0, num_resamples, rows_per_chunk):
        yield rng.integers(num_values, size=(min(rows_per_chunk, num_resamples - start), num_values))


def _check_bootstrap(confidence: float, num_resamples: int) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be inside (0, 1), such as 0.95, got {confidence}")
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be at least 1, got {num_resamples}")


def paired_bootstrap_interval(
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    *,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean change, over pairs.

    Two models answer the same episodes; each pair is resampled as one, so that the difficulty of an episode
    cancels.

    Args:
        before: [N] scores of the one model.
        after: [N] scores of the other on the same episodes, in the same order.
        confidence: As in `bootstrap_interval`.
        num_resamples: As in `bootstrap_interval`.
        seed: As in `bootstrap_interval`.

    Returns:
        (low, high) of mean(after - before). An interval that excludes 0 tells the two apart.

    Raises:
        ValueError: If the lengths differ, and as `bootstrap_interval` does.
    """
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(
            f"before and after must score the same episodes, got {list(first.shape)} and {list(second.shape)} values"
        )
    return bootstrap_interval(second - first, confidence=confidence, num_resamples=num_resamples, seed=seed)


def seeds_bootstrap_interval(
    values: npt.ArrayLike, *, confidence: float = 0.95, num_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over trainings and episodes, both drawn anew.

    Args:
        values: [R, N] finite numbers: R trainings that differ in their seed, each on the same N episodes; scores, or
            differences of scores.
        confidence: As in `bootstrap_interval`.
        num_resamples: As in `bootstrap_interval`.
        seed: As in `bootstrap_interval`.

    Returns:
        (low, high). With three trainings it says that another three would hardly turn the sign, and little more.

    Raises:
        ValueError: If there is no value, or one is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"values must be finite numbers [trainings, episodes], got shape {list(array.shape)}")
    _check_bootstrap(confidence, num_resamples)
    # A resample's mean is linear in both counts.
    runs, episodes = _drawn_counts(*array.shape, num_resamples, seed)
    means = ((runs @ array) * episodes).sum(axis=1) / array.size
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


@functools.lru_cache(maxsize=8)
def _drawn_counts(
    num_runs: int, num_episodes: int, num_resamples: int, seed: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """How often each run and each episode is drawn: [num_resamples, num_runs] and [num_resamples, num_episodes].

    A report has hundreds of intervals over as many runs and episodes each; drawing takes longer than all the rest.
    """
    rng = np.random.default_rng(seed)
    runs = rng.multinomial(num_runs, np.full(num_runs, 1 / num_runs), size=num_resamples)
    episodes = rng.multinomial(num_episodes, np.full(num_episodes, 1 / num_episodes), size=num_resamples)
    return runs.astype(np.int32), episodes.astype(np.int32)


def grouped_bootstrap_interval(
    values: npt.ArrayLike,
    groups: Sequence[Hashable],
    *,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a mean over episodes that come in groups, which are drawn whole.

    Episodes of one object, or cut from one video, are alike, so an interval over episodes alone would be too narrow
    for what holds for other objects.

    Args:
        values: [N] finite numbers.
        groups: [N] what each of them belongs to, e.g. `Episode.identity`.
        confidence: As in `bootstrap_interval`.
        num_resamples: Likewise.
        seed: Likewise.

    Returns:
        (low, high) of the mean over all episodes of the groups that are drawn. Of a single group it is that of
        `bootstrap_interval`, which says nothing of other groups.

    Raises:
        ValueError: If the lengths differ, and as `bootstrap_interval` does.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (len(groups),):
        raise ValueError(f"groups: expected one for each value, got {len(groups)} for {list(array.shape)} values")
    names = {name: position for position, name in enumerate(dict.fromkeys(groups))}
    if len(names) == 1:
        return bootstrap_interval(array, confidence=confidence, num_resamples=num_resamples, seed=seed)
    bootstrap_interval(array, confidence=confidence, num_resamples=1, seed=seed)  # checks
    member = np.array([names[name] for name in groups], dtype=np.intp)
    sums, sizes = np.bincount(member, weights=array), np.bincount(member)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=num_resamples)
    means = (drawn @ sums) / (drawn @ sizes)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
