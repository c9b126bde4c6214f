"""Which groups an iteration learns from: the next episodes, answered by the runners, and others in their place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from focus_agents.grpo.runners import Job, Request, Runners
from focus_agents.grpo.selection import split_by_signal
from focus_agents.grpo.settings import GRPOSettings
from focus_agents.rollout.records import RolloutGroup
from focus_env.datasets.order import shuffled_indices


class GroupSampler:
    """Samples the groups of one iteration after the other, through the episodes in shuffled epochs.

    Args:
        runners: Who answers.
        settings: Of the training.
        seed: Of the order of episodes.
    """

    def __init__(self, runners: Runners, settings: GRPOSettings, *, seed: int) -> None:
        self._runners, self._settings, self._seed = runners, settings, seed
        self._num_episodes: int = runners.ask_one("num_episodes")
        self._num_drawn = 0
        self._ahead: Request[RolloutGroup] | None = None

    def sample(self, iteration: int, weights_seq_no: int) -> list[RolloutGroup]:
        """Return an iteration's groups, in order: those asked for ahead, or new ones.

        Args:
            iteration: With the position in it, seeds a group.
            weights_seq_no: Number of the weights that answer.
        """
        request, self._ahead = self._ahead, None
        if request is None:
            request = self._request(iteration, weights_seq_no, self._settings.groups_per_iteration)
        return self._runners.collect(request)

    def ask_ahead(self, iteration: int, weights_seq_no: int) -> None:
        """Let the runners begin with an iteration's groups, by the weights that they have; arguments as of `sample`."""
        self._ahead = self._request(iteration, weights_seq_no, self._settings.groups_per_iteration)

    def refill(self, sampled: list[RolloutGroup], iteration: int, weights_seq_no: int) -> list[RolloutGroup]:
        """Return groups with signal in the place of those without, as dynamic sampling wants.

        Args:
            sampled: An iteration's groups; what is sampled beyond them is added.
            iteration: As in `sample`.
            weights_seq_no: Likewise.
        """
        if self._settings.zero_variance != "refill":
            return sampled
        count = len(sampled)
        chosen, silent = split_by_signal(sampled, self._settings)
        for _ in range(self._settings.max_refills):
            if len(chosen) == count:
                break
            # Positions go on behind the iteration's own, so that no two groups of it share a seed.
            request = self._request(iteration, weights_seq_no, count - len(chosen), first=len(sampled))
            more = self._runners.collect(request)
            sampled += more
            others, still_silent = split_by_signal(more, self._settings)
            chosen, silent = chosen + others, silent + still_silent
        return (chosen + silent)[:count]

    def _request(self, iteration: int, weights_seq_no: int, count: int, *, first: int = 0) -> Request[RolloutGroup]:
        """Ask the runners for groups of the next episodes, at positions from `first` on."""
        indices = shuffled_indices(self._num_drawn, count, num_episodes=self._num_episodes, seed=self._seed)
        self._num_drawn += count

        def sample(runner: Any, jobs: Sequence[Job]) -> tuple[dict[int, RolloutGroup], Any]:
            groups = runner.sample(jobs=jobs, iteration=iteration, weights_seq_no=weights_seq_no)
            return groups, runner.get_metrics()

        jobs = list(enumerate(indices, start=first))
        return self._runners.submit(jobs, sample, batch_size=self._settings.rollout_batch_groups)

    def get_state(self) -> dict[str, Any]:
        """Return how far the episodes have been used, and groups that are sampled ahead, under GRPO's own keys."""
        state: dict[str, Any] = {"num_groups_drawn": self._num_drawn}
        if self._ahead is not None:
            state["groups_ahead"] = self._runners.collect(self._ahead)
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where `get_state` was called."""
        self._num_drawn = state.get("num_groups_drawn", self._num_drawn)
        self._ahead = Request.done(state["groups_ahead"]) if "groups_ahead" in state else None
