"""Curves of runs, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from focus_agents.errors import CheckpointError
from focus_agents.runs.folder import COUNTERS, RunDirectory
from focus_agents.runs.metrics import check_names
from focus_env.files import fresh_file

USUAL_METRICS = ("reward", "lm_loss", "support_mass", "validation_miou")
MOST_POINTS_WITH_MARKERS = 20

Series = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""Steps and values, [T] each."""


def plot_runs(
    runs: Mapping[str, Sequence[Path]], metrics: Sequence[str], path: Path, *, window: int = 25, start: int = 0
) -> Path:
    """Draw metrics of runs over their steps: a panel for each metric, a colour for each label, a line for each run.

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
        CheckpointError: If a folder holds no metrics.
    """
    check_names(metrics)
    lines = {folder: RunDirectory(folder).read_metrics() for folders in runs.values() for folder in folders}
    if empty := [str(folder) for folder, found in lines.items() if not found]:
        raise CheckpointError(f"runs: expected folders with metrics.jsonl, got {empty}")
    if not lines:
        raise ValueError("runs: expected at least one run folder, got none")
    if not metrics:
        series = {name: [read_series(found, name, window)[0] for found in lines.values()] for name in USUAL_METRICS}
        metrics = [name for name, steps in series.items() if any(map(len, steps))]
        if not metrics:
            raise ValueError(f"metrics: expected runs that have logged one of {', '.join(USUAL_METRICS)}, got none")
    figure = Figure(figsize=(4.5 * len(metrics), 3.2), layout="constrained")
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axis, metric in zip(axes, metrics, strict=True):
        is_missing = True
        for number, (label, folders) in enumerate(runs.items()):
            for position, folder in enumerate(folders):
                steps, values = read_series(lines[folder], metric, window)
                steps, values = steps[steps > start], values[steps > start]
                is_missing &= len(values) == 0
                axis.plot(
                    steps,
                    values,
                    color=f"C{number % 10}",
                    linewidth=1.2,
                    marker="o" if len(values) < 0.5 * len(lines[folder]) else None,
                    markersize=3,
                    label=as_label(label) if position == 0 else None,
                )
        if is_missing:
            raise ValueError(f"metrics: expected one that some run has logged, got {metric!r}")
        axis.set_title(metric)
        axis.set_xlabel(_counter(lines[next(iter(lines))]))
        axis.grid(alpha=0.3)
    axes[0].legend()
    with fresh_file(path) as scratch:
        figure.savefig(scratch, dpi=100)
    return path


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


def _counter(lines: Sequence[Mapping[str, float | None]]) -> str:
    """Which of `COUNTERS` the lines of a run have."""
    for name in COUNTERS:
        if name in lines[0]:
            return name
    raise CheckpointError(f"metrics.jsonl: expected lines with {' or '.join(COUNTERS)}, got {sorted(lines[0])}")


def read_series(lines: Sequence[Mapping[str, float | None]], metric: str, window: int) -> Series:
    """Steps and values of the lines that have a metric, averaged over `window` lines if most have it."""
    counter = _counter(lines)
    found = [(line[counter], line[metric]) for line in lines if line.get(metric) is not None]
    points = np.array(found, dtype=np.float64).reshape(-1, 2)
    values = points[:, 1]
    if len(values) >= 0.5 * len(lines):
        sums = np.cumsum(np.concatenate([[0.0], values]))
        ends = np.arange(1, len(values) + 1)
        starts = np.maximum(0, ends - window)
        values = (sums[ends] - sums[starts]) / (ends - starts)
    return points[:, 0], values
