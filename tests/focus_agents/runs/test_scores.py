"""What a run measures of answers: absence among them, and validation before and after a training, compared."""

from __future__ import annotations

from typing import Any

import pytest

from focus_agents.runs.metrics import OF_ABSENCE, check_names
from focus_agents.runs.scores import absence_metrics, compare_validation, validation_metrics
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
        found = {name: result[name] for name in result if name.partition("_start")[0] in OF_ABSENCE or "_end" in name}
        assert {name: found[name] for name in ("f1_50_start", "f1_50_end")} == {
            "f1_50_start": pytest.approx(2 / 3),
            "f1_50_end": 0.0,
        }
        assert (result["absent_recall_start"], result["absent_recall_end"]) == (0.0, 1.0)
        assert (result["miou_present_start"], result["miou_present_end"]) == (1.0, 0.0)
        assert ("absent_precision_start" in result, result["absent_precision_end"]) == (False, 1.0)
        assert result["f1_50_start_interval"][0] < result["f1_50_start"] < result["f1_50_start_interval"][1]

    def test_it_is_the_same_each_time(self) -> None:
        before, after = [scored(n / 10) for n in range(6)], [scored(n / 7) for n in range(6)]
        assert compare_validation(before, after) == compare_validation(before, after)

    @pytest.mark.parametrize("num_before", [1, 2])
    def test_other_episodes_are_refused(self, num_before: int) -> None:
        with pytest.raises(ValueError, match=r"must score the same episodes|shapes"):
            compare_validation([UNREADABLE] * num_before, [UNREADABLE] * 3)


GONE: dict[str, Any] = {"target_box": None}


class TestAbsence:
    """Of sampled and of greedy answers; names as they are declared."""

    def test_by_hand(self) -> None:
        absent = ParseStatus.ABSENT
        answers = [
            scored(0.75),
            scored(0.25),
            scored(0.0, status=absent),
            scored(0.0, **GONE),
            scored(0.0, status=absent, **GONE),
        ]
        # TP: one box. FP: a box that misses, and one for an absent target. FN: two present targets.
        expected = {"miou_present": 1 / 3, "absent_recall": 1 / 2, "absent_precision": 1 / 2, "f1_50": 2 / (2 + 2 + 2)}
        assert absence_metrics(answers) == pytest.approx(expected)
        measured = validation_metrics(answers)
        assert measured == pytest.approx(
            {"validation_miou": 2 / 5} | {f"validation_{name}": value for name, value in expected.items()}
        )
        check_names([*absence_metrics(answers), *measured])

    def test_there_is_none_where_all_are_there(self) -> None:
        answers = [scored(0.75), scored(0.0, status=ParseStatus.ABSENT)]
        assert absence_metrics(answers) == {}
        assert validation_metrics(answers) == {"validation_miou": 0.375}

    def test_what_is_not_defined_is_left_out(self) -> None:
        answers = [scored(0.75), scored(0.0, **GONE)]
        assert absence_metrics(answers) == pytest.approx({"miou_present": 0.75, "absent_recall": 0.0, "f1_50": 2 / 3})
        assert absence_metrics([scored(0.0, **GONE)]) == {"absent_recall": 0.0}
