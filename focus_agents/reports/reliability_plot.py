"""Reliability curves: how often boxes are right, over how sure a policy was of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from focus_agents.reports.plotting import COLUMNS, LEGEND_LINE, as_label
from focus_env.files import fresh_file

SIDE = 3.6
"""Inches of a panel."""
LARGEST_MARK = 130.0
"""Area in square points of the mark of a bin that has all boxes of its curve."""
ENDS = (-0.03, 1.03)
"""Of both axes, with room for marks at 0 and 1."""


def plot_reliability(panels: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], path: Path) -> Path:
    """Draw curves beside the diagonal, on which scores are the shares of boxes that are right.

    A mark is a bin of boxes with like scores, its area their number, its line the 95% interval of their share.

    Args:
        panels: By title, curves by label, each the bins of `focus_env.calibration.reliability_curve` as values.
        path: The picture's file; its ending decides the format.

    Returns:
        `path`.
    """
    labels = list(dict.fromkeys(label for curves in panels.values() for label in curves))
    columns = min(len(panels), COLUMNS)
    rows = -(-len(panels) // columns)
    legend_height = LEGEND_LINE * len(labels) + 0.2
    figure = Figure(figsize=(columns * SIDE, rows * SIDE + legend_height), layout="constrained")
    axes = [*figure.subplots(rows, columns, squeeze=False).flat]
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, curves) in zip(axes, panels.items(), strict=False):
        _draw_panel(axis, title, {f"C{labels.index(label) % 10}": bins for label, bins in curves.items()})
    handles = [
        Line2D([], [], color=f"C{place % 10}", marker="o", label=as_label(label)) for place, label in enumerate(labels)
    ]
    figure.legend(handles=handles, loc="outside lower left", fontsize="small", frameon=False)
    with fresh_file(path) as scratch:
        figure.savefig(scratch, dpi=100)
    return path


def _draw_panel(axis: Axes, title: str, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Draw the curves of one data set, given by colour."""
    axis.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle="--")
    for colour, bins in curves.items():
        scores, shares = [one["mean_score"] for one in bins], [one["share_right"] for one in bins]
        num_boxes = sum(one["num"] for one in bins)
        axis.plot(scores, shares, color=colour, linewidth=1.0, alpha=0.6)
        areas = [max(6.0, LARGEST_MARK * one["num"] / num_boxes) for one in bins]
        axis.scatter(scores, shares, s=areas, color=colour, zorder=3, linewidths=0)
        lows, highs = zip(*(one["interval"] for one in bins), strict=True)
        axis.vlines(scores, lows, highs, color=colour, linewidth=1.0)
    axis.set(xlim=ENDS, ylim=ENDS, aspect="equal", xlabel="mean score", ylabel="share of boxes that are right")
    axis.set_title(as_label(title), fontsize="medium", loc="left")
    axis.grid(alpha=0.3)
