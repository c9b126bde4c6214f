"""Runners without Ray: who hangs is ended and replaced, who dies is replaced, and results are those without a fault."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from focus_agents.errors import SamplingError, TrainingError
from focus_agents.grpo import requests
from focus_agents.grpo import runners as module
from focus_agents.grpo.runners import Request, Runners
from focus_env.errors import DatasetError

JOBS = [(position, 100 + position) for position in range(8)]


class Clock:
    """Time that passes only where somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Actor:
    """Answers after some seconds, or never, or by an error; what ends it starts another that is well."""

    def __init__(self, clock: Clock, *faults: float | Exception) -> None:
        self.clock, self.faults, self.num_kills = clock, list(faults), 0
        self.task_names: list[str] = []
        self.apply = SimpleNamespace(
            remote=lambda work, jobs: self.call(lambda: work(self, jobs)),
            options=lambda *, name, num_returns: self.called(name),
        )
        self.set_state = SimpleNamespace(remote=lambda state: None)
        self.num_episodes = SimpleNamespace(remote=lambda: self.call(lambda: 500))

    def called(self, name: str) -> Any:
        self.task_names.append(name)
        return self.apply

    def call(self, answer: Any) -> dict[str, Any]:
        fault = self.faults.pop(0) if self.faults else 0.0
        delay = fault if isinstance(fault, float) else 0.0
        return {"at": self.clock.now + delay, "answer": fault if isinstance(fault, Exception) else answer()}


class FakeRay:
    """As much of Ray as runners use."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def put(self, value: Any) -> Any:
        return value

    def wait(self, calls: list[Any], *, num_returns: int, timeout: float, fetch_local: bool) -> tuple[list, list]:
        last = max(call["at"] for call in calls)
        self.clock.now = min(last, self.clock.now + timeout)
        return [c for c in calls if c["at"] <= self.clock.now], [c for c in calls if c["at"] > self.clock.now]

    def get(self, call: Any) -> Any:
        if isinstance(call["answer"], Exception):
            raise call["answer"]
        return call["answer"]

    def kill(self, actor: Actor, *, no_restart: bool) -> None:
        assert not no_restart
        actor.num_kills += 1


class Group:
    """RLlib's group of runners: one that is lost is back at the next restoring, if it ever comes back."""

    def __init__(self, actors: dict[int, Actor]) -> None:
        self.all, self.lost, self.come_back = actors, set[int](), True
        self.local_env_runner = None

    def num_remote_env_runners(self) -> int:
        return len(self.all)

    def healthy_env_runner_ids(self) -> list[int]:
        return [number for number in self.all if number not in self.lost]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "ray", FakeRay(clock))
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "runner_actors", lambda group: group.all)
    monkeypatch.setattr(module, "mark_lost", lambda group, number: group.lost.add(number))
    monkeypatch.setattr(module, "make_callback", lambda *args, **kwargs: None)
    return clock


def make_runners(clock: Clock, *faults: Sequence[float | Exception]) -> tuple[Runners, Group]:
    group = Group({number: Actor(clock, *given) for number, given in enumerate(faults, start=1)})

    def restore(group: Group) -> list[int]:
        back = sorted(group.lost) if group.come_back else []
        group.lost -= set(back)
        return back

    config = SimpleNamespace(
        sample_timeout_s=300.0,
        env_runner_restore_timeout_s=1000.0,
        delay_between_env_runner_restarts_s=2.0,
        callbacks_on_env_runners_recreated=None,
        in_evaluation=False,
    )
    algorithm = SimpleNamespace(restore_env_runners=restore, callbacks=[])
    return Runners(algorithm, group, config), group


def double(runner: Any, jobs: Sequence[tuple[int, int]]) -> tuple[dict[int, int], None]:
    return {position: 2 * index for position, index in jobs}, None


HANGS = 1e9
EXPECTED = [2 * index for _, index in JOBS]


@pytest.mark.parametrize(
    "faults", [([HANGS], []), ([HANGS, HANGS], [HANGS]), ([ActorDiedError()], [HANGS]), ([HANGS],)]
)
def test_who_hangs_is_ended_and_its_share_asked_again(
    clock: Clock, faults: Sequence[Sequence[float | Exception]], caplog: pytest.LogCaptureFixture
) -> None:
    runners, group = make_runners(clock, *faults)
    with caplog.at_level(logging.WARNING):
        assert runners.run(JOBS, double, batch_size=2) == EXPECTED
    assert [actor.num_kills for actor in group.all.values()] == [list(given).count(HANGS) for given in faults]
    assert group.lost == set()
    lines = [record.message for record in caplog.records if "is ended and replaced" in record.message]
    assert len(lines) == sum(list(given).count(HANGS) for given in faults)
    assert "no answer within 300 s (`sample_timeout_s`)" in lines[0]
    clock.now = before = 10_000.0
    assert runners.run(JOBS, double, batch_size=2) == EXPECTED
    assert clock.now == before, "and it is not waited for a second time"


def test_one_that_is_only_slow_is_left_alone_and_spoken_of(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    runners, group = make_runners(clock, [290.0], [])
    with caplog.at_level(logging.WARNING):
        assert runners.run(JOBS, double, batch_size=2) == EXPECTED
    assert [actor.num_kills for actor in group.all.values()] == [0, 0]
    assert [record.message for record in caplog.records] == [
        f"waiting for sampling processes [1], for {seconds} s now of at most 300 (`sample_timeout_s`)"
        for seconds in (60, 120, 240)
    ]


def test_one_that_always_hangs_ends_the_run_by_name(clock: Clock) -> None:
    runners, group = make_runners(clock, [HANGS] * 9)
    with pytest.raises(
        SamplingError, match=r"8 of 8 episodes are missing after 5 attempts.*no answer within 300 s.*`res"
    ):
        runners.run(JOBS, double, batch_size=2)
    assert group.all[1].num_kills == 5
    assert issubclass(SamplingError, TrainingError)


def test_a_lone_one_that_does_not_come_back_ends_it_too(clock: Clock) -> None:
    runners, group = make_runners(clock, [ActorDiedError()])
    group.come_back = False
    with pytest.raises(SamplingError, match=r"none came back within 1000 s .*ActorDiedError.*by `resume`"):
        runners.run(JOBS, double, batch_size=2)


def test_a_question_to_one_of_them(clock: Clock) -> None:
    runners, group = make_runners(clock, [HANGS], [])
    assert runners.ask_one("num_episodes") == 500
    assert group.all[1].num_kills == 1


def test_an_error_of_ours_comes_as_it_is(clock: Clock) -> None:
    error = RayTaskError("apply", "traceback", DatasetError("a.jpg: torn"))
    runners, group = make_runners(clock, [error], [])
    with pytest.raises(DatasetError, match=r"^a\.jpg: torn$"):
        runners.run(JOBS, double, batch_size=2)
    assert group.lost == set()


def test_tasks_are_called_by_what_is_done(clock: Clock) -> None:
    """On Ray's dashboard, where each of them would be `apply`."""
    runners, group = make_runners(clock, [], [])
    for actor in group.all.values():
        actor.validate = lambda *, episode_indices: [2 * index for index in episode_indices]  # type: ignore[attr-defined]
    assert runners.answer("validate", [index for _, index in JOBS], batch_size=2) == EXPECTED
    runners.run(JOBS, double, batch_size=2)
    assert [actor.task_names for actor in group.all.values()] == [["validate", "double"], ["validate", "double"]]


@pytest.mark.parametrize("is_found_by_rllib", [False, True])
def test_who_dies_is_named_once_and_counted_when_it_is_back(
    clock: Clock, is_found_by_rllib: bool, caplog: pytest.LogCaptureFixture
) -> None:
    runners, group = make_runners(clock, [] if is_found_by_rllib else [ActorDiedError()], [])
    if is_found_by_rllib:  # in a call of its own, of which nobody here knows
        group.lost.add(1)
    with caplog.at_level(logging.WARNING):
        assert runners.run(JOBS, double, batch_size=2) == EXPECTED
        group.lost.clear()
        assert runners.run(JOBS, double, batch_size=2) == EXPECTED
    (line,) = [record.message for record in caplog.records if "has died" in record.message]
    assert line.startswith("sampler 1 has died (")
    assert "nothing is lost but time" in line
    assert runners.num_restarts == 1


def test_who_is_replaced_between_two_calls_is_named_and_counted(
    clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No call fails: Ray has started another process before anything is asked of it."""
    runners, _ = make_runners(clock, [])
    counts = []
    with caplog.at_level(logging.WARNING):
        for process in ("a", "a", "b", "b", "c"):
            monkeypatch.setattr(requests, "process_here", lambda process=process: process)
            assert runners.run(JOBS, double, batch_size=2) == EXPECTED
            counts.append(runners.num_restarts)
    assert counts == [0, 0, 1, 1, 2]
    lines = [record.message for record in caplog.records if "has died" in record.message]
    assert len(lines) == 2
    assert all(line.startswith("sampler 1 has died (Ray has replaced it between two calls)") for line in lines)


def test_one_that_came_back_is_not_counted_twice(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    runners, _ = make_runners(clock, [0.0, ActorDiedError()])
    for process in ("a", "b", "b"):
        monkeypatch.setattr(requests, "process_here", lambda process=process: process)
        assert runners.run(JOBS, double, batch_size=2) == EXPECTED
    assert runners.num_restarts == 1


def test_results_that_wait_are_counted(clock: Clock) -> None:
    runners, _ = make_runners(clock, [5.0], [])
    request = runners.submit(JOBS, double, batch_size=2)
    assert runners.num_ready(request) == 4, "those of the other one"
    clock.now += 6
    assert runners.num_ready(request) == 8
    assert runners.collect(request) == EXPECTED
    assert runners.num_ready(request) == 8
    assert runners.num_ready(Request.done([1, 2, 3])) == 3
