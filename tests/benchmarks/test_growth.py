"""Exponents of costs, and a run of the parts that are quick."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import growth
from benchmarks.growing import runs, stores
from benchmarks.growing.runs import LongRun
from benchmarks.growing.slopes import Axis, Slope, Step, exponent, measure_axis, slope_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("power", [-1, 0, 0.5, 1, 2])
def test_an_exponent_is_that_of_the_cost(power: float) -> None:
    sizes = [10, 20, 40, 80]
    assert exponent(sizes, [3.5 * size**power for size in sizes]) == pytest.approx(power)


def test_a_constant_part_lowers_it() -> None:
    sizes = [1, 2, 4, 8]
    assert 0 < exponent(sizes, [10 + size for size in sizes]) < 0.3


@pytest.mark.parametrize(
    ("sizes", "amounts", "message"),
    [
        ([1], [1], "sizes: expected two or more"),
        ([2, 2], [1, 2], "sizes: expected two or more"),
        ([1, 2], [1], "sizes: expected two or more"),
        ([1, 2], [0, 1], "amounts: expected numbers above 0"),
    ],
)
def test_what_has_no_exponent_is_refused(sizes: Sequence[float], amounts: Sequence[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        exponent(sizes, amounts)


def test_the_interval_is_that_of_the_rounds_and_the_middle_that_of_medians() -> None:
    slope = slope_of([1, 2], [[1, 2], [1, 4], [1, 2.5]])
    assert (slope.low, slope.high) == (1, 2)
    assert slope.middle == pytest.approx(1.32, abs=0.01)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(1.8, 2.2, "worse"), (0.9, 2.2, "as expected"), (0.1, 0.3, "better"), (1.05, 1.08, "as expected")],
)
def test_a_whole_interval_has_to_be_beyond(low: float, high: float, verdict: str) -> None:
    assert Slope((low + high) / 2, low, high).verdict((0.5, 1)) == verdict


def keep(kept: list[bytes], size: int) -> Step:
    kept.append(bytes(2**10 * size))
    return lambda: sum(range(20 * size * size))


def test_time_and_what_is_held_are_told_apart() -> None:
    kept: list[bytes] = []

    def make(stack: contextlib.ExitStack, size: int) -> Step:
        stack.callback(kept.clear)
        return keep(kept, size)

    expected: Any = {"held": (1, 1), "time": (2, 2)}
    axis = Axis("none", "squares", "size", (16, 64), make, expected, "so it is made", rounds=3)
    readings = measure_axis(axis)
    assert slope_of(axis.sizes, readings["held"]).middle == pytest.approx(1, abs=0.1)
    assert slope_of(axis.sizes, readings["time"]).middle == pytest.approx(2, abs=0.3)
    assert len(readings["time"]) == 3


def test_lines_and_exit_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def make(stack: contextlib.ExitStack, size: int) -> Step:
        return lambda: sum(range(500 * size))

    def axis(most: float) -> Axis:
        return Axis("stores", "sums", "numbers", (10, 40), make, {"time": (0, most)}, "one by one", rounds=2)

    monkeypatch.setattr(sys, "argv", ["growth.py", "--parts", "stores"])
    for most, status in ((1.2, 0), (0.0, 1)):
        monkeypatch.setattr(growth, "AXES", (axis(most), runs.AXES[0]))
        assert growth.main() == status
        shown = capsys.readouterr().out.splitlines()
        (line,) = (json.loads(line) for line in shown if line.startswith("{"))
        assert (line["work"], line["sizes"], line["rounds"], line["unit"]) == ("sums", [10, 40], 2, "ms")
        assert line["low"] <= line["exponent"] <= line["high"]
        assert line["verdict"] == ("worse" if status else "as expected")
        assert shown[-1].startswith("| sums | numbers, 10 to 40 | time, ")


def test_work_is_what_it_says(tmp_path: Path) -> None:
    """Steps of a store and of a run, in small."""
    with contextlib.ExitStack() as stack:
        for axis in stores.AXES:
            axis.make(stack, 3)()
        shards = stores._shards(stack, 3)()
        assert len(shards) == 15  # type: ignore[arg-type]
        assert len(shards._files) == 3  # type: ignore[attr-defined]
    made = LongRun(tmp_path, 3)
    made.record()
    assert [line["iteration"] for line in made.run.read_metrics()] == [1, 2, 3, 4]
    assert "cannot be written" not in made.console.file.getvalue()  # type: ignore[attr-defined]
    assert list((tmp_path / "run/samples").glob("rollouts-*"))
    assert any("tfevents" in path.name for path in tmp_path.rglob("*"))
