"""When the report of a run is written: at once, at the end, and in between as seldom as it is dear."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

from focus_agents.monitoring import report
from focus_agents.monitoring.report import ReportSink
from focus_agents.runs.folder import RunDirectory
from tests.watched_runs import EPISODES, write_run


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return write_run(tmp_path / "run", num_iterations=2, num_groups=1)


def test_it_costs_one_hundredth_of_the_time(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    now, written = 1000.0, list[float]()
    monkeypatch.setattr(report.time, "monotonic", lambda: now)

    def write(*_: object) -> None:
        nonlocal now
        written.append(now)
        now += 0.5

    monkeypatch.setattr(report, "write_text", write)
    sink = ReportSink(run.path, training=EPISODES, validation=EPISODES)
    for iteration in range(1, 400):
        sink.log({"reward": 1.0}, iteration)
        now += 1.0
    gaps = [later - earlier for earlier, later in itertools.pairwise(written)]
    assert written[0] == 1000.0
    assert gaps
    assert all(50 <= gap <= 52 for gap in gaps)
    sink.close()
    assert written[-1] == now - 0.5


def test_a_run_that_dies_leaves_the_last_one(run: RunDirectory) -> None:
    sink = ReportSink(run.path, training=EPISODES, validation=EPISODES)
    sink.log({"reward": 1.0}, 1)
    page = (run.path / "report.html").read_text()
    assert "not finished, iteration 2 of 100" in page
    assert page.endswith("</html>\n")
    assert page.count("<img") > 20
    assert not list(run.path.glob(".report*"))
    assert ReportSink.name == "report.html"
    assert time.monotonic() < sink._next
