"""The names that metrics have on Ray's own endpoint."""

from __future__ import annotations

TAGS = ("run", "stage", "part")
"""Labels of each metric: the run's name, the command that trains, and the part (a reward term, a layer), or none."""


def gauge_name(name: str) -> str:
    """Return the name of a metric's gauge, which tells it from Ray's own."""
    return f"focus_{name}"


def endpoint_name(name: str) -> str:
    """Return the name that a metric of `METRICS` has on Ray's endpoint, and so in Prometheus."""
    return f"ray_{gauge_name(name)}"
