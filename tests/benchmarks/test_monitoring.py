"""The benchmark of monitoring: that its clocks count what they should, once."""

from __future__ import annotations

import threading
import time

import pytest

from benchmarks.monitoring import Args, Clock, MemoryProbe, ThreadProbe, growth, per_iterations, timed


def compute(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


class Shown:
    def log(self) -> None:
        compute(0.02)
        self.inner()

    def inner(self) -> None:
        compute(0.02)


@pytest.mark.parametrize(
    ("apart", "seconds", "calls"), [((), (0.04, 0.02), (1, 1)), (("inner",), (0.02, 0.04), (1, 2))]
)
def test_a_call_within_another_counts_for_the_outer_unless_it_stands_apart(
    apart: tuple[str, ...], seconds: tuple[float, float], calls: tuple[int, int]
) -> None:
    clock, original = Clock(*apart), Shown.log
    with timed(clock, {"log": (Shown, "log"), "inner": (Shown, "inner")}):
        Shown().log()
        Shown().inner()
    assert Shown.log is original
    assert (clock.seconds["log"], clock.seconds["inner"]) == pytest.approx(seconds, abs=0.015)
    assert (clock.calls["log"], clock.calls["inner"]) == calls


def test_other_threads_are_counted_and_this_one_is_not() -> None:
    closing, probe = threading.Event(), ThreadProbe()
    worked = threading.Event()

    def work() -> None:
        compute(0.2)
        worked.set()
        closing.wait()

    thread = threading.Thread(target=work)
    thread.start()
    compute(0.5)
    worked.wait()
    probe.close()
    closing.set()
    thread.join()
    assert probe.seconds == pytest.approx(0.2, abs=0.15)


def test_a_leak_grows_and_a_cache_does_not() -> None:
    cache = [700.0 + min(step, 300) / 10 for step in range(2000)]
    leak = [700.0 + step / 100 for step in range(2000)]
    assert growth(cache) == 0.0
    assert growth(leak) == pytest.approx(10, abs=1)
    probe = MemoryProbe()
    probe.log({}, 3)
    assert 10 < probe.rss[3] < 100_000


def test_parts_count_as_often_as_by_default() -> None:
    assert [per_iterations(name) for name in ("Recorder.log", "ValidationAlbum.add", "Recorder.close")] == [
        1,
        100,
        1000,
    ]


def test_too_few_iterations_are_refused() -> None:
    with pytest.raises(ValueError, match="memory_iterations: expected at least 5, got 1"):
        Args(memory_iterations=1)
