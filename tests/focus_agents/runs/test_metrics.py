"""Validation before and after a training, compared."""

from __future__ import annotations

from typing import Any

import pytest

from focus_agents.runs.metrics import compare_validation
from focus_env.types import ParseStatus
from tests.answers import UNREADABLE, scored


class TestComparison:
    """Before and after by hand."""

    def test_a_steady_gain(self) -> None:
        before = [scored(0.25), UNREADABLE, scored(0.5), scored(0.25)]
        after = [scored(0.5), scored(0.25), scored(0.75), scored(0.5)]
        result = compare_validation(before, after)
        assert list(result) == [
            *("miou_start", "miou_start_interval", "miou_end", "miou_end_interval", "miou_gain", "miou_gain_interval"),
            *("parse_rate_start", "parse_rate_end", "num_validation_episodes"),
        ]
        assert (result["miou_start"], result["miou_end"], result["miou_gain"]) == (0.25, 0.5, 0.25)
        assert result["miou_gain_interval"] == (0.25, 0.25), "every pair gains the same, so there is no doubt"
        assert (result["parse_rate_start"], result["parse_rate_end"]) == (0.75, 1.0)
        assert result["num_validation_episodes"] == 4
        for name in ("start", "end"):
            low, high = result[f"miou_{name}_interval"]
            assert 0 <= low < result[f"miou_{name}"] < high <= 1

    def test_absent_targets_count_by_saying_so(self) -> None:
        gone: dict[str, Any] = {"target_box": None}
        before = [scored(0.0, **gone), scored(1.0)]
        after = [scored(0.0, status=ParseStatus.ABSENT, **gone), UNREADABLE]
        result = compare_validation(before, after)
        assert (result["miou_start"], result["miou_end"], result["miou_gain"]) == (0.5, 0.5, 0.0)
        assert result["miou_gain_interval"] == (-1.0, 1.0)

    def test_it_is_the_same_each_time(self) -> None:
        before, after = [scored(n / 10) for n in range(6)], [scored(n / 7) for n in range(6)]
        assert compare_validation(before, after) == compare_validation(before, after)

    @pytest.mark.parametrize("num_before", [1, 2])
    def test_other_episodes_are_refused(self, num_before: int) -> None:
        with pytest.raises(ValueError, match=r"must score the same episodes|shapes"):
            compare_validation([UNREADABLE] * num_before, [UNREADABLE] * 3)
