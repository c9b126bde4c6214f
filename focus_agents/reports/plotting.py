"""Curves of runs, side by side."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from focus_agents.errors import CheckpointError
from focus_agents.reports.labels import is_run
from focus_agents.reports.measured import measured_lines
from focus_agents.runs.folder import COUNTERS, METRICS_FILE, RunDirectory
from focus_agents.runs.metrics import METRICS, check_names
from focus_env.files import fresh_file

USUAL_METRICS = (
    "reward", "miou", "lm_loss", "support_mass", "box_iou", "name_accuracy", "validation_miou", "format_rate",
    "zero_variance_rate", "entropy",
)  # fmt: skip
"""Metrics that are drawn where nothing is asked for, as far as the runs have logged them; each kind of run has some."""
MOST_POINTS_WITH_MARKERS = 20
COLUMNS = 3
PANEL_WIDTH, PANEL_HEIGHT = 4.0, 3.0
LEGEND_LINE = 0.22
"""Inches of a line of the legend; it stands below the panels."""
TITLE_CHARACTERS = 52
MOST_WITH_VALUES = 2
"""So many curves have the values of their marks beside them; more would cover one another."""

VALIDATION = "validation_miou"
Floats = npt.NDArray[np.float64]
Series = tuple[Floats, Floats]
"""Steps and values, [T] each."""


def plot_runs(
    runs: Mapping[str, Sequence[Path]], metrics: Sequence[str], path: Path, *, window: int = 25, start: int = 0
) -> Path:
    """Draw metrics of runs over their steps: a panel for each metric, a colour for each label, a line for each run.

    Start, end and, where a direction is better, the best value of each curve are marked. A dashed line is a bound of
    `runs.metrics.METRICS` that the curve comes near. The legend stands below the panels.

    Args:
        runs: Run folders by label; those of one label, say seeds, share a colour.
        metrics: Names in `runs.metrics.METRICS`, optionally with `/<layer>`; none: those of `USUAL_METRICS` that some
            run has logged.
        path: The picture's file; its ending decides the format.
        window: Lines of metrics that are averaged, to the left of each point. Metrics that most lines lack, such as
            validations, are drawn point by point.
        start: Steps up to here are not drawn; the first ones often leave no room for the rest.

    Returns:
        `path`.

    Raises:
        ValueError: If there is no run, a metric is unknown, or no run has logged it.
        CheckpointError: If a folder is not a run's.
    """
    check_names(metrics)
    lines = {folder: read_lines(folder) for folders in runs.values() for folder in folders}
    if not lines:
        raise ValueError("runs: expected at least one run folder, got none")
    logged = {name for found in lines.values() for line in found for name, value in line.items() if value is not None}
    if missing := [name for name in metrics if name not in logged]:
        raise ValueError(f"metrics: expected one that some run has logged, got {missing[0]!r}")
    metrics = metrics or [name for name in USUAL_METRICS if name in logged]
    if logged - {*COUNTERS} and not metrics:
        raise ValueError(f"metrics: expected runs that have logged one of {', '.join(USUAL_METRICS)}, got none")
    labels = {
        label if any(lines[folder] for folder in folders) else f"{label}: nothing logged yet": folders
        for label, folders in runs.items()
    }
    figure, axes = _panels(max(1, len(metrics)), labels)
    for axis, metric in zip(axes, metrics, strict=False):
        _draw_panel(axis, metric, [[lines[folder] for folder in folders] for folders in runs.values()], window, start)
    if not metrics:
        axes[0].text(0.5, 0.5, "nothing logged yet", ha="center", va="center", transform=axes[0].transAxes)
    with fresh_file(path) as scratch:
        figure.savefig(scratch, dpi=100)
    return path


def check_format(path: Path) -> None:
    """See that a picture can be written in the format that its ending names.

    Raises:
        ValueError: If it cannot.
    """
    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in known:
        raise ValueError(f"output: expected a file that ends in one of {', '.join(sorted(known))}, got {path}")


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """Read the metrics of a run, with the validations before and after it, which older ones keep in summary.json.

    Lines without a counter, and values that are no numbers, are left out.

    Raises:
        CheckpointError: If the folder is not a run's, or no line counts anything.
    """
    if not is_run(folder):
        raise CheckpointError(f"runs: expected folders with metrics.jsonl, got {[str(folder)]}")
    logged = RunDirectory(folder).read_metrics()
    counter, measured = measured_lines(logged)
    lines: list[dict[str, Any]] = [*measured]
    if logged and not lines:
        expected = f"expected lines with {' or '.join(COUNTERS)}, numbers"
        raise CheckpointError(f"{folder / METRICS_FILE}: {expected}, got {sorted(logged[0])!r:.200}")
    if not lines:
        return []
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        scores = float(summary["miou_start"]), float(summary["miou_end"])
    except (OSError, ValueError, TypeError, KeyError):
        return lines
    if lines[0].get(counter):
        lines.insert(0, {counter: 0, VALIDATION: scores[0]})
    if lines[-1].get(VALIDATION) is None:
        lines[-1] = {**lines[-1], VALIDATION: scores[1]}
    return lines


def _panels(number: int, labels: Mapping[str, Sequence[Path]]) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure of so many panels, at most `COLUMNS` in a row, with a legend below them."""
    columns = min(number, COLUMNS)
    rows = -(-number // columns)
    longest = max(map(len, labels), default=1)
    in_a_row = max(1, min(len(labels), int(columns * PANEL_WIDTH / (0.08 * longest + 0.5))))
    legend_height = LEGEND_LINE * -(-len(labels) // in_a_row) + 0.2
    figure = Figure(figsize=(columns * PANEL_WIDTH, rows * PANEL_HEIGHT + legend_height), layout="constrained")
    axes = [*figure.subplots(rows, columns, squeeze=False).flat]
    for axis in axes[number:]:
        axis.set_axis_off()
    handles = [Line2D([], [], color=f"C{place % 10}", label=as_label(label)) for place, label in enumerate(labels)]
    figure.legend(handles=handles, loc="outside lower left", ncols=in_a_row, fontsize="small", frameon=False)
    return figure, axes[:number]


def _draw_panel(
    axis: Axes, metric: str, groups: Sequence[Sequence[Sequence[Mapping[str, Any]]]], window: int, start: int
) -> None:
    """Draw a metric of all runs: the curves, their marks, and what is measured in which unit."""
    declared = METRICS[metric.partition("/")[0]]
    curves: list[tuple[str, Series, bool]] = []
    counters: list[str] = []
    for number, group in enumerate(groups):
        for lines in group:
            steps, values = read_series(lines, metric, window) if lines else (np.empty(0), np.empty(0))
            is_drawn = steps > start if start else steps >= 0
            if is_drawn.any():
                curves.append(
                    (f"C{number % 10}", (steps[is_drawn], values[is_drawn]), _is_rare(metric, len(steps), len(lines)))
                )
                counters.append(measured_lines(lines)[0])
    for colour, (steps, values), is_rare in curves:
        axis.plot(steps, values, color=colour, linewidth=1.2, marker="." if is_rare else None, markersize=5)
        # A mean of fewer lines than a window has is high or low by chance.
        first = 0 if is_rare or len(values) < 2 * window else window - 1
        _mark(axis, steps, values, colour, declared.better, first, has_values=len(curves) <= MOST_WITH_VALUES)
    low, high = axis.get_ylim()
    for bound in (declared.low, declared.high):
        if bound is not None and low - 0.5 * (high - low) <= bound <= high + 0.5 * (high - low):
            axis.axhline(bound, color="0.5", linewidth=0.8, linestyle="--")
    title = textwrap.fill(f"{declared.meaning}", TITLE_CHARACTERS, max_lines=2, placeholder=" …")
    axis.set_title(f"{as_label(metric)}\n", fontsize="medium", fontweight="bold", loc="left", pad=14)
    axis.text(0, 1.02, as_label(title), fontsize="x-small", color="0.3", transform=axis.transAxes, va="bottom")
    axis.set_ylabel(declared.unit)
    axis.set_xlabel(" or ".join(dict.fromkeys(counters)))
    axis.margins(x=0.08, y=0.12)
    axis.grid(alpha=0.3)


def _mark(axis: Axes, steps: Floats, values: Floats, colour: str, better: str, first: int, *, has_values: bool) -> None:
    """Mark where a curve starts (a ring) and ends (a disc), and where from point `first` on it is best (a star)."""
    axis.plot(steps[0], values[0], marker="o", markersize=5, markerfacecolor="white", color=colour, linestyle="none")
    axis.plot(steps[-1], values[-1], marker="o", markersize=5, color=colour, linestyle="none")
    marked = {0, len(values) - 1}
    if better and np.isfinite(values[first:]).any():
        best = first + int(np.nanargmax(values[first:]) if better == "higher" else np.nanargmin(values[first:]))
        axis.plot(steps[best], values[best], marker="*", markersize=9, color=colour, linestyle="none")
        near = 0.08 * float(np.ptp(steps))
        marked = {place for place in marked if place == best or abs(steps[place] - steps[best]) > near} | {best}
    for place in marked if has_values else ():
        axis.annotate(
            f"{values[place]:.3g}", (steps[place], values[place]), xytext=(0, 7), textcoords="offset points",
            ha="center", fontsize="x-small", color="0.2",
        )  # fmt: skip


def plot_bands(panels: Mapping[str, Mapping[str, Sequence[Series]]], path: Path) -> Path:
    """Draw the mean of each label's runs over their steps, with a band from the lowest to the highest of them.

    Args:
        panels: By title and label, a series for each run, say of each seed; those of a label have the same steps.
        path: The picture's file; its ending decides the format.

    Returns:
        `path`.
    """
    figure = Figure(figsize=(4.5 * len(panels), 3.2), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, labels) in zip(axes, panels.items(), strict=True):
        for number, (label, runs) in enumerate(labels.items()):
            steps, values = runs[0][0], np.array([run for _, run in runs])
            colour, marker = f"C{number % 10}", "o" if len(steps) <= MOST_POINTS_WITH_MARKERS else None
            axis.plot(
                steps, values.mean(0), color=colour, linewidth=1.2, marker=marker, markersize=3, label=as_label(label)
            )
            axis.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
        axis.set_title(as_label(title))
        axis.set_xlabel("iteration")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize="small")
    with fresh_file(path) as scratch:
        figure.savefig(scratch, dpi=100)
    return path


def as_label(name: str) -> str:
    """Return a name as matplotlib shows it as it is: dollars begin formulas, and it leaves out what begins with `_`."""
    shown = name.replace("$", r"\$")
    return f"\N{ZERO WIDTH SPACE}{shown}" if shown.startswith("_") else shown


def _is_rare(metric: str, num_values: int, num_lines: int) -> bool:
    """Return whether validations log a metric, or most lines lack it: then it is drawn as it is."""
    declared = METRICS.get(metric.partition("/")[0])
    return num_values < 0.5 * num_lines or (declared is not None and declared.is_occasional)


def read_series(lines: Sequence[Mapping[str, Any]], metric: str, window: int) -> Series:
    """Return steps and values of the lines that have a metric, averaged over `window` lines if most have it."""
    counter, measured = measured_lines(lines)
    found = [(line[counter], line[metric]) for line in measured if metric in line]
    points = np.array(found, dtype=np.float64).reshape(-1, 2)
    values = points[:, 1]
    if not _is_rare(metric, len(values), len(lines)):
        sums = np.cumsum(np.concatenate([[0.0], values]))
        ends = np.arange(1, len(values) + 1)
        starts = np.maximum(0, ends - window)
        values = (sums[ends] - sums[starts]) / (ends - starts)
    return points[:, 0], values
