"""Bootstrap intervals: of a mean, a change over pairs, a ratio, over trainings, over groups drawn whole."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

_CHUNK_VALUES = 1_000_000
"""Resampled values held in memory at once."""


def bootstrap_interval(
    values: npt.ArrayLike, *, confidence: float = 0.95, num_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a mean.

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
    return _percentiles(means, confidence)


def ratio_bootstrap_interval(
    above: npt.ArrayLike,
    below: npt.ArrayLike,
    *,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a ratio of two sums over the same items, such as an F1.

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
    return _percentiles(sums[0] / sums[1], confidence)


def _resamples(num_values: int, num_resamples: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield positions of the values of all resamples, [rows, num_values] at a time."""
    rng = np.random.default_rng(seed)
    rows_per_chunk = max(1, _CHUNK_VALUES // num_values)
    for start in range(0, num_resamples, rows_per_chunk):
        yield rng.integers(num_values, size=(min(rows_per_chunk, num_resamples - start), num_values))


def _percentiles(values: npt.NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Return the bounds between which the middle share of the resampled values lies."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


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
    """Return the percentile bootstrap interval of the mean change, over pairs.

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
    """Return the percentile bootstrap interval of a mean over trainings and episodes, both drawn anew.

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
    return _percentiles(means, confidence)


@functools.lru_cache(maxsize=8)
def _drawn_counts(
    num_runs: int, num_episodes: int, num_resamples: int, seed: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return how often each run and each episode is drawn: [num_resamples, num_runs] and [num_resamples, num_episodes].

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
    return _percentiles(means, confidence)
