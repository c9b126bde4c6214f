"""Compare the scores of boxes with how often these are right, with an IoU of at least 0.5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from focus_agents.evaluation.records import AnswerRecord
from focus_agents.evaluation.results import ResultsFolder
from focus_agents.reports.documents import picture
from focus_agents.reports.tables import figure
from focus_agents.runs.files import write_json
from focus_env.calibration import calibration_error, calibration_interval, fit_calibration, reliability_curve
from focus_env.intervals import bootstrap_interval

RIGHT_IOU = 0.5
MIN_BOXES = 50
"""Boxes that a calibration is fitted to, at least."""
CURVE_TITLE = "Reliability: boxes by their scores"
CURVE_CAPTION = (
    "Boxes by their scores: the share that is right, with its 95% interval, over the mean score. On the dashed line a "
    "score is that share; the area of a mark is the number of its boxes."
)

Rows = list[list[str]]
"""The first is the heading."""


def reliability(records: Sequence[AnswerRecord]) -> dict[str, Any] | None:
    """Return the figures of a cell; None: no box has a score.

    Returns:
        `num_scored`, `mean_score`, `share_right` and `calibration_error` (`mean` and `interval` of each), and `bins`;
        see `focus_env.calibration`.
    """
    scores, right = _scored(records)
    if not scores:
        return None
    return {
        "num_scored": len(scores),
        "mean_score": {"mean": float(np.mean(scores)), "interval": bootstrap_interval(scores)},
        "share_right": {"mean": float(np.mean(right)), "interval": bootstrap_interval(right)},
        "calibration_error": {
            "mean": calibration_error(scores, right),
            "interval": calibration_interval(scores, right),
        },
        "bins": [asdict(one) for one in reliability_curve(scores, right)],
    }


def write_reliability(results: ResultsFolder, summary: Mapping[str, Any]) -> dict[str, str]:
    """Write calibrations, and draw the reliability curves of all cells whose policy gives scores.

    Returns:
        The picture in Markdown by the title of its table; nothing where no policy gives scores.
    """
    _write_calibrations(results)
    return _draw_curves(summary, results.path)


def _write_calibrations(results: ResultsFolder) -> None:
    """Write a calibration of each cell with at least `MIN_BOXES` boxes that have a score, for `focus_agents.find`."""
    for cell in results.cells():
        scores, right = _scored(results.read(cell))
        if len(scores) < MIN_BOXES:
            continue
        asked = results.policy_settings().get(cell.policy, {})
        about = {"policy": asked.get("policy", cell.policy), "weights": asked.get("weights")}
        about |= {"dataset": cell.dataset, "shots": cell.shots, "num_boxes": len(scores)}
        file = results.path / "calibration" / f"{cell.name}.json"
        file.parent.mkdir(exist_ok=True)
        write_json(file, {**about, **fit_calibration(scores, right).to_json()})


def _scored(records: Sequence[AnswerRecord]) -> tuple[list[float], list[bool]]:
    """Return the scores of boxes that have one, and whether the boxes are right."""
    scored = [(record.score, record.answer) for record in records if record.score is not None and record.answer.box]
    return [score for score, _ in scored], [answer.iou >= RIGHT_IOU for _, answer in scored]


def sureness_rows(summary: Mapping[str, Any]) -> Rows:
    """Return a row for each cell whose policy gives scores."""
    names = {"mean_score": "mean score", "share_right": "right", "calibration_error": "calibration error"}
    rows = [["", "data set", "shots", *names.values(), "boxes with a score"]]
    for cell in summary["cells"]:
        if found := cell.get("reliability"):
            figures = [figure(found[name]) for name in names]
            rows.append([cell["policy"], cell["dataset"], str(cell["shots"]), *figures, str(found["num_scored"])])
    return rows


def curve_rows(summary: Mapping[str, Any]) -> Rows:
    """Return the reliability curve of each such cell, a row for each of its bins."""
    rows = [["", "data set", "shots", "score", "mean score * 100", "right * 100", "boxes"]]
    for cell in summary["cells"]:
        for one in cell.get("reliability", {}).get("bins", ()):
            right = figure({"mean": one["share_right"], "interval": one["interval"]})
            range_ = f"{one['low']:.1f} to {one['high']:.1f}"
            named = [cell["policy"], cell["dataset"], str(cell["shots"])]
            rows.append([*named, range_, f"{100 * one['mean_score']:.1f}", right, str(one["num"])])
    return rows


def _draw_curves(summary: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Draw a panel for each data set and number of shots; return as `write_reliability` does."""
    panels: dict[str, dict[str, Any]] = {}
    for cell in summary["cells"]:
        if found := cell.get("reliability"):
            title = f"{cell['dataset']}, {cell['shots']} shot{'s' if cell['shots'] != 1 else ''}"
            panels.setdefault(title, {})[cell["policy"]] = found["bins"]
    if not panels:
        return {}
    from focus_agents.reports.reliability_plot import plot_reliability  # here: other reports need no matplotlib

    path = plot_reliability(panels, folder / "reliability.png")
    return {CURVE_TITLE: picture(path, CURVE_CAPTION)}


def reliability_tables(summary: Mapping[str, Any]) -> dict[str, Rows]:
    """Return the tables by title; none where no policy gives scores."""
    if not any("reliability" in cell for cell in summary["cells"]):
        return {}
    return {
        "How sure, and how often right, * 100": sureness_rows(summary),
        CURVE_TITLE: curve_rows(summary),
    }


def reliability_notes(summary: Mapping[str, Any]) -> list[str]:
    """Return what a reader of the tables has to know."""
    if not reliability_tables(summary):
        return []
    return [
        f"right: boxes with an IoU of at least {RIGHT_IOU:g}, of those that have a score. calibration error: the mean "
        "distance of scores from the share that is right, over ten bins of scores; with few boxes it is too large."
    ]
