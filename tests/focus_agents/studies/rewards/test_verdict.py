"""The verdict of a study of rewards: what it says of figures that could come out either way."""

from __future__ import annotations

from typing import Any

import pytest

from focus_agents.cli.rewards import Args
from focus_agents.studies.rewards.verdict import is_control, seeds_to_tell, turned, verdict


def difference(low: float, high: float, first: str = "iou", second: str = "giou") -> dict[str, Any]:
    return {"metric": "miou", "from": first, "to": second, "mean": (low + high) / 2, "interval": [low, high]}


def said_of(*differences: dict[str, Any], seeds: int = 3) -> str:
    other = {**difference(0.5, 0.6), "metric": "acc_75"}
    summary = {"controls": ["format", "area"], "seeds": list(range(seeds)), "differences": [*differences, other]}
    return verdict(summary)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            difference(-0.01, 0.03),
            "No verdict: no two of these rewards can be told apart by mIoU; what difference there is, is likely "
            "below 3.0 points; if that is the true difference, about 12 seeds would tell.",
        ),
        (
            difference(-0.02, 0.02),
            "No verdict: no two of these rewards can be told apart by mIoU; what difference there is, is likely "
            "below 2.0 points; if that is the true difference, more than 100 seeds would tell.",
        ),
        (difference(0.01, 0.03), "`giou` trains better than `iou`: +2.0 mIoU * 100 [+1.0, +3.0]."),
        (difference(-0.03, -0.01), "`iou` trains better than `giou`: +2.0 mIoU * 100 [+1.0, +3.0]."),
    ],
)
def test_a_verdict_needs_an_interval_clear_of_zero(found: dict[str, Any], said: str) -> None:
    assert said_of(found) == said


def test_an_interval_that_touches_zero_is_not_clear() -> None:
    assert said_of(difference(0.0, 0.03)).startswith("No verdict")


@pytest.mark.parametrize(
    ("against", "said"),
    [
        (
            [difference(0.02, 0.04, "format", "iou"), difference(-0.09, -0.07, "iou", "area")],
            "`iou` trains better than each control (`format`, `area`), by at least +3.0 mIoU * 100 [+2.0, +4.0].",
        ),
        (
            [difference(-0.01, 0.03, "format", "iou"), difference(-0.09, -0.07, "iou", "area")],
            "`iou` trains better than the control (`area`), by +8.0 mIoU * 100 [+7.0, +9.0]. `iou` cannot be told from "
            "the control `format`: +1.0 mIoU * 100 [-1.0, +3.0]; if that is the true difference, about 12 seeds would "
            "tell.",
        ),
        (
            [difference(0.02, 0.04, "iou", "format")],
            "`iou` trains worse than the control `format`: -3.0 mIoU * 100 [-4.0, -2.0].",
        ),
    ],
)
def test_rewards_are_held_against_controls(against: list[dict[str, Any]], said: str) -> None:
    assert said_of(*against) == said


def test_what_is_clear_and_what_is_not_stand_apart() -> None:
    pairs = [difference(0.01, 0.03), difference(-0.01, 0.03, "iou", "l1"), difference(-0.01, 0.02, "giou", "l1")]
    assert said_of(*pairs) == (
        "`giou` trains better than `iou`: +2.0 mIoU * 100 [+1.0, +3.0]. No verdict: no other two of these rewards can "
        "be told apart by mIoU; what difference there is, is likely below 3.0 points; if these are the true "
        "differences, about 27 seeds would tell all of them."
    )


def test_the_number_of_seeds_follows_the_width() -> None:
    """An interval of half the width needs a quarter of the seeds; one whose end is at zero needs those it has."""
    assert seeds_to_tell(difference(0.0, 0.04), 3) == pytest.approx(3)
    assert seeds_to_tell(difference(-0.02, 0.06), 3) == pytest.approx(12)
    assert seeds_to_tell(turned(difference(-0.02, 0.06)), 3) == pytest.approx(12)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("format", True),
        ("format:1,length(40):0.5", True),
        ("random(3)", True),
        ("area:1,whole_image:0", True),
        ("iou:1,format:0.5", False),
        ("format:0.5,iou_at(0.5):0.1", False),
        ("area,iou:0", True),
        ("math:sqrt", False),
    ],
)
def test_a_control_has_no_term_for_right_boxes(spec: str, expected: bool) -> None:
    assert is_control(spec) is expected


def test_the_default_has_controls_beside_rewards() -> None:
    found = [is_control(spec) for spec in Args().rewards]
    assert (found.count(False), found.count(True)) == (3, 3)
