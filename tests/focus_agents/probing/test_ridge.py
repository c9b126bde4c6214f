"""Ridge regression onto classes: what it finds, what it does not find, and its penalty."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from focus_agents.probing.ridge import PENALTIES, fit_ridge

NUM_CLASSES = 5
RNG = np.random.default_rng(0)


def draw(
    num: int, num_features: int, *, strength: float, seed: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Noise, and in it a direction for each class, which is the same for all seeds."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(NUM_CLASSES, size=num)
    directions = np.random.default_rng(99).normal(size=(NUM_CLASSES, num_features))
    return rng.normal(size=(num, num_features)) + strength * directions[labels], labels


def accuracy(num_features: int, strength: float, *, shift: float = 0.0, scale: float = 1.0) -> float:
    """Fitted on 300 examples, tested on 600 others."""
    features, labels = draw(900, num_features, strength=strength, seed=1)
    features = features * scale + shift
    ridge = fit_ridge(features[:300], labels[:300], NUM_CLASSES)
    return float((ridge.predict(features[300:]) == labels[300:]).mean())


@pytest.mark.parametrize("num_features", [8, 64, 700])  # fewer than examples, and more
def test_a_planted_linear_signal_is_found(num_features: int) -> None:
    assert accuracy(num_features, strength=3.0) > 0.97
    assert accuracy(num_features, strength=3.0, shift=50.0, scale=1e-3) > 0.97  # features of any size


@pytest.mark.parametrize("num_features", [8, 64, 700])
def test_in_noise_there_is_nothing_to_find(num_features: int) -> None:
    """Within 4 standard errors of chance; the fitted examples themselves tell a lot more with many features."""
    assert abs(accuracy(num_features, strength=0.0) - 1 / NUM_CLASSES) < 4 * (0.2 * 0.8 / 600) ** 0.5


def test_a_signal_that_is_not_linear_is_not_found() -> None:
    """The product of two signs; a probe that found it would say nothing of what a layer can use."""
    signs = RNG.choice([-1.0, 1.0], size=(900, 2))
    labels = (signs.prod(1) > 0).astype(np.int64)
    ridge = fit_ridge(signs[:300], labels[:300], 2)
    assert (ridge.predict(signs[300:]) == labels[300:]).mean() < 0.7


@pytest.mark.parametrize(("num", "num_features"), [(60, 7), (25, 40)])
def test_it_is_ridge_regression_with_the_penalty_that_leaving_one_out_chooses(num: int, num_features: int) -> None:
    """Against the normal equations, solved anew without each of the examples."""
    features, labels = draw(num, num_features, strength=0.3, seed=3)
    found = fit_ridge(features, labels, NUM_CLASSES)
    standard = (features - features.mean(0)) / features.std(0)
    targets = np.eye(NUM_CLASSES)[labels] - np.eye(NUM_CLASSES)[labels].mean(0)

    def solve(rows: npt.NDArray[np.bool_], penalty: float) -> npt.NDArray[np.float64]:
        a, y = standard[rows], targets[rows]
        return np.linalg.solve(a.T @ a + penalty * np.eye(num_features), a.T @ y)

    errors = []
    for penalty in PENALTIES:
        others = [np.arange(num) != left_out for left_out in range(num)]
        residuals = [targets[i] - standard[i] @ solve(rows, penalty) for i, rows in enumerate(others)]
        errors.append(float(np.mean(np.square(residuals))))
    assert found.penalty == PENALTIES[int(np.argmin(errors))]
    np.testing.assert_allclose(found.weights, solve(np.ones(num, dtype=bool), found.penalty), atol=1e-8)


def test_constant_features_are_no_features() -> None:
    """As the embedding of a bracket, the same in every prompt but for rounding: the commonest class is answered."""
    labels = np.array([2] * 30 + [0] * 20 + [1] * 10)
    features = np.full((60, 9), 0.3) + 1e-9 * RNG.normal(size=(60, 9))
    features[:, 0] = 0.0
    ridge = fit_ridge(features, labels, 3)
    assert (ridge.predict(features) == 2).all()
    with_one = np.concatenate([features, (labels == 1)[:, None] * 1.0], axis=1)
    assert (fit_ridge(with_one, labels, 3).predict(with_one)[labels == 1] == 1).all()
