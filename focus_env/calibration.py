"""Measure how well scores serve as probabilities: the reliability curve, and the calibration error.

Answers are sorted into bins of equal width by their scores. In each, the mean score is compared with the share of
answers that are right. The expected calibration error is the mean of these differences, each weighed by its answers.

Source: Naeini et al. (2015), "Obtaining well calibrated probabilities using Bayesian binning"; Guo et al. (2017),
arXiv:1706.04599, section 2. With few answers it is biased upwards: the bins' own noise counts as error.

`Calibration` makes probabilities of scores, fitted on answers of which one knows whether they are right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from focus_env.intervals import bootstrap_interval
from focus_env.text_files import finite_number

NUM_BINS = 10
NUM_RESAMPLES = 2_000
LEAST_SCORE = 1e-4
"""Scores below it, and as near to 1, are all alike to a calibration."""
MAX_STEPS = 100


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of like scores.

    Attributes:
        low: Least score; `high` is that of the next bin.
        high: See `low`.
        num: How many there are, at least one.
        mean_score: Of them.
        share_right: Of them.
        interval: 95% bootstrap interval of the share.
    """

    low: float
    high: float
    num: int
    mean_score: float
    share_right: float
    interval: tuple[float, float]


def reliability_curve(scores: npt.ArrayLike, is_right: npt.ArrayLike, *, num_bins: int = NUM_BINS) -> list[Bin]:
    """Return the bins that hold an answer, by rising scores.

    Args:
        scores: [N] from 0 to 1.
        is_right: [N] whether the answer is right.
        num_bins: Of equal width.

    Raises:
        ValueError: If there is no answer, a score is not from 0 to 1, or there are not as many of one as of the other.
    """
    values, right = _checked(scores, is_right)
    places = _places(values, num_bins)
    return [
        Bin(
            low=place / num_bins,
            high=(place + 1) / num_bins,
            num=int((places == place).sum()),
            mean_score=float(values[places == place].mean()),
            share_right=float(right[places == place].mean()),
            interval=bootstrap_interval(right[places == place], num_resamples=NUM_RESAMPLES),
        )
        for place in np.unique(places).tolist()
    ]


def calibration_error(scores: npt.ArrayLike, is_right: npt.ArrayLike, *, num_bins: int = NUM_BINS) -> float:
    """Return the expected calibration error; arguments and errors are those of `reliability_curve`.

    >>> round(calibration_error([0.95, 0.95, 0.15, 0.15], [True, False, False, False]), 3)
    0.3
    """
    values, right = _checked(scores, is_right)
    gaps = np.bincount(_places(values, num_bins), values - right, num_bins)
    return float(np.abs(gaps).sum() / len(values))


def calibration_interval(
    scores: npt.ArrayLike, is_right: npt.ArrayLike, *, num_bins: int = NUM_BINS, seed: int = 0
) -> tuple[float, float]:
    """Return the 95% percentile bootstrap interval of the calibration error, over answers.

    The error of a resample is larger than that of the answers on average, as theirs is larger than the true one.
    """
    values, right = _checked(scores, is_right)
    rng, gaps, places = np.random.default_rng(seed), values - right, _places(values, num_bins)
    errors = np.empty(NUM_RESAMPLES)
    for number in range(NUM_RESAMPLES):
        drawn = rng.integers(len(gaps), size=len(gaps))
        errors[number] = np.abs(np.bincount(places[drawn], gaps[drawn], num_bins)).sum() / len(gaps)
    low, high = np.quantile(errors, [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Calibration:
    """A map from scores to how often answers of such a score are right: Platt scaling of the scores' logits.

    It never turns the order of two scores.

    Attributes:
        slope: Of the log odds, 0 or more.
        intercept: Of the log odds.

    Source: Platt (1999), "Probabilistic outputs for support vector machines"; targets are smoothed as there.
    """

    slope: float
    intercept: float

    def share(self, score: float) -> float:
        """Return the probability that an answer of a score is right."""
        odds = self.slope * float(_logits(np.array([score]))[0]) + self.intercept
        return 1 / (1 + math.exp(-odds)) if odds > -700 else 0.0

    def to_json(self) -> dict[str, float]:
        """Return it as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Any) -> Calibration:
        """Return what `to_json` has given.

        Raises:
            ValueError: If it is something else.
        """
        numbers = [found.get(name) if isinstance(found, Mapping) else None for name in cls.__slots__]
        slope, intercept = (None if isinstance(number, str) else finite_number(number) for number in numbers)
        if slope is None or intercept is None or slope < 0:
            raise ValueError(f"expected a slope of 0 or more and an intercept, got {found!r:.120}")
        return cls(slope, intercept)


def fit_calibration(scores: npt.ArrayLike, is_right: npt.ArrayLike) -> Calibration:
    """Fit a calibration by the greatest likelihood; arguments and errors are those of `reliability_curve`.

    Fit it on other answers than those that it is judged by.
    """
    values, right = _checked(scores, is_right)
    num_right, num_wrong = right.sum(), (1 - right).sum()
    targets = np.where(right == 1, (num_right + 1) / (num_right + 2), 1 / (num_wrong + 2))
    inputs = np.stack([_logits(values), np.ones_like(values)], axis=1)

    def loss(weights: npt.NDArray[np.float64]) -> float:
        odds = inputs @ weights
        return float((np.logaddexp(0, odds) - targets * odds).sum())

    start = np.array([0.0, math.log(targets.mean() / (1 - targets.mean()))])
    weights = start
    for _ in range(MAX_STEPS):  # of Newton, halved until the loss falls
        shares = 1 / (1 + np.exp(-np.clip(inputs @ weights, -700, 700)))
        gradient = inputs.T @ (shares - targets)
        curvature = (inputs * (shares * (1 - shares))[:, None]).T @ inputs + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        size = next((size for size in 0.5 ** np.arange(30) if loss(weights - size * step) < loss(weights)), 0.0)
        weights = weights - size * step
        if not size or np.abs(size * step).max() < 1e-9:
            break
    weights = weights if weights[0] > 0 else start  # scores that say the opposite say nothing
    return Calibration(float(weights[0]), float(weights[1]))


def _logits(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Log odds, of scores near 0 and 1 those a little away."""
    inside = np.clip(values, LEAST_SCORE, 1 - LEAST_SCORE)
    found: npt.NDArray[np.float64] = np.log(inside / (1 - inside))
    return found


def _places(values: npt.NDArray[np.float64], num_bins: int) -> npt.NDArray[np.int64]:
    """Return [N] the bin of each score; 1 is in the last one."""
    found: npt.NDArray[np.int64] = np.minimum((values * num_bins).astype(np.int64), num_bins - 1)
    return found


def _checked(scores: npt.ArrayLike, is_right: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    values, right = np.asarray(scores, np.float64), np.asarray(is_right, np.float64)
    if values.ndim != 1 or values.shape != right.shape or not len(values):
        raise ValueError(f"scores: expected one for each answer, got shapes {values.shape} and {right.shape}")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("scores: expected numbers from 0 to 1, got others")
    return values, right
