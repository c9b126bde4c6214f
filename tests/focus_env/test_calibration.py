"""The reliability curve and the calibration error, by hand and where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from focus_env.calibration import (
    Calibration,
    calibration_error,
    calibration_interval,
    fit_calibration,
    reliability_curve,
)


def test_bins_by_hand() -> None:
    low, middle, high = reliability_curve([1.0, 0.9, 0.05, 0.5, 0.0], [True, False, False, True, True])
    assert (low.low, low.high, low.num, low.share_right) == (0.0, 0.1, 2, 0.5)
    assert low.mean_score == pytest.approx(0.025)
    assert (middle.low, middle.num, middle.mean_score, middle.interval) == (0.5, 1, 0.5, (1.0, 1.0))
    assert (high.low, high.high, high.num, high.mean_score, high.share_right) == (0.9, 1.0, 2, 0.95, 0.5)
    assert high.interval == (0.0, 1.0)


@pytest.mark.parametrize(
    ("scores", "is_right", "expected"),
    [
        ([1.0, 0.0], [True, False], 0.0),
        ([1.0, 0.0], [False, True], 1.0),
        ([0.75] * 4, [True, True, True, False], 0.0),
        ([0.9] * 3 + [0.2], [True, False, False, False], (3 * (0.9 - 1 / 3) + 0.2) / 4),
        # Two wrongs of a bin weigh each other up; of two bins they do not.
        ([0.41, 0.49], [True, False], 0.05),
        ([0.39, 0.41], [True, False], (0.61 + 0.41) / 2),
    ],
)
def test_errors_by_hand(scores: list[float], is_right: list[bool], expected: float) -> None:
    assert calibration_error(scores, is_right) == pytest.approx(expected)


def test_where_the_truth_is_known() -> None:
    rng = np.random.default_rng(0)
    scores = rng.uniform(size=20_000)
    right = rng.uniform(size=20_000) < scores
    assert calibration_error(scores, right) < 0.02
    too_sure = np.sqrt(scores)  # off by the mean of sqrt(x) - x, one sixth
    low, high = calibration_interval(too_sure, right)
    assert low < 1 / 6 < high < low + 0.03
    assert calibration_interval(too_sure, right) == (low, high)


@pytest.mark.parametrize("call", [reliability_curve, calibration_error, calibration_interval, fit_calibration])
@pytest.mark.parametrize(
    ("scores", "is_right", "message"),
    [
        ([], [], "expected one for each answer"),
        ([0.5], [True, False], "expected one for each answer"),
        ([[0.5]], [[True]], "expected one for each answer"),
        ([1.1], [True], "expected numbers from 0 to 1"),
        ([float("nan")], [True], "expected numbers from 0 to 1"),
    ],
)
def test_what_is_none(call: object, scores: list[float], is_right: list[bool], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(scores, is_right)  # type: ignore[operator]


class TestCalibrations:
    """Probabilities out of scores."""

    def test_a_known_one_is_found(self) -> None:
        rng = np.random.default_rng(0)
        truth = Calibration(slope=0.5, intercept=1.0)
        scores = rng.uniform(size=20_000)
        right = rng.uniform(size=20_000) < [truth.share(score) for score in scores]
        found = fit_calibration(scores[:10_000], right[:10_000])
        assert (found.slope, found.intercept) == (pytest.approx(0.5, abs=0.1), pytest.approx(1.0, abs=0.1))
        others, are_right = scores[10_000:], right[10_000:]
        shares = [found.share(score) for score in others]
        assert calibration_error(shares, are_right) < 0.03 < 0.15 < calibration_error(others, are_right)

    def test_by_hand(self) -> None:
        assert Calibration(1.0, 0.0).share(0.3) == pytest.approx(0.3)
        assert Calibration(0.0, 0.0).share(0.3) == 0.5
        assert Calibration(2.0, 0.0).share(0.75) == pytest.approx(0.9)  # odds of 3, squared
        assert Calibration(1.0, 0.0).share(0.0) == pytest.approx(1e-4)

    @pytest.mark.parametrize(("is_right", "expected"), [([True] * 8, 9 / 10), ([False] * 8, 1 / 10)])
    def test_nothing_is_certain(self, is_right: list[bool], expected: float) -> None:
        found = fit_calibration(np.linspace(0, 1, 8), is_right)
        assert [found.share(score) for score in (0.0, 0.5, 1.0)] == pytest.approx([expected] * 3, abs=1e-3)

    def test_scores_that_part_right_from_wrong(self) -> None:
        found = fit_calibration([0.1, 0.2, 0.8, 0.9], [False, False, True, True])
        shares = [found.share(score) for score in (0.0, 0.1, 0.5, 0.9, 1.0)]
        assert shares == sorted(shares)
        assert 0 < shares[0] < 0.3 < 0.7 < shares[-1] < 1

    def test_scores_that_say_the_opposite_say_nothing(self) -> None:
        found = fit_calibration([0.1, 0.2, 0.8, 0.9], [True, True, False, False])
        assert (found.slope, found.share(0.1)) == (0.0, pytest.approx(0.5))

    def test_there_and_back(self) -> None:
        one = Calibration(0.5, -1.0)
        assert Calibration.from_json({"about": "this", **one.to_json()}) == one

    @pytest.mark.parametrize(
        "found",
        [None, 7, {}, {"slope": 1}, {"slope": -1, "intercept": 0}, {"slope": "1", "intercept": 0},
         {"slope": float("inf"), "intercept": 0}],
    )  # fmt: skip
    def test_what_is_no_calibration(self, found: object) -> None:
        with pytest.raises(ValueError, match="expected a slope of 0 or more and an intercept, got"):
            Calibration.from_json(found)
