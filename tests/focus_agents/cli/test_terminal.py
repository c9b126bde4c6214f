"""The last lines of a training."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from focus_agents.cli.terminal import report_line


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
