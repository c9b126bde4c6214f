"""The Grafana board of training runs, made from the declarations of the metrics."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from focus_agents.monitoring.endpoint import endpoint_name
from focus_agents.runs.metrics import METRICS, STAGES, Metric

UID = "focus"
DATASOURCE = {"type": "prometheus", "uid": "focus-prometheus"}
ON_RAY = ("grpo", "sft")
"""Stages that run on Ray, whose endpoint the board shows."""
WIDTH, NUM_COLUMNS, HEIGHT = 24, 3, 8
"""Of Grafana's grid, and of a panel on it."""
UNITS = {"share": "percentunit", "seconds": "s", "bytes": "bytes", "GiB": "gbytes"}
"""Units that Grafana knows; it shows the others beside the axis."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture of the board.

    Attributes:
        title: Its title.
        names: The metrics whose curves it has.
        by_part: Whether it shows the parts of its metrics, such as layers, in place of the whole.
    """

    title: str
    names: tuple[str, ...]
    by_part: bool = False

    def queries(self) -> dict[str, str]:
        """Return a query for each metric, in the language of Prometheus with the board's variables.

        A run that is gone on with has another process: its curves become one.
        """
        chosen = 'run=~"$run",stage=~"$stage",' + ('part!=""' if self.by_part else 'part=""')
        by = "run, stage, part" if self.by_part else "run, stage"
        return {name: f"max by ({by}) ({endpoint_name(name)}{{{chosen}}})" for name in self.names}


OTHERS = "Health"
_ABSENCE = ("f1_50", "absent_recall", "absent_precision")
GROUPS: Mapping[str, tuple[Panel, ...]] = {
    "Learning": (
        Panel("Reward", ("reward",)),
        Panel("Reward terms", ("reward",), by_part=True),
        Panel("Spread of the reward in a group", ("reward_std",)),
        Panel("Validation mIoU", ("validation_miou", "validation_miou_present")),
        Panel("Validation where targets are absent", tuple(f"validation_{name}" for name in _ABSENCE)),
        Panel("Groups that teach nothing", ("zero_variance_rate",)),
        Panel("Loss", ("loss",)),
        Panel("Language-model loss", ("lm_loss",)),
    ),
    "Boxes": (
        Panel("mIoU of sampled answers", ("miou",)),
        Panel("Answers with an IoU of 0.5 or more", ("acc_50",)),
        Panel("mIoU of sampled answers on present targets", ("miou_present",)),
        Panel("Sampled answers where targets are absent", _ABSENCE),
        Panel("Readable answers, and in the exact format", ("parse_rate", "format_rate")),
        Panel("Whole image, copied support", ("whole_image_rate", "copy_rate")),
        Panel("Answers cut at the limit", ("truncated_rate",)),
        Panel("Length of answers", ("completion_tokens", "completion_tokens_min", "completion_tokens_max")),
        Panel("Answers that failed", ("failed_rate",)),
    ),
    "Policy update": (
        Panel("Entropy", ("entropy",)),
        Panel("KL to the reference", ("kl",)),
        Panel("Ratio to the old policy", ("ratio",)),
        Panel("Clipped tokens", ("clip_fraction",)),
        Panel("Clipped low and high", ("clip_low", "clip_high")),
        Panel("Gap between learner and sampler", ("sampler_gap",)),
        Panel("Gradient norm", ("grad_norm",)),
        Panel("Learning rate", ("lr",)),
    ),
    "Attention": (
        Panel("Attention loss", ("attention_loss",)),
        Panel("S, attention on the supports", ("support_mass",)),
        Panel("S by layer", ("support_mass",), by_part=True),
        Panel("Delta", ("support_delta",)),
        Panel("Delta by layer", ("support_delta",), by_part=True),
        Panel("Tokens past the margin", ("past_margin",)),
        Panel("Tokens past the margin by layer", ("past_margin",), by_part=True),
    ),
    "Speed": (
        Panel("Groups a second", ("groups_per_second",)),
        Panel("Answer tokens a second", ("tokens_per_second",)),
        Panel("Examples a second", ("examples_per_second",)),
        Panel("Seconds of an iteration or step", ("seconds",)),
        Panel("Seconds by part", ("seconds_sampling", "seconds_learning", "seconds_syncing")),
        Panel("Seconds of a validation", ("seconds_validating",)),
    ),
    OTHERS: (
        Panel("Progress", ("iteration", "step")),
        Panel("Steps that changed nothing", ("skipped_steps",)),
        Panel("Episodes that could not be used", ("skipped_episodes",)),
        Panel("Processes that were replaced", ("sampler_restarts", "learner_restarts", "worker_restarts")),
        Panel("Groups that wait for the learner", ("queue_depth",)),
        Panel("Memory of the largest process", ("memory_gib",)),
        Panel("Memory by role", ("memory_gib",), by_part=True),
    ),
}
"""The rows of the board; metrics that none of them names have a panel each at its end."""

ON_A_PAGE = ("reward", "validation_miou", "zero_variance_rate", "loss")
"""Metrics that are worth a look where there is no Grafana."""


def groups() -> dict[str, list[Panel]]:
    """Return the rows of the board with their panels; together they show every metric of the stages on Ray."""
    found = {title: [*panels] for title, panels in GROUPS.items()}
    named = {name for panels in GROUPS.values() for panel in panels for name in panel.names}
    for name, metric in METRICS.items():
        if name not in named and set(metric.stages) & set(ON_RAY):
            found[OTHERS].append(Panel(name.replace("_", " ").capitalize(), (name,)))
            if metric.part:
                found[OTHERS].append(Panel(f"{found[OTHERS][-1].title} by {metric.part}", (name,), by_part=True))
    return found


def board() -> dict[str, Any]:
    """Return the board as Grafana reads it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in groups().items():
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "panels": []})
        panels[-1]["gridPos"] = {"x": 0, "y": top, "w": WIDTH, "h": 1}
        top += 1
        for number, panel in enumerate(row):
            width = WIDTH // NUM_COLUMNS
            place = {"x": number % NUM_COLUMNS * width, "y": top + number // NUM_COLUMNS * HEIGHT}
            panels.append({"id": len(panels) + 1, "gridPos": {**place, "w": width, "h": HEIGHT}, **_drawn(panel)})
        top += -(-len(row) // NUM_COLUMNS) * HEIGHT
    return {
        "uid": UID,
        "title": "FOCUS",
        "description": "Training runs of in-context object localization: focus sft (stage 1) and focus grpo (stage 2)",
        "tags": ["focus", "ray"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "timezone": "browser",
        "time": {"from": "now-1h", "to": "now"},
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": [_variable("run"), _variable("stage")]},
        "panels": panels,
    }


def _drawn(panel: Panel) -> dict[str, Any]:
    """Return a panel as Grafana reads it, but for its number and place."""
    metrics = [METRICS[name] for name in panel.names]
    units = {metric.unit for metric in metrics}
    unit = units.pop() if len(units) == 1 else ""
    suffixes = {
        name: f" {name}" if len(panel.names) > 1 else " {{part}}" if panel.by_part else "" for name in panel.names
    }
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": "\n\n".join(map(_describe, panel.names, metrics)),
        "datasource": DATASOURCE,
        "targets": [
            {
                "refId": letter,
                "datasource": DATASOURCE,
                "expr": query,
                "legendFormat": "{{run}}" + suffixes[name],
                "editorMode": "code",
                "range": True,
            }
            for letter, (name, query) in zip(string.ascii_uppercase, panel.queries().items(), strict=False)
        ],
        "fieldConfig": {
            "defaults": {
                "unit": UNITS.get(unit, "none"),
                **({"min": 0, "max": 1} if unit == "share" else {}),
                "color": {"mode": "palette-classic"},
                "custom": {
                    "drawStyle": "line",
                    "lineWidth": 1,
                    "fillOpacity": 0,
                    "showPoints": "auto",
                    "spanNulls": False,
                    "axisLabel": "" if unit in UNITS else unit,
                    "thresholdsStyle": {"mode": "dashed" if _bounds(metrics) else "off"},
                },
                "thresholds": {"mode": "absolute", "steps": _steps(metrics)},
            },
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": ["lastNotNull"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def _describe(name: str, metric: Metric) -> str:
    """Return the text that a person reads of a metric on the board."""
    healthy = f" Healthy: {metric.healthy}." if metric.healthy else ""
    stages = " and ".join(STAGES[stage] for stage in metric.stages if stage in ON_RAY)
    return f"{name} [{metric.unit}], {stages}: {metric.meaning}.{healthy}"


def _bounds(metrics: Sequence[Metric]) -> tuple[float | None, float | None] | None:
    """Return the bounds that all metrics of a panel have, if any."""
    bounds = {(metric.low, metric.high) for metric in metrics}
    return bounds.pop() if len(bounds) == 1 and bounds != {(None, None)} else None


def _steps(metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    """Return the colours of values: from each value of this list on, its colour."""
    low, high = _bounds(metrics) or (None, None)
    steps: list[dict[str, Any]] = [{"color": "green" if low is None else "red", "value": None}]
    if low is not None:
        steps.append({"color": "green", "value": low})
    if high is not None:
        steps.append({"color": "red", "value": high or 1e-9})  # the bound itself is healthy, 0 above all
    return steps


def _variable(label: str) -> dict[str, Any]:
    """Return a choice of runs or stages; all of them are shown at first."""
    chosen = '{run=~"$run"}' if label == "stage" else ""
    query = f"label_values({endpoint_name('seconds')}{chosen}, {label})"
    return {
        "name": label,
        "label": label.capitalize(),
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": "StandardVariableQuery"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "hide": 0,
    }
