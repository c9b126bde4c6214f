"""Which groups an iteration learns from: failed ones are left out, named and counted, until there is nothing else."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from focus_agents.errors import EpisodeError, TrainingError
from focus_agents.grpo.runners import Request
from focus_agents.grpo.sampling import GroupSampler
from focus_agents.grpo.settings import GRPOSettings
from focus_agents.rollout.records import Generation, PromptReference, RolloutGroup
from focus_env.datasets.order import shuffled_indices
from focus_env.errors import DatasetError, FocusError

NUM_EPISODES = 100


class FakeRunners:
    """Answers at once; some episodes fail."""

    def __init__(self, error_of: Callable[[int], FocusError | None]) -> None:
        self.error_of = error_of
        self.jobs: list[tuple[int, int]] = []
        self.is_lost = False
        self.contents: Iterator[int] | None = None  # of references to prompts; None: groups have no reference

    def ask_one(self, method: str) -> int:
        return NUM_EPISODES

    def submit(
        self, jobs: Sequence[tuple[int, int]], work: Any, *, batch_size: int, splitter: Any
    ) -> Request[RolloutGroup]:
        self.jobs += jobs
        return Request(jobs, work, batch_size, None, splitter, results=dict(map(self.sample, jobs)))

    def sample(self, job: tuple[int, int]) -> tuple[int, RolloutGroup]:
        position, index = job
        error = self.error_of(index)
        reference = PromptReference(9, next(self.contents)) if self.contents and error is None else None
        rewards = np.array([0.0, 1.0])
        return position, RolloutGroup(
            index, Generation(()), rewards, ({}, {}), (), error=error, prompt_reference=reference
        )  # fmt: skip

    def collect(self, request: Request[RolloutGroup]) -> list[RolloutGroup]:
        if self.is_lost:
            raise TrainingError("runners: none came back")
        request.results |= dict(self.sample(job) for job in request.jobs if job[0] not in request.results)
        return [request.results[position] for position, _ in request.jobs]


def make_sampler(error_of: Callable[[int], FocusError | None], **settings: Any) -> tuple[GroupSampler, FakeRunners]:
    runners: Any = FakeRunners(error_of)
    num_learners = settings.pop("num_learners", 0)
    chosen = GRPOSettings(group_size=2, groups_per_iteration=5, **settings)
    return GroupSampler(runners, chosen, seed=3, num_learners=num_learners), runners


def order(count: int) -> list[int]:
    return shuffled_indices(0, count, num_episodes=NUM_EPISODES, seed=3)


def test_a_bad_episode_is_left_out_counted_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    bad = order(10)[7]
    sampler, _ = make_sampler(lambda index: EpisodeError(f"episode 'e{index}': torn") if index == bad else None)
    with caplog.at_level(logging.WARNING):
        found = []
        for iteration in range(40):
            sampled, groups = sampler.draw(iteration, 0)
            assert sampled == groups
            found.append(([group.episode_index for group in groups], sampler.num_skipped))
    assert found[0] == (order(5), 0)
    assert found[1] == ([index for index in order(10)[5:] if index != bad], 1)
    assert sum(count for _, count in found) == 2, "in each of two epochs"
    assert [record.message for record in caplog.records] == [f"left out: episode 'e{bad}': torn"]


@pytest.mark.parametrize("num_learners", [0, 1, 3])
def test_each_learner_has_a_group(num_learners: int) -> None:
    """Of the first nine episodes only one is good, so more are asked, in positions, and so with seeds, of their own."""
    good = order(9)[2]
    sampler, runners = make_sampler(
        lambda index: EpisodeError("bad") if index in order(9) and index != good else None, num_learners=num_learners
    )
    _, groups = sampler.draw(0, 0)
    expected = {0: [good], 1: [good], 3: [good, *order(15)[9:]][:7]}[num_learners]
    assert [group.episode_index for group in groups] == expected
    assert [position for position, _ in runners.jobs] == list(range(5 if num_learners < 3 else 15))
    assert sampler.num_skipped == (4 if num_learners < 3 else 8)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (EpisodeError("episode 'a': boom"), TrainingError, r"^sampling: 16 episodes in a row could .* 'a': boom$"),
        (DatasetError("a.jpg: torn"), DatasetError, r"^a\.jpg: torn$"),
    ],
)
def test_nothing_but_failures_end_the_run(error: FocusError, kind: type[Exception], message: str) -> None:
    sampler, runners = make_sampler(lambda index: error)
    with pytest.raises(kind, match=message):
        sampler.draw(0, 0)
    assert len(runners.jobs) == 20
    assert sampler.get_state() == {"num_groups_drawn": 0}, "a checkpoint of this moment asks them again"


@pytest.mark.parametrize("is_ahead", [False, True])
def test_an_iteration_that_fails_counts_as_not_drawn(is_ahead: bool) -> None:
    sampler, runners = make_sampler(lambda index: None, **({"async_steps": 1} if is_ahead else {}))
    sampler.draw(0, 0)
    if is_ahead:
        sampler.ask_ahead(1, 0)
        state = sampler.get_state()
        assert (state["num_groups_drawn"], len(state["groups_ahead"])) == (10, 5)
        other, _ = make_sampler(lambda index: None)
        other.set_state(state)
        assert [group.episode_index for group in other.draw(1, 0)[1]] == order(10)[5:]
    runners.is_lost = True
    with pytest.raises(TrainingError, match="none came back"):
        sampler.draw(1, 0)
    assert sampler.get_state() == {"num_groups_drawn": 5}
    runners.is_lost = False
    assert [group.episode_index for group in sampler.draw(1, 0)[1]] == order(10)[5:]


def contents_of(groups: Sequence[RolloutGroup]) -> list[int]:
    return [group.prompt_reference.content for group in groups if group.prompt_reference is not None]


def test_lost_prompts_are_sampled_again_for_who_refers_to_them() -> None:
    sampler, runners = make_sampler(lambda index: None)
    runners.contents = itertools.count()
    _, groups = sampler.draw(0, 0)
    lost = [group.prompt_reference for group in groups[1:3] if group.prompt_reference is not None]
    assert contents_of(groups) == [0, 1, 2, 3, 4]
    sampler.restore(lost)
    assert contents_of(groups) == [0, 5, 6, 3, 4]
    sampler.restore(lost[:1])
    assert contents_of(groups) == [0, 7, 6, 3, 4]
    sampler.release()
    sampler.restore(lost)
    assert contents_of(groups) == [0, 7, 6, 3, 4], "what is learned from is not sampled again"


def test_lost_prompts_of_an_episode_that_is_gone_end_the_run() -> None:
    gone: list[int] = []
    sampler, runners = make_sampler(lambda index: DatasetError(f"episode {index}: gone") if index in gone else None)
    runners.contents = itertools.count()
    _, groups = sampler.draw(0, 0)
    gone.append(groups[2].episode_index)
    with pytest.raises(TrainingError, match=rf"^sampling again what was lost with a machine: .*{gone[0]}: gone"):
        sampler.restore([group.prompt_reference for group in groups if group.prompt_reference is not None])
