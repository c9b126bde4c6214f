"""Ridge regression onto classes, in closed form, with its penalty chosen by leaving one example out.

n examples, D features, C classes. One-hot classes Y are regressed on standardized features A with the least
||A W - Y||^2 + p ||W||^2; an example's class is the largest of its C values. (Hoerl and Kennard 1970; the error of
leaving one out in closed form: Allen 1974.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PENALTIES = (1.0, 10.0, 100.0, 1e3, 1e4)
"""Among which p is chosen; features have a variance of 1."""
SMALLEST_SPREAD = 1e-6
"""A feature that varies by less than this share of its mean is a constant but for rounding."""
SMALLEST_EIGENVALUE = 1e-10
"""As a share of the largest; below it is rounding."""

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ridge:
    """A fitted regression.

    Attributes:
        mean: [D] of the features.
        scale: [D], what features are divided by; infinite for one that does not vary.
        weights: [D, C].
        offset: [C], each class's share of the examples.
        penalty: p.
    """

    mean: Array
    scale: Array
    weights: Array
    offset: Array
    penalty: float

    def predict(self, features: npt.NDArray[np.floating]) -> Labels:
        """Return the likeliest class of each example, [m] int64, of features [m, D]."""
        values = (features - self.mean) / self.scale @ self.weights + self.offset
        return values.argmax(1)


def fit_ridge(
    features: npt.NDArray[np.floating], labels: Labels, num_classes: int, penalties: Sequence[float] = PENALTIES
) -> Ridge:
    """Fit a regression, with the penalty whose squared error of examples left out is least.

    Args:
        features: [n, D], finite.
        labels: [n] int64, classes from 0.
        num_classes: C.
        penalties: To choose from.
    """
    features = np.asarray(features, dtype=np.float64)
    mean, spread = features.mean(0), features.std(0)
    scale = np.where(spread > SMALLEST_SPREAD * np.abs(mean), spread, np.inf)
    standard = (features - mean) / scale
    offset = np.bincount(labels, minlength=num_classes) / len(labels)
    targets = np.eye(num_classes)[labels] - offset
    left, sizes, right = _decompose(standard)
    projected = left.T @ targets
    errors = [_error_left_out(left, sizes, projected, targets, penalty) for penalty in penalties]
    penalty = penalties[int(np.argmin(errors))]
    weights = right @ (projected * (sizes / (sizes**2 + penalty))[:, None])
    return Ridge(mean, scale, weights, offset, penalty)


def _decompose(matrix: Array) -> tuple[Array, Array, Array]:
    """Return the singular values of [n, D], by the smaller of its products with itself: [n, r], [r], [D, r]."""
    is_tall = matrix.shape[0] >= matrix.shape[1]
    values, vectors = np.linalg.eigh(matrix.T @ matrix if is_tall else matrix @ matrix.T)
    kept = values > SMALLEST_EIGENVALUE * values.max(initial=0.0)
    sizes, vectors = np.sqrt(values[kept]), vectors[:, kept]
    if is_tall:
        return matrix @ vectors / sizes, sizes, vectors
    return vectors, sizes, matrix.T @ vectors / sizes


def _error_left_out(left: Array, sizes: Array, projected: Array, targets: Array, penalty: float) -> float:
    """Return the mean squared error of each example by the regression on all others."""
    shrunk = sizes**2 / (sizes**2 + penalty)
    own = (left**2 * shrunk).sum(1, keepdims=True)
    return float(np.mean(((targets - left @ (projected * shrunk[:, None])) / (1 - own)) ** 2))
