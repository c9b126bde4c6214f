"""Figures by hand."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarks.step.report import build_table, compare_all
from benchmarks.step.setup import Size

pytestmark = pytest.mark.usefixtures("one_thread")


READINGS = {
    "FLOPs": {"ours": [2000.0], "peer": [9000.0]},
    "memory": {"ours": [100.0], "peer": [25.0]},
    "time": {"ours": [100.0, 400.0, 200.0], "peer": [12000.0, 800.0, 1000.0]},
}


def test_a_line_holds_medians_and_the_median_ratio_of_rounds() -> None:
    time, flops, memory = compare_all("step", Size(1024, 16, 32), READINGS, 1e-6, peak=1e14)
    assert (time["ours"], time["peer"], time["ratio"], time["ratio_range"]) == (200.0, 1000.0, 5.0, [2.0, 120.0])
    assert (flops["ratio"], memory["ratio"]) == (4.5, 0.25)
    # 16 x 32 tokens in 0.2 s and 1 s; 10 and 9 TFLOP/s of 100
    assert time["tokens_per_second"] == {"ours": 2560.0, "peer": 512.0}
    assert time["peak_share"] == {"ours": 0.1, "peer": 0.09}
    # N = 2 there
    both = compare_all("without_signal", Size(1024, 16, 32), READINGS, 1e-6)
    assert both[0]["tokens_per_second"] == {"ours": 5120.0, "peer": 1024.0}


def test_a_table_shows_whole_numbers_in_80_columns() -> None:
    size = Size(2048, 16, 32)
    readings = {
        "FLOPs": {"ours": [2345.2], "peer": [23451.6]},
        "memory": {"ours": [444.4], "peer": [5743.0]},
        "time": {"ours": [4321.0], "peer": [55321.0]},
    }
    lines = compare_all("step", size, readings, 1e-6, peak=1e13)
    console = Console(width=80, file=io.StringIO())
    console.print(build_table("step", lines, "cpu"))
    shown = [line.split() for line in console.file.getvalue().splitlines()]
    # (16 x 2048 + 512) / (2048 + 512) tokens; 512 tokens in 4.321 s; 2345.2 of 43210 GFLOP
    row = "2,048 16 13.00 4,321 55,321 12.80 2,345 10.00 444 12.92 118 5%"
    assert row.split() in shown
