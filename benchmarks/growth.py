"""Measure how cost grows with work: exponents of seconds and memory, beside those that they should be.

    python benchmarks/growth.py [--parts models stores runs]

    models  sampling, learning and pictures of a random model of 4.8 million parameters, as prompts, answers and
            pictures become more
    stores  a store of episodes that is written, opened and read, as its episodes and shards become more
    runs    the files of a run: lines, samples, warnings and TensorBoard of one more iteration, the report, and going
            back to a checkpoint, as iterations become more

An exponent is the slope of cost over size, both as logarithms: 0 where the size costs nothing, 1 where twice as much
takes twice as long, 2 for a square. A cost with a constant part stays below its exponent. Seconds are CPU time of this
thread, torch having one; `low` and `high` are the least and the largest exponent of the rounds, `exponent` that of the
medians. Memory is the most that tensors hold beyond what was held before; held are Python's objects that a size has
left, which is what a leak would be. Both are counted once. An exponent is worse than it should be if the whole interval
lies above the largest expected one, by more than 0.1.

Prints a JSON line for each exponent, then a table in Markdown. The exit status is 1 if one is worse.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from typing import Any, Literal, get_args

import tyro

from benchmarks.growing import models, runs, stores
from benchmarks.growing.slopes import Axis, measure_axis, slope_of
from benchmarks.measuring import command, machine, print_line, run_quietly_on_one_thread
from benchmarks.scaling_model import markdown
from focus_agents.cli.command_line import quiet_libraries
from focus_agents.cli.errors import user_errors

PartName = Literal["models", "stores", "runs"]
AXES: tuple[Axis, ...] = (*models.AXES, *stores.AXES, *runs.AXES)
UNITS = {"time": "ms", "memory": "MiB", "held": "KiB"}


@dataclass(frozen=True, kw_only=True)
class Args:
    """Measure how cost grows with work."""

    parts: tuple[PartName, ...] = get_args(PartName)
    """Parts to measure."""


def lines_of(axis: Axis) -> list[dict[str, Any]]:
    """Measure an axis, and return a line for each measure."""
    lines = []
    for name, rounds in measure_axis(axis).items():
        slope = slope_of(axis.sizes, rounds)
        medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
        lines.append(
            {
                "part": axis.part,
                "work": axis.work,
                "size": axis.size,
                "sizes": list(axis.sizes),
                "measure": name,
                "unit": UNITS[name],
                "amounts": [float(f"{amount:.4g}") for amount in medians],
                "exponent": round(slope.middle, 3),
                "low": round(slope.low, 3),
                "high": round(slope.high, 3),
                "expected": list(axis.expected[name]),
                "reason": axis.reason,
                "verdict": slope.verdict(axis.expected[name]),
                "rounds": len(rounds),
            }
        )
    return lines


def table(lines: list[dict[str, Any]]) -> str:
    """Return the exponents in Markdown."""
    cells = []
    for line in lines:
        first, last = (f"{line['amounts'][place]:,.3g}" for place in (0, -1))
        least, most = line["expected"]
        exponent = f"{line['exponent']:.2f}"
        if line["rounds"] > 1:
            exponent += f" ({line['low']:.2f} to {line['high']:.2f})"
        cells.append(
            [
                line["work"],
                f"{line['size']}, {line['sizes'][0]:,} to {line['sizes'][-1]:,}",
                f"{line['measure']}, {first} to {last} {line['unit']}",
                exponent,
                f"{least:g}" if least == most else f"{least:g} to {most:g}",
                line["verdict"],
                line["reason"],
            ]
        )
    return markdown(["work", "grows", "cost", "exponent", "should be", "is", "since"], cells)


def main() -> int:
    quiet_libraries()
    with user_errors(Args):
        args = tyro.cli(Args)
    run_quietly_on_one_thread()
    common = {"machine": machine("cpu", ("torch", "transformers")), "command": command()}
    lines = []
    for axis in AXES:
        if axis.part in args.parts:
            for line in lines_of(axis):
                print_line({**line, **common})
                lines.append(line)
    print(f"\n{table(lines)}")
    return int(any(line["verdict"] == "worse" for line in lines))


if __name__ == "__main__":
    sys.exit(main())
