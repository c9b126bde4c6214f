"""Curves of metrics as drawings inside a page: what each means, where it starts and ends, and its best value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from focus_agents.reports.markup import Html, join, tag
from focus_agents.reports.measured import is_measured
from focus_agents.runs.metrics import METRICS

MOST_POINTS = 200
"""Of a curve; where there are more, each is the mean of as many neighbours as are needed."""
MOST_CURVES = 60
"""On a page; wholes come before their parts, such as layers and terms."""
WIDTH, HEIGHT = 320, 150
_LEFT, _RIGHT, _TOP, _BOTTOM, _INSET = 44, 10, 10, 22, 6
"""Around the drawing, and between its frame and the first point, whose mark shall cover no label."""
LEAST_SPAN = 0.1
"""Of an axis, as a part of the value or of the healthy range; below that noise would look like a course."""
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
        counter: What the positions count.
        last: Iterations or steps that the run has behind it; None: nobody asks.
    """

    run: int
    positions: Floats
    values: Floats
    counter: str = "iteration"
    last: int | None = None

    @property
    def has_end(self) -> bool:
        """Whether the last value says where the run has got to, beside where it has started."""
        return len(self.values) > 1 or not is_open(self.positions[-1], self.last)


def is_open(position: float, last: int | None) -> bool:
    """Return whether what was measured once, at a position, is the start of a run whose end was not measured yet."""
    return last is not None and (position < last or position == 0)


def read_curve(
    lines: Sequence[Mapping[str, Any]], counter: str, metric: str, *, run: int = 0, last: int | None = None
) -> Curve:
    """Return where a metric is a number."""
    points = [
        (line[counter], line[metric])
        for line in lines
        if is_measured(line.get(metric)) and is_measured(line.get(counter))
    ]
    array = np.array(points, dtype=np.float64).reshape(-1, 2)
    return Curve(run, array[:, 0], array[:, 1], counter, last)


def metrics_of(lines: Sequence[Mapping[str, Any]], counter: str) -> list[str]:
    """Return the names of what lines hold, in the order in which they are shown: wholes, and then their parts."""
    found = dict.fromkeys(name for line in lines for name in line if name != counter)
    declared = {name: place for place, name in enumerate(dict.fromkeys((*FIRST, *METRICS)))}
    last = len(declared)

    def order(name: str) -> tuple[bool, int, str, int, str]:
        base, slash, part = name.partition("/")
        return bool(slash), declared.get(base, last), base, int(part) if part.isdecimal() else -1, part

    return sorted(found, key=order)


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
    return Curve(curve.run, means[0], means[1], curve.counter, curve.last), low, high


def draw_panel(metric: str, curves: Sequence[Curve], names: Sequence[str], *, also: Sequence[str] = ()) -> Html:
    """Return a metric as a figure: its meaning, its curves, and in words where they start, end and are best.

    Args:
        metric: Its name.
        curves: Of each run that has it.
        names: Of all runs.
        also: Other metrics with the very same values.
    """
    curves = [curve for curve in curves if len(curve.values)]
    if not curves:
        return Html("")
    base, _, part = metric.partition("/")
    declared = METRICS.get(base)
    meaning = "not declared by this version" if declared is None else declared.meaning
    unit = "" if declared is None else declared.unit
    healthy = f" Healthy: {declared.healthy}." if declared is not None and declared.healthy else ""
    title = tag("h3", metric, tag("small", unit) if unit else "")
    same = f" The same values as {', '.join(also)}." if also else ""
    text = f"{meaning[:1].upper()}{meaning[1:]}{f' ({part})' if part else ''}.{healthy}{same}"
    shown = Notation(np.concatenate([curve.values for curve in curves]))
    has_counters = len({curve.counter for curve in curves}) > 1
    return tag(
        "figure",
        title,
        _draw(metric, curves, shown),
        *(
            _in_words(metric, curve, names[curve.run] if len(names) > 1 else "", shown, has_counter=has_counters)
            for curve in curves
        ),
        tag("p", text, class_="meaning"),
        class_="curve",
        data_metric=metric,
    )


def _in_words(metric: str, curve: Curve, name: str, shown: Notation, *, has_counter: bool) -> Html:
    place = best_place(metric, curve.values)
    words = [f"start {shown(curve.values[0])}", f"end {shown(curve.values[-1]) if curve.has_end else '–'}"]
    if place is not None:
        words.append(f"best {shown(curve.values[place])} at {curve.counter} {curve.positions[place]:.0f}")
    if has_counter:
        words.append(f"{curve.counter}s {curve.positions.min():.0f} to {curve.positions.max():.0f}")
    label = [tag("i", class_=f"swatch run{curve.run % 8}"), f" {name}: "] if name else []
    return tag("figcaption", *label, ", ".join(words))


def _draw(metric: str, curves: Sequence[Curve], shown: Notation) -> Html:
    thin = [thinned(curve) for curve in curves]
    xs = np.concatenate([curve.positions for curve in curves])
    declared = METRICS.get(metric.partition("/")[0])
    bounds = () if declared is None else tuple(each for each in (declared.low, declared.high) if each is not None)
    is_share = declared is not None and declared.unit in ("share", "IoU")
    values = np.concatenate([part for each, *band in thin for part in (each.values, *band)])
    low, high, bounds = _limits(values, bounds, is_share=is_share)
    left, right = float(xs.min()), max(float(xs.max()), *(curve.last or 0 for curve in curves if not curve.has_end), 0)
    right = right if right > left else left + 1

    def place(x: Floats, y: Floats) -> Floats:
        across = _LEFT + _INSET + (x - left) / (right - left) * (WIDTH - _LEFT - _RIGHT - 2 * _INSET)
        up = HEIGHT - _BOTTOM - (y - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)
        return np.stack([across, np.clip(up, _TOP - 4, HEIGHT - _BOTTOM + 4)], axis=1)

    counters = dict.fromkeys(curve.counter for curve in curves)
    parts = [_axes(low, high, left, right, " or ".join(counters))]
    for bound in bounds:
        told = tag("title", f"healthy bound: {number(bound)}")
        (_, y) = place(xs[:1], np.array([bound]))[0]
        parts.append(tag("line", told, x1=_LEFT, x2=WIDTH - _RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="bound"))
    for (curve, least, largest), whole in zip(thin, curves, strict=True):
        colour = f"run{curve.run % 8}"
        if len(whole.values) > MOST_POINTS:
            around = np.concatenate([place(curve.positions, least), place(curve.positions, largest)[::-1]])
            parts.append(tag("polyline", points=_points(around), class_=f"band {colour}"))
        parts.append(tag("polyline", points=_points(place(curve.positions, curve.values)), class_=f"line {colour}"))
        best = best_place(metric, whole.values)
        marks = {"start": 0} | ({"end": len(whole.values) - 1} if whole.has_end else {})
        marks |= {} if best is None else {"best": best}
        for kind, at in marks.items():
            ((x, y),) = place(whole.positions[[at]], whole.values[[at]])
            told = tag("title", f"{kind}: {shown(whole.values[at])} at {whole.counter} {whole.positions[at]:.0f}")
            radius = 4 if kind == "best" else 3
            parts.append(tag("circle", told, cx=f"{x:.1f}", cy=f"{y:.1f}", r=radius, class_=f"{kind} {colour}"))
    label = f"{metric} over {' or '.join(f'{counter}s' for counter in counters)}"
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)


def _limits(values: Floats, bounds: Sequence[float], *, is_share: bool) -> tuple[float, float, tuple[float, ...]]:
    """Return the range of values that is drawn, and the healthy bounds inside of it.

    Values far outside of most points do not squeeze the rest. The range is no smaller than `LEAST_SPAN` of the value
    or of the healthy range, and reaches to a bound that the curve comes near.
    """
    low, high = float(values.min()), float(values.max())
    near, far = (float(part) for part in np.quantile(values, [0.01, 0.99]))
    if high - low > 20 * (far - near) > 0:
        low, high = near, far
    healthy = max(bounds, default=0.0) - (min(bounds) if len(bounds) > 1 else 0.0)
    least = LEAST_SPAN * max(abs(low), abs(high), abs(healthy), LEAST_SPAN * is_share)
    if least < 1e-290:  # a curve of zeros, or of numbers that no axis can divide
        least = 1.0
    floor, ceiling = (0.0 if low >= 0 else -math.inf), (1.0 if is_share and high <= 1 else math.inf)
    missing = max(0.0, least - (high - low)) / 2
    low, high = low - missing, high + missing
    span = high - low
    inside = tuple(bound for bound in bounds if low - 0.5 * span <= bound <= high + 0.5 * span)
    low, high = min([low, *inside]), max([high, *inside])
    pad = 0.04 * (high - low)
    low, high = low - pad, high + pad
    if low < floor:
        low, high = floor, max(high, floor + least)
    if high > ceiling:
        low, high = min(low, ceiling - least), ceiling + pad
    return low, high, inside


def _axes(low: float, high: float, left: float, right: float, counter: str) -> Html:
    lines = []
    ticks = _ticks(low, high)
    shown = Notation(np.array(ticks), step=min(np.diff(ticks)))
    for value in ticks:
        y = HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)
        lines.append(tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid"))
        lines.append(tag("text", shown(value), x=_LEFT - 5, y=f"{y + 3.5:.1f}", text_anchor="end"))
    below = HEIGHT - 4
    lines.append(tag("text", f"{left:.0f}", x=_LEFT, y=below))
    lines.append(tag("text", f"{counter} {right:.0f}", x=WIDTH - _RIGHT, y=below, text_anchor="end"))
    return join(lines)


def _ticks(low: float, high: float) -> list[float]:
    """Return two to four round numbers inside a range."""
    step = 10.0 ** math.floor(math.log10((high - low) / 2))
    for factor in (5, 2.5, 2, 1):
        found = np.arange(math.ceil(low / (step * factor)), math.floor(high / (step * factor)) + 1) * step * factor
        if len(found) >= 2:
            return [float(value) for value in found[:: max(1, len(found) // 4)]]
    return [low, high]


def _points(places: Floats) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


class Notation:
    """Writes numbers that stand beside one another alike, by the largest of them.

    Args:
        values: The numbers.
        step: Least difference of two of them that must be seen; None: none must be.
    """

    def __init__(self, values: Floats, *, step: float | None = None) -> None:
        largest = float(np.abs(values).max(initial=0.0))
        self._decimals: int | None = None
        if largest == 0 or 0.001 <= largest < 1e7:
            digits = 3 if largest >= 1 else 2  # behind the first
            self._decimals = max(0, digits - math.floor(math.log10(largest))) if largest else 0
            if step:
                needed = (places for places in range(9) if math.isclose(round(step, places), step, rel_tol=1e-6))
                self._decimals = next(needed, self._decimals)

    def __call__(self, value: float) -> str:
        """Return a number as text."""
        if self._decimals is None:
            return f"{value:.1e}" if value else "0"
        text = f"{value:.{self._decimals}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
        return "0" if text == "-0" else text


def number(given: Any) -> str:
    """Return a number in few characters; a dash for what is none."""
    if isinstance(given, np.floating):
        given = float(given)
    return Notation(np.array([float(given)]))(float(given)) if is_measured(given) else "–"


def score(given: Any) -> str:
    """Return a reward, an IoU or a part of one, which stand beside one another: three decimals."""
    if not is_measured(given) or abs(given) >= 1000:
        return number(given)
    text = f"{given:.3f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
