"""Metrics on Ray's own endpoint, which Prometheus reads and Grafana draws."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cache

from ray.util.metrics import Gauge

from focus_agents.monitoring.endpoint import TAGS, gauge_name
from focus_agents.runs.folder import COUNTERS
from focus_agents.runs.metrics import METRICS
from focus_env.types import ImageArray

REPEAT_SECONDS = 1.0
"""Shorter than any interval in which Ray reports."""


class RayMetrics:
    """A `Sink` that shows each declared metric as a gauge of Ray, for as long as it says something of the run.

    A gauge appears with the first value that is logged, and goes with the first line that lacks it, so that none shows
    an old value; those that validations log stay until the next. All go when the sink is closed or the process dies.
    Ray shows and hides within two of its report intervals, of 10 s each.

    Args:
        run: The run's name, a tag of each gauge.
        stage: The command that trains, of `STAGES`, likewise.
    """

    name = "Ray's endpoint"

    def __init__(self, run: str, stage: str) -> None:
        self._tags = {"run": run, "stage": stage}
        (self._counter,) = (name for name in COUNTERS if stage in METRICS[name].stages)
        self._values: Mapping[str, float] = {}
        self._closed = threading.Event()
        # Ray shows a value for two report intervals after it was set, and an iteration may take longer.
        self._repeater = threading.Thread(target=self._repeat, name="focus-ray-metrics", daemon=True)
        self._repeater.start()

    def log(self, metrics: Mapping[str, float], position: int) -> None:
        """Set the gauges of what was measured, and of how far the run is."""
        kept = {name: value for name, value in self._values.items() if METRICS[_whole(name)].is_occasional}
        self._values = {**kept, **metrics, self._counter: float(position)}
        self._set()

    def show(self, name: str, picture: ImageArray, position: int) -> None:
        """Do nothing: the endpoint has no pictures."""

    def close(self) -> None:
        """Let the gauges go."""
        self._closed.set()
        self._repeater.join()

    def _repeat(self) -> None:
        while not self._closed.wait(REPEAT_SECONDS):
            self._set()

    def _set(self) -> None:
        for name, value in self._values.items():
            _gauge(_whole(name)).set(value, {**self._tags, "part": name.partition("/")[2]})


def _whole(name: str) -> str:
    """Return the declared name of a metric or of a part."""
    return name.partition("/")[0]


@cache
def _gauge(name: str) -> Gauge:
    """Return the one gauge of this process for a metric, whichever runs it shows."""
    metric = METRICS[name]
    return Gauge(gauge_name(name), description=f"{metric.meaning} [{metric.unit}]", tag_keys=TAGS)
