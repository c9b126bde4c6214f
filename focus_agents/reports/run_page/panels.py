"""The sections of curves: of what is learned, and further down of speed and health."""

from __future__ import annotations

from collections.abc import Sequence

from focus_agents.reports.markup import Html, tag
from focus_agents.reports.run_page.curves import MOST_CURVES, Curve, draw_panel, metrics_of, read_curve
from focus_agents.reports.run_page.records import RunRecord

SPEED = (
    "seconds", "seconds_sampling", "seconds_learning", "seconds_syncing", "seconds_validating", "examples_per_second",
    "groups_per_second", "tokens_per_second", "queue_depth", "sampler_restarts", "learner_restarts", "worker_restarts",
    "memory_gib",
)  # fmt: skip
"""Metrics of how the machine does, not of what the policy learns."""
NOTE = (
    "Dots mark the start and the end, rings the best value; a dashed line is a bound beyond which a run warns. Where a "
    "curve has more points than are drawn, each is the mean of neighbours, and the band reaches from their least to "
    "their largest value."
)


def curve_sections(runs: Sequence[RunRecord]) -> tuple[Html, Html]:
    """Return the section of what is learned, and that of speed and health, which is empty where nothing was logged.

    A metric that was 0 throughout is folded away, and one with the very values of another stands in its panel.
    """
    curves = _distinct(_all_curves(runs))
    chosen = [*curves][:MOST_CURVES]
    sections = []
    for title, place, is_speed in (("Curves", "curves", False), ("Speed and health", "speed", True)):
        names = [name for name in chosen if (name.partition("/")[0] in SPEED) == is_speed]
        flat = [name for name in names if all(not curve.values.any() for curve in curves[name][0])]
        shown = tag("div", *(_panel(name, curves, runs) for name in names if name not in flat), class_="curves")
        parts = [tag("h2", title), *([] if is_speed else [tag("p", NOTE, class_="meaning")])]
        if not names and not is_speed:
            parts.append(tag("p", "Nothing was logged yet."))
        if len(flat) < len(names):
            parts.append(shown)
        if flat:
            folded = tag("div", *(_panel(name, curves, runs) for name in flat), class_="curves")
            parts.append(tag("details", tag("summary", f"0 throughout: {', '.join(flat)}"), folded))
        if not is_speed and (left_out := [*curves][MOST_CURVES:]):
            told = f"{len(left_out)} more curves are left out, which are in metrics.csv: {', '.join(left_out)}"
            parts.append(tag("p", told if len(told) <= 600 else told[:600] + "…", class_="meaning left-out"))
        sections.append(tag("section", *parts, id=place) if names or not is_speed else Html(""))
    learned, speed = sections
    return learned, speed


def _all_curves(runs: Sequence[RunRecord]) -> dict[str, list[Curve]]:
    """Return by metric its curves, in the order in which they are shown."""
    counters = {run.counter for run in runs}
    names = metrics_of([line for run in runs for line in run.lines], "")
    found = {}
    for name in names:
        curves = [read_curve(run.lines, run.counter, name, run=place, last=run.last) for place, run in enumerate(runs)]
        curves = [curve for curve in curves if len(curve.values)]
        if curves and name not in counters:
            found[name] = curves
    return found


def _distinct(curves: dict[str, list[Curve]]) -> dict[str, tuple[list[Curve], list[str]]]:
    """Return the same without parts whose values are those of another metric, with their names beside those of that."""
    found: dict[str, tuple[list[Curve], list[str]]] = {}
    seen: dict[tuple[tuple[int, bytes, bytes], ...], str] = {}
    for name, each in curves.items():
        key = tuple((curve.run, curve.positions.tobytes(), curve.values.tobytes()) for curve in each)
        is_part, changes = "/" in name, any(curve.values.min() < curve.values.max() for curve in each)
        if is_part and changes and key in seen:
            found[seen[key]][1].append(name)
            continue
        seen.setdefault(key, name)
        found[name] = (each, [])
    return found


def _panel(name: str, curves: dict[str, tuple[list[Curve], list[str]]], runs: Sequence[RunRecord]) -> Html:
    each, also = curves[name]
    return draw_panel(name, each, [run.name for run in runs], also=also)
