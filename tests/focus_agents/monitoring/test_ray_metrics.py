"""Which gauges of Ray a run has at a time; `tests/focus_agents/cli/test_monitor.py` sees them on the endpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from focus_agents.monitoring import ray_metrics
from focus_agents.monitoring.endpoint import endpoint_name
from focus_agents.monitoring.ray_metrics import RayMetrics
from focus_agents.runs.metrics import METRICS


class FakeGauge:
    """Keeps what was set; `values` is emptied by those who look, as Ray forgets what is not set again."""

    values: dict[tuple[str, ...], float]

    def __init__(self, name: str, *, description: str, tag_keys: tuple[str, ...]) -> None:
        self.name, self.description, self.tag_keys = name, description, tag_keys

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert set(tags) == set(self.tag_keys)
        self.values[(self.name, *(tags[key] for key in self.tag_keys))] = value


@pytest.fixture
def gauges(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[tuple[str, ...], float]]:
    values: dict[tuple[str, ...], float] = {}
    monkeypatch.setattr(FakeGauge, "values", values, raising=False)
    monkeypatch.setattr(ray_metrics, "Gauge", FakeGauge)
    monkeypatch.setattr(ray_metrics, "REPEAT_SECONDS", 0.01)
    ray_metrics._gauge.cache_clear()
    yield values
    ray_metrics._gauge.cache_clear()


def repeated(gauges: dict[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
    """What is set again without a new line."""
    gauges.clear()
    time.sleep(0.1)
    return dict(gauges)


def test_gauges_have_the_run_the_stage_and_the_part(gauges: Any) -> None:
    sink = RayMetrics("a-run", "grpo")
    sink.log({"reward": 0.5, "reward/iou": 0.25}, 3)
    sink.close()
    assert gauges == {
        ("focus_reward", "a-run", "grpo", ""): 0.5,
        ("focus_reward", "a-run", "grpo", "iou"): 0.25,
        ("focus_iteration", "a-run", "grpo", ""): 3.0,
    }
    assert ray_metrics._gauge("reward").description == f"{METRICS['reward'].meaning} [reward]"


def test_a_gauge_lasts_through_a_long_iteration_and_goes_with_the_run(gauges: Any) -> None:
    sink = RayMetrics("a-run", "sft")
    sink.log({"loss": 0.5}, 7)
    assert repeated(gauges) == {("focus_loss", "a-run", "sft", ""): 0.5, ("focus_step", "a-run", "sft", ""): 7.0}
    sink.close()
    assert repeated(gauges) == {}


def test_what_a_line_lacks_goes_but_for_the_last_validation(gauges: Any) -> None:
    """A loss that is not finite any more is left out of a line: its last finite value must not stay on a board."""
    sink = RayMetrics("a-run", "grpo")
    sink.log({"validation_miou": 0.3, "seconds_validating": 2.0}, 0)
    sink.log({"loss": 0.5, "reward/iou": 0.1, "reward/mine": 0.2}, 1)
    sink.log({"reward/iou": 0.1}, 2)
    shown = {(name, part) for name, _, _, part in repeated(gauges)}
    sink.close()
    assert shown == {
        ("focus_validation_miou", ""), ("focus_seconds_validating", ""), ("focus_reward", "iou"),
        ("focus_iteration", ""),
    }  # fmt: skip


@pytest.mark.parametrize("name", METRICS)
def test_every_declared_metric_can_be_a_gauge(name: str) -> None:
    from ray.util.metrics import _VALID_METRIC_NAME_RE, Gauge

    assert isinstance(ray_metrics._gauge(name), Gauge)
    assert _VALID_METRIC_NAME_RE.match(endpoint_name(name))
