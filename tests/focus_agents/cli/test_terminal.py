"""The last lines of a training."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from focus_agents.cli.terminal import describe_absence, report_line
from focus_agents.runs.scores import compare_validation
from focus_env.types import ParseStatus
from tests.answers import scored


@pytest.mark.parametrize(("age", "expected"), [(0, "report: {0}/report.html"), (60, "report: `focus report {0}`")])
def test_a_report_of_before_the_end_is_not_passed_off_as_the_runs(tmp_path: Path, age: int, expected: str) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "report.html").write_text("")
    now = (tmp_path / "metrics.jsonl").stat().st_mtime
    os.utime(tmp_path / "report.html", (now - age, now - age))
    assert str(report_line(tmp_path)).startswith(expected.format(tmp_path))


def test_without_a_report_the_command_for_one_is_told(tmp_path: Path) -> None:
    assert report_line(tmp_path) is None
    (tmp_path / "metrics.jsonl").write_text("")
    assert report_line(tmp_path) == f"report: `focus report {tmp_path}` writes it; the run itself could not"


def test_presence_and_absence_before_and_after_are_told_where_targets_are_absent() -> None:
    called, missed = scored(0.0, status=ParseStatus.ABSENT, target_box=None), scored(0.0, target_box=None)
    assert describe_absence(compare_validation([scored(0.5), missed], [scored(0.75), called])) == (
        "mIoU on present targets 0.500 -> 0.750 (95% interval 0.750 to 0.750), "
        "recall of absence 0.000 -> 1.000 (95% interval 1.000 to 1.000), "
        "F1 of both 0.667 -> 1.000 (95% interval 1.000 to 1.000)"
    )
    assert describe_absence(compare_validation([scored(0.5)], [scored(0.75)])) is None
    assert describe_absence(compare_validation([missed], [called])) is None
