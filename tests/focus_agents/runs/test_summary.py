"""A run that ends below its start is not passed over in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from focus_agents.runs.summary import describe_fall

FALLEN = {"miou_start": 0.6, "miou_end": 0.55, "miou_gain": -0.05, "miou_gain_interval": [-0.08, -0.02]}
LINES = [{"iteration": 0, "validation_miou": 0.6}, {"iteration": 5, "validation_miou": 0.55}]
MODEL = {"model": "focus-small-sft"}


def test_the_start_was_best(tmp_path: Path) -> None:
    told = describe_fall(FALLEN, LINES, MODEL, tmp_path)
    assert told == (
        "the validation ended below its start: 0.600 -> 0.550, a gain of -0.050 with a 95% interval of -0.080 to "
        "-0.020, which does not hold 0, so it is hardly chance; the best policy is the one that it started from, "
        "focus-small-sft"
    )


def test_an_interval_that_holds_0_says_that_it_may_be_chance(tmp_path: Path) -> None:
    told = describe_fall({**FALLEN, "miou_gain_interval": [-0.08, 0.01]}, LINES, MODEL, tmp_path)
    assert told is not None
    assert "which holds 0, so it may be chance" in told


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_best_one_on_the_way_is_named_with_its_place(tmp_path: Path, is_kept: bool) -> None:
    if is_kept:
        (tmp_path / "best").mkdir()
    told = describe_fall(FALLEN, [*LINES, {"iteration": 3, "validation_miou": 0.7}], MODEL, tmp_path)
    assert told is not None
    assert told.endswith(f"after 3, in {tmp_path / 'best'}" if is_kept else "not kept, so lower `lr` or end there")


@pytest.mark.parametrize(
    "summary",
    [{}, {**FALLEN, "miou_gain": 0.0}, {**FALLEN, "miou_gain": None}, {**FALLEN, "miou_gain_interval": [None]}],
)
def test_nothing_is_said_of_others(summary: dict[str, Any], tmp_path: Path) -> None:
    assert describe_fall(summary, LINES, MODEL, tmp_path) is None
