"""Curves of a report: any number in a metric leaves a page, and no curve is left out without a word."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from focus_agents.reports.run_page.curves import MOST_CURVES, Curve, draw_panel, read_curve
from focus_agents.reports.run_page.page import render_page
from focus_agents.reports.run_page.pictures import PictureBook
from focus_agents.reports.run_page.records import read_run


def write_lines(folder: Path, lines: Sequence[Mapping[str, Any]]) -> Path:
    """The least that is a run, with lines as any release or person may have written them."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"command": "grpo"}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize(
    "odd",
    [2e19, -2e19, 1e308, -1e308, 10**400, 5e-324, 1e-310, float("nan"), float("inf"), True, "abc", {"a": 1}, [1], None],
)
@pytest.mark.parametrize("other", [None, 0.5, -1e308, 5e-324])
def test_a_metric_of_any_size_or_kind_leaves_a_page(odd: Any, other: float | None, tmp_path: Path) -> None:
    run = write_lines(tmp_path / "run", [{"iteration": 1, "reward": other}, {"iteration": 2, "reward": odd, "miou": 1}])
    page = render_page([read_run(run)], [PictureBook(run, {})])
    assert 'data-metric="miou"' in page
    assert not re.search(r'(points|cx|cy|y1)="[^"]*(nan|inf)', page)


@pytest.mark.parametrize("counter", [None, "5", 10**400, 1e300, float("nan"), {"a": 1}, "missing"])
def test_a_line_that_counts_nothing_is_left_out(counter: Any, tmp_path: Path) -> None:
    odd = {"reward": 7.0} if counter == "missing" else {"iteration": counter, "reward": 7.0}
    run = write_lines(tmp_path / "run", [{"iteration": 1, "reward": 0.25}, odd])
    page = render_page([read_run(run)], [PictureBook(run, {})])
    assert "start 0.25, end 0.25" in page


def test_parts_are_left_out_before_wholes_and_the_page_says_so(tmp_path: Path) -> None:
    line = {"reward": 1.0, "miou": 0.5, "grad_norm": 1.0, "seconds": 2.0}
    lines = [
        {"iteration": n, **line, **{f"reward/term{place}": 0.1 * place + n for place in range(70)}} for n in range(1, 4)
    ]
    page = render_page([read_run(write_lines(tmp_path / "run", lines))], [PictureBook(tmp_path / "run", {})])
    assert all(f'data-metric="{name}"' in page for name in line)
    assert page.count("data-metric=") == MOST_CURVES
    assert "14 more curves are left out, which are in metrics.csv: reward/term" in page


def test_runs_of_both_stages_keep_their_counters(tmp_path: Path) -> None:
    grpo = write_lines(tmp_path / "grpo", [{"iteration": n, "reward": n, "loss": n} for n in range(1, 9)])
    sft = write_lines(tmp_path / "sft", [{"step": 10 * n, "lm_loss": 9 - n, "loss": n} for n in range(1, 9)])
    page = render_page([read_run(grpo), read_run(sft)], [PictureBook(run, {}) for run in (grpo, sft)])
    labels = dict(re.findall(r'aria-label="(\w+) over ([\w ]+)"', page))
    assert labels == {"reward": "iterations", "lm_loss": "steps", "loss": "iterations or steps"}
    assert "best 1 at step 80" in page
    assert "iterations 1 to 8" in page


def test_a_metric_that_is_another_stands_in_its_panel(tmp_path: Path) -> None:
    lines = [{"iteration": n, "miou": 0.1 * n, "reward/iou": 0.1 * n, "failed_rate": 0.0} for n in range(1, 5)]
    page = render_page([read_run(write_lines(tmp_path / "run", lines))], [PictureBook(tmp_path / "run", {})])
    assert 'data-metric="reward/iou"' not in page
    assert "The same values as reward/iou." in page
    assert "<summary>0 throughout: failed_rate</summary>" in page


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        ("entropy", [0.5, 0.00047], "start 0.5, end 0"),
        ("parse_rate", [1.0, 0.996], "start 1, end 0.996"),
        ("lr", [1e-5, 0.0], "start 1.0e-05, end 0"),
        ("reward", [0.501, 0.5], "start 0.501, end 0.5"),
        ("memory_gib", [1234.5, 0.25], "start 1234, end 0"),
    ],
)
def test_numbers_beside_one_another_are_written_alike(metric: str, values: list[float], expected: str) -> None:
    lines = [{"iteration": n, metric: value} for n, value in enumerate(values, 1)]
    assert expected in draw_panel(metric, [read_curve(lines, "iteration", metric)], ["run"])


def test_an_axis_does_not_make_a_course_of_noise() -> None:
    lines = [{"iteration": n, "parse_rate": 0.99 + 0.001 * (n % 2)} for n in range(1, 50)]
    panel = draw_panel("parse_rate", [read_curve(lines, "iteration", "parse_rate")], ["run"])
    heights = [float(point.split(",")[1]) for point in re.findall(r'points="([^"]+)"', panel)[0].split()]
    assert max(heights) - min(heights) < 5
    bounded = draw_panel("entropy", [Curve(0, np.array([1.0, 2.0]), np.array([0.05, 0.03]))], ["run"])
    assert "healthy bound: 0.02" in bounded
