"""Curves of metrics as drawings inside a page: what each means, where it starts and ends, and its best value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from focus_agents.reports.markup import Html, join, tag
from focus_agents.runs.metrics import METRICS

MOST_POINTS = 200
"""Of a curve; where there are more, each is the mean of as many neighbours as are needed."""
MOST_CURVES = 60
WIDTH, HEIGHT = 320, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 20
FIRST = ("validation_miou", "reward", "miou", "format_rate", "parse_rate", "zero_variance_rate")
"""Metrics that are shown before the others."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curve:
    """A metric of a run.

    Attributes:
        run: Number of the run on the page.
        positions: [T] iterations or steps.
        values: [T].
    """

    run: int
    positions: Floats
    values: Floats


def read_curve(lines: Sequence[Mapping[str, Any]], counter: str, metric: str, *, run: int = 0) -> Curve:
    """Return where a metric is a number."""
    points = [
        (line[counter], line[metric]) for line in lines if isinstance(line.get(metric), int | float) and counter in line
    ]
    array = np.array(points, dtype=np.float64).reshape(-1, 2)
    return Curve(run, array[:, 0], array[:, 1])


def metrics_of(lines: Sequence[Mapping[str, Any]], counter: str) -> list[str]:
    """Return the names of what lines hold, in the order in which they are shown."""
    found = dict.fromkeys(name for line in lines for name in line if name != counter)
    declared = {name: place for place, name in enumerate(dict.fromkeys((*FIRST, *METRICS)))}
    last = len(declared)
    return sorted(found, key=lambda name: (declared.get(name.partition("/")[0], last), name))[:MOST_CURVES]


def best_place(metric: str, values: Floats) -> int | None:
    """Return where a curve is best, by what a healthy run shows; None where that is no direction."""
    declared = METRICS.get(metric.partition("/")[0])
    healthy = "" if declared is None else declared.healthy
    if values.min() == values.max():
        return None
    if healthy.startswith(("rises", "near 1")):
        return int(values.argmax())
    if healthy in ("falls", "0") or healthy.startswith(("near 0", "below")):
        return int(values.argmin())
    return None


def thinned(curve: Curve, most: int = MOST_POINTS) -> tuple[Curve, Floats, Floats]:
    """Return a curve of few points, and the least and the largest value behind each of them."""
    number = len(curve.values)
    if number <= most:
        return curve, curve.values, curve.values
    starts = np.unique(np.linspace(0, number, most, endpoint=False).astype(int))
    counts = np.diff([*starts, number])
    means = [np.add.reduceat(part, starts) / counts for part in (curve.positions, curve.values)]
    low, high = np.minimum.reduceat(curve.values, starts), np.maximum.reduceat(curve.values, starts)
    return Curve(curve.run, means[0], means[1]), low, high


def draw_panel(metric: str, curves: Sequence[Curve], counter: str, names: Sequence[str]) -> Html:
    """Return a metric as a figure: its meaning, its curves, and in words where they start, end and are best."""
    curves = [curve for curve in curves if len(curve.values)]
    if not curves:
        return Html("")
    base, _, part = metric.partition("/")
    declared = METRICS.get(base)
    meaning = "not declared by this version" if declared is None else declared.meaning
    unit = "" if declared is None else declared.unit
    healthy = f" Healthy: {declared.healthy}." if declared is not None and declared.healthy else ""
    title = tag("h3", metric, tag("small", unit) if unit else "")
    note = tag("p", f"{meaning[:1].upper()}{meaning[1:]}{f' ({part})' if part else ''}.{healthy}", class_="meaning")
    drawing = _draw(metric, curves, counter)
    return tag(
        "figure",
        title,
        drawing,
        *(_in_words(metric, curve, names[curve.run] if len(names) > 1 else "") for curve in curves),
        note,
        class_="curve",
        data_metric=metric,
    )


def _in_words(metric: str, curve: Curve, name: str) -> Html:
    place = best_place(metric, curve.values)
    words = [f"start {number(curve.values[0])}", f"end {number(curve.values[-1])}"]
    if place is not None:
        words.append(f"best {number(curve.values[place])} at {curve.positions[place]:.0f}")
    label = [tag("i", class_=f"swatch run{curve.run % 8}"), f" {name}: "] if name else []
    return tag("figcaption", *label, ", ".join(words))


def _draw(metric: str, curves: Sequence[Curve], counter: str) -> Html:
    thin = [thinned(curve) for curve in curves]
    xs = np.concatenate([curve.positions for curve in curves])
    low, high = _limits([part for _, *band in thin for part in band], [curve for curve, *_ in thin])
    left, right = float(xs.min()), float(xs.max())
    right = right if right > left else left + 1

    def place(x: Floats, y: Floats) -> Floats:
        across = _LEFT + (x - left) / (right - left) * (WIDTH - _LEFT - _RIGHT)
        up = HEIGHT - _BOTTOM - (y - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)
        return np.stack([across, np.clip(up, _TOP - 4, HEIGHT - _BOTTOM + 4)], axis=1)

    parts = [_axes(low, high, left, right, counter)]
    for (curve, least, largest), whole in zip(thin, curves, strict=True):
        colour = f"run{curve.run % 8}"
        if len(whole.values) > MOST_POINTS:
            around = np.concatenate([place(curve.positions, least), place(curve.positions, largest)[::-1]])
            parts.append(tag("polyline", points=_points(around), class_=f"band {colour}"))
        parts.append(tag("polyline", points=_points(place(curve.positions, curve.values)), class_=f"line {colour}"))
        best = best_place(metric, whole.values)
        marks = {"start": 0, "end": len(whole.values) - 1} | ({} if best is None else {"best": best})
        for kind, at in marks.items():
            ((x, y),) = place(whole.positions[[at]], whole.values[[at]])
            told = tag("title", f"{kind}: {number(whole.values[at])} at {whole.positions[at]:.0f}")
            parts.append(
                tag(
                    "circle",
                    told,
                    cx=f"{x:.1f}",
                    cy=f"{y:.1f}",
                    r=4 if kind == "best" else 3,
                    class_=f"{kind} {colour}",
                )
            )
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{metric} over {counter}s")


def _limits(bands: Sequence[Floats], curves: Sequence[Curve]) -> tuple[float, float]:
    """The range of values that is drawn; what lies far outside of most points does not squeeze the rest."""
    values = np.concatenate([*bands, *(curve.values for curve in curves)])
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    near, far = (float(part) for part in np.quantile(values, [0.01, 0.99]))
    if high - low > 20 * (far - near) > 0:
        low, high = near, far
    least = 0.0 if low >= 0 else -math.inf
    pad = 0.04 * (high - low) if high - low > 1e-12 * max(1.0, abs(high)) else 0.5 * abs(high) or 0.5
    return max(least, low - pad), high + pad


def _axes(low: float, high: float, left: float, right: float, counter: str) -> Html:
    lines = []
    ticks = _ticks(low, high)
    labels = [number(value) for value in ticks]
    if len(set(labels)) < len(labels):
        labels = [f"{value:.6g}" for value in ticks]
    for value, label in zip(ticks, labels, strict=True):
        y = HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)
        lines.append(tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid"))
        lines.append(tag("text", label, x=_LEFT - 5, y=f"{y + 3.5:.1f}", text_anchor="end"))
    below = HEIGHT - 5
    lines.append(tag("text", f"{left:.0f}", x=_LEFT, y=below))
    lines.append(tag("text", f"{counter} {right:.0f}", x=WIDTH - _RIGHT, y=below, text_anchor="end"))
    return join(lines)


def _ticks(low: float, high: float) -> list[float]:
    """Two to four round numbers inside a range."""
    step = 10 ** math.floor(math.log10((high - low) / 2))
    for factor in (5, 2.5, 2, 1):
        found = np.arange(math.ceil(low / (step * factor)), math.floor(high / (step * factor)) + 1) * step * factor
        if len(found) >= 2:
            return [float(value) for value in found[:: max(1, len(found) // 4)]]
    return [low, high]


def _points(places: Floats) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def number(given: Any) -> str:
    """Return a number in few characters; a dash for what is none."""
    value = float(given) if isinstance(given, int | float | np.floating) else math.nan
    if not math.isfinite(value):
        return "–"
    if value == 0 or 0.001 <= abs(value) < 10_000:
        return f"{value:.3f}".rstrip("0").rstrip(".") if abs(value) < 100 else f"{value:.0f}"
    return f"{value:.1e}"
