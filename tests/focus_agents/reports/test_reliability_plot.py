"""Reliability curves: marks where the bins are, and names as they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from focus_agents.reports.reliability_plot import plot_reliability
from focus_env.calibration import reliability_curve
from focus_env.images import read_picture


def bins(*ones: tuple[float, float, int]) -> list[dict[str, Any]]:
    return [
        {
            "mean_score": score,
            "share_right": share,
            "num": num,
            "interval": (max(0.0, share - 0.1), min(1.0, share + 0.1)),
        }
        for score, share, num in ones
    ]


def test_marks_are_where_the_bins_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k)))
    panels = {
        "tao, 1 shot": {"_a$b": bins((0.2, 0.1, 1), (0.9, 0.8, 3)), "other": bins((0.5, 0.4, 9))},
        "tao, 4 shots": {"other": bins((0.7, 1.0, 2))},
    }
    picture = read_picture(plot_reliability(panels, tmp_path / "curves.png"))
    (figure,) = drawn
    first, second = figure.axes
    assert [axis.get_title(loc="left") for axis in (first, second)] == ["tao, 1 shot", "tao, 4 shots"]
    marks = [np.asarray(one.get_offsets()).tolist() for one in first.collections if len(one.get_offsets())]
    assert [[0.2, 0.1], [0.9, 0.8]] in marks
    assert [[0.5, 0.4]] in marks
    assert first.collections[0].get_sizes()[1] == 3 * first.collections[0].get_sizes()[0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["\N{ZERO WIDTH SPACE}_a\\$b", "other"]
    colours = [tuple(axis.collections[-1].get_colors()[0]) for axis in (first, second)]
    assert colours[0] == colours[1]  # a policy has one colour in all panels
    assert picture.shape[1] == 720


def test_curves_of_scores_are_drawn(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores = rng.uniform(size=200)
    curve = [
        {"mean_score": one.mean_score, "share_right": one.share_right, "num": one.num, "interval": one.interval}
        for one in reliability_curve(scores, rng.uniform(size=200) < scores)
    ]
    path = plot_reliability({f"data {number}": {"mine": curve} for number in range(5)}, tmp_path / "curves.png")
    assert read_picture(path).shape[1] == 1080
