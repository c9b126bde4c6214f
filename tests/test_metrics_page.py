"""docs/metrics.md says what the declarations say, and where RLlib's result has a metric."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from focus_agents.grpo.train import _collect_metrics
from focus_agents.runs.metrics import METRICS, OF_ABSENCE
from tests import metrics_page
from tests.places import ROOT


def test_the_page_is_of_today() -> None:
    """If not: `python -m tests.metrics_page` writes it."""
    assert (ROOT / "docs/metrics.md").read_text(encoding="utf-8") == metrics_page.page()


def test_every_metric_is_on_the_page_once() -> None:
    names = [name for section in metrics_page.sections().values() for name in section]
    assert sorted(names) == sorted(METRICS)
    assert len(Path(ROOT / "docs/metrics.md").read_text(encoding="utf-8").splitlines()) > len(names)


def test_places_in_rllibs_result_are_those_that_the_training_reads() -> None:
    """A result with another number at each place, among them a reward term's."""
    places = {**metrics_page.PLACES, "reward/iou": f"{metrics_page.PLACES['reward']}/iou"}
    numbers = {name: float(number) for number, name in enumerate(places, start=1)}
    result: dict[str, Any] = {}
    for name, place in places.items():
        *folders, leaf = place.split("/")
        inner = result
        if name == "reward/iou":
            folders, leaf = [folders[0]], "reward/iou"
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[leaf] = numbers[name]
    config: Any = SimpleNamespace(
        kl_coeff=0.1, settings=SimpleNamespace(is_on_policy=False), groups_per_iteration=2, group_size=2
    )
    found = _collect_metrics(result, 7, seconds=2.0, config=config)
    assert {name: found[name] for name in numbers} == numbers
    unlogged = dict.fromkeys(OF_ABSENCE, math.nan)  # RLlib's value of what an earlier iteration had
    rollouts = result["rollouts"] | unlogged
    fewer = _collect_metrics(result | {"rollouts": rollouts}, 8, seconds=2.0, config=config)
    assert {*found} - {*fewer} == {*OF_ABSENCE}
    beside = {"iteration", "seconds", "groups_per_second", "tokens_per_second"}
    assert {*found} - {*numbers} == beside
