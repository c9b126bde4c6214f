"""Sample the groups that an iteration learns from: the next episodes, answered by the runners, and replacements."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from focus_agents.errors import EpisodeError, TrainingError
from focus_agents.grpo.references import PromptSplitter, find_lost, with_prompts
from focus_agents.grpo.requests import Job, Request
from focus_agents.grpo.runners import Runners
from focus_agents.grpo.selection import split_by_signal
from focus_agents.grpo.settings import GRPOSettings
from focus_agents.rollout.collect import MAX_FAILED_IN_A_ROW, describe_failure
from focus_agents.rollout.records import PromptReference, RolloutGroup
from focus_env.datasets.order import shuffled_indices

logger = logging.getLogger(__name__)


class GroupSampler:
    """Samples the groups of one iteration after the other, through the episodes in shuffled epochs.

    Episodes that cannot be asked or scored are left out: named once, counted, and replaced by the next ones only where
    too few would be left to learn from.

    Args:
        runners: Who answers.
        settings: Of the training.
        seed: Of the order of episodes.
        num_learners: Who learn; each is to have a group.

    Attributes:
        num_skipped: Episodes of the last iteration that were left out.
    """

    def __init__(self, runners: Runners, settings: GRPOSettings, *, seed: int, num_learners: int = 0) -> None:
        self._runners, self._settings, self._seed = runners, settings, seed
        self._min_groups = max(1, num_learners)
        self._num_episodes: int = runners.ask_one("num_episodes")
        self._num_drawn = self._num_asked = self.num_skipped = 0
        self._num_failed_in_a_row = 0
        self._named: set[int] = set()
        self._ahead: tuple[int, Request[RolloutGroup]] | None = None
        self._drawn: list[Request[RolloutGroup]] = []  # of the iteration that is learned from

    def draw(self, iteration: int, weights_seq_no: int) -> tuple[list[RolloutGroup], list[RolloutGroup]]:
        """Return all groups that are sampled for an iteration, and those of them to learn from.

        Args:
            iteration: With the position in it, seeds a group.
            weights_seq_no: Number of the weights that answer.

        Raises:
            FocusError: If there are no samplers any more, or `MAX_FAILED_IN_A_ROW` episodes fail one after the other.
                The episodes then count as not drawn, so that a checkpoint of this moment asks them again.
        """
        start = self._num_drawn if self._ahead is None else self._ahead[0]
        try:
            sampled = self._sample(iteration, weights_seq_no)
            return sampled, self._refill(sampled, iteration, weights_seq_no)
        except Exception:
            self._num_drawn = start
            raise

    def _sample(self, iteration: int, weights_seq_no: int) -> list[RolloutGroup]:
        """Return an iteration's groups, in order: those asked for ahead, or new ones."""
        self.release()
        ahead, self._ahead = self._ahead, None
        count = self._settings.groups_per_iteration
        self._num_asked = self.num_skipped = 0
        if ahead is None:
            request = self._request(iteration, weights_seq_no, count)
        else:
            (_, request), self._num_asked = ahead, count
        groups = self._usable(request)
        while len(groups) < self._min_groups:
            groups += self._usable(self._request(iteration, weights_seq_no, count))
        return groups

    def restore(self, lost: Sequence[PromptReference]) -> None:
        """Sample drawn groups again whose prompts are lost with a machine, from the same weights and seeds.

        Raises:
            FocusError: If no samplers are left, or an episode cannot be read any more.
        """
        for request in self._drawn:
            _sample_again(self._runners, request, lost)

    def release(self) -> None:
        """Drop the references of the drawn groups, after the update."""
        self._drawn = []

    def _usable(self, request: Request[RolloutGroup]) -> list[RolloutGroup]:
        """Leave out failed groups, and stop where there is nothing else."""
        groups = self._runners.collect(request)
        self._drawn.append(request)
        for group in groups:
            self._num_failed_in_a_row = 0 if group.error is None else self._num_failed_in_a_row + 1
            if group.error is None:
                continue
            self.num_skipped += 1
            if group.episode_index not in self._named:
                self._named.add(group.episode_index)
                logger.warning("left out: %s", describe_failure(group))
            if self._num_failed_in_a_row >= MAX_FAILED_IN_A_ROW:
                if not isinstance(group.error, EpisodeError):  # it says itself what to do
                    raise group.error
                raise TrainingError(
                    f"sampling: {MAX_FAILED_IN_A_ROW} episodes in a row could not be used, the last: {group.error}"
                ) from group.error
        return [group for group in groups if group.error is None]

    def failures(self, sampled: Sequence[RolloutGroup]) -> dict[str, float]:
        """Return how much of the last iteration has failed, by names of `runs.metrics.METRICS`.

        Args:
            sampled: As `draw` gave them.
        """
        errors = [completion.error for group in sampled for completion in group.generation.completions]
        return {
            "skipped_episodes": float(self.num_skipped),
            "failed_rate": sum(error is not None for error in errors) / max(1, len(errors)),
        }

    def num_waiting(self) -> int:
        """Count the groups that were asked for ahead and are sampled by now."""
        return 0 if self._ahead is None else self._runners.num_ready(self._ahead[1])

    def ask_ahead(self, iteration: int, weights_seq_no: int) -> None:
        """Let the runners begin with an iteration's groups, by the weights that they have; arguments as of `draw`."""
        start, self._num_asked = self._num_drawn, 0
        self._ahead = start, self._request(iteration, weights_seq_no, self._settings.groups_per_iteration)

    def _refill(self, sampled: list[RolloutGroup], iteration: int, weights_seq_no: int) -> list[RolloutGroup]:
        """Return groups with signal in place of those without, as dynamic sampling wants; `sampled` gets all."""
        if self._settings.zero_variance != "refill":
            return sampled
        count = self._settings.groups_per_iteration
        chosen, silent = split_by_signal(sampled, self._settings)
        for _ in range(self._settings.max_refills):
            if len(chosen) == count:
                break
            request = self._request(iteration, weights_seq_no, count - len(chosen))
            if more := self._usable(request):
                sampled += more
                others, still_silent = split_by_signal(more, self._settings)
                chosen, silent = chosen + others, silent + still_silent
        return (chosen + silent)[:count]

    def _request(self, iteration: int, weights_seq_no: int, count: int) -> Request[RolloutGroup]:
        """Ask the runners for groups of the next episodes."""
        indices = shuffled_indices(self._num_drawn, count, num_episodes=self._num_episodes, seed=self._seed)
        # Positions go on behind what the iteration has asked for, so that no two groups of it share a seed.
        jobs = list(enumerate(indices, start=self._num_asked))
        self._num_drawn += count
        self._num_asked += count

        def sample(runner: Any, jobs: Sequence[Job]) -> tuple[dict[int, RolloutGroup], Any]:
            groups = runner.sample(jobs=jobs, iteration=iteration, weights_seq_no=weights_seq_no)
            return groups, runner.get_metrics()

        return self._runners.submit(
            jobs, sample, batch_size=self._settings.rollout_batch_groups, splitter=PromptSplitter()
        )

    def get_state(self) -> dict[str, Any]:
        """Return how far the episodes have been used, and groups that are sampled ahead, under GRPO's own keys."""
        state: dict[str, Any] = {"num_groups_drawn": self._num_drawn}
        if self._ahead is not None:
            state["groups_ahead"] = self._fetch(self._ahead[1])
        return state

    def _fetch(self, request: Request[RolloutGroup]) -> list[RolloutGroup]:
        """Return groups with their prompts, for a checkpoint."""
        groups = self._runners.collect(request)
        references = [group.prompt_reference for group in groups if group.prompt_reference is not None]
        if lost := find_lost(None, [reference.content for reference in references]):
            _sample_again(self._runners, request, [references[place] for place in lost])
        return with_prompts(groups)

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where `get_state` was called."""
        self._num_drawn = state.get("num_groups_drawn", self._num_drawn)
        self._ahead = None
        if "groups_ahead" in state:
            start = self._num_drawn - self._settings.groups_per_iteration
            self._ahead = start, Request.done(state["groups_ahead"])


def _sample_again(runners: Runners, request: Request[RolloutGroup], lost: Sequence[PromptReference]) -> None:
    """Sample groups of a request again, and point the references to their prompts to the new ones.

    Raises:
        TrainingError: If an episode cannot be read any more.
    """
    before = dict(request.results)
    positions = [position for position, group in before.items() if group.prompt_reference in lost]
    if not positions:
        return
    logger.warning("the prompts of %d groups are lost with their machine; they are sampled again", len(positions))
    for position in positions:
        del request.results[position]
    runners.collect(request)
    for position in positions:
        old, new = before[position].prompt_reference, request.results[position]
        if old is None or new.prompt_reference is None:
            raise TrainingError(f"sampling again what was lost with a machine: {describe_failure(new)}")
        old.content = new.prompt_reference.content
    request.results = before  # parcels hold the references of these groups
