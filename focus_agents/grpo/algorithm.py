"""GRPO as an RLlib algorithm: `training_step` is sample, advantage, update, sync."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import ray
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
    WEIGHTS_SEQ_NO,
)

from focus_agents.checkpoint import save_policy
from focus_agents.grpo.advantage import group_advantages
from focus_agents.grpo.batch import GroupTrainingData, TrainingGroup, plan_steps, training_group
from focus_agents.grpo.config import GRPOConfig
from focus_agents.models.adapters import merge_adapters
from focus_agents.reporting import rollout_metrics
from focus_agents.rollout import shuffled_indices
from focus_agents.types import RolloutGroup
from focus_env.metrics import ScoredAnswer

ROLLOUTS = "rollouts"
MAX_SAMPLING_ATTEMPTS = 5

T = TypeVar("T")


def make_training_groups(groups: Sequence[RolloutGroup], config: GRPOConfig) -> list[TrainingGroup]:
    """From rollouts to what the loss needs: penalties, advantages, masks."""
    is_cut = np.array([[not c.is_finished for c in group.generation.completions] for group in groups])
    advantages = group_advantages(
        np.stack([group.rewards for group in groups]) - config.truncation_penalty * is_cut,
        scale=config.advantage_scale,
        leave_one_out=config.leave_one_out,
        tolerance=config.signal_tolerance,
    )
    counts_truncated = config.truncated == "keep"
    return [
        training_group(group, row, counts_truncated=counts_truncated)
        for group, row in zip(groups, advantages, strict=True)
    ]


class GRPO(Algorithm):
    """Group-relative policy optimization of a vision-language policy in a localization environment.

    Source: arXiv:2402.03300 (GRPO), arXiv:2605.31145 (FOCUS, stage 2).
    """

    @classmethod
    def get_default_config(cls) -> GRPOConfig:
        """RLlib's hook."""
        return GRPOConfig()

    def setup(self, config: Any) -> None:
        """Build runners and learners (RLlib), and number the weights that they share."""
        super().setup(config)
        self._num_iterations_done = 0
        self._weights_seq_no = 0
        self._num_episodes: int = self._on_first_runner("num_episodes")
        self.last_groups: list[RolloutGroup] = []
        self._sync_weights()

    def training_step(self) -> None:
        """Sample groups, compare the answers within each, update the policy, hand the new weights to the runners."""
        with self._time(ENV_RUNNER_SAMPLING_TIMER):
            groups = self._sample_groups()
        training_groups = make_training_groups(groups, self.config)
        with self._time(LEARNER_UPDATE_TIMER):
            self._update(training_groups)
        self._num_iterations_done += 1
        with self._time(SYNCH_WORKER_WEIGHTS_TIMER):
            self._sync_weights()
        self.last_groups = groups
        self.metrics.log_dict(rollout_metrics(groups), key=ROLLOUTS, window=1)

    def validate(self, episode_indices: Sequence[int]) -> list[ScoredAnswer]:
        """Answer validation episodes greedily with the current weights, spread over the runners, in the order given."""

        def answer(runner: Any, jobs: Sequence[tuple[int, int]]) -> tuple[dict[int, ScoredAnswer], None]:
            answers = runner.validate(episode_indices=[index for _, index in jobs])
            return {position: answer for (position, _), answer in zip(jobs, answers, strict=True)}, None

        return self._on_runners(list(enumerate(episode_indices)), answer)

    def save_policy(self, directory: Path) -> Path:
        """Write the policy in transformers' format; `load_model` and `--init-from` read it."""
        with torch.no_grad():
            module = self.config.get_rl_module_spec(spaces=self.spaces, inference_only=True).build()
            module.set_state(self.learner_group.get_weights()[DEFAULT_MODULE_ID])
            return save_policy(directory, merge_adapters(module.policy), module.processor)

    def _time(self, timer: str) -> Any:
        """Log the seconds of this iteration alone; RLlib's default average remembers a slow first one for hundreds."""
        return self.metrics.log_time((TIMERS, timer), reduce="mean", window=1)

    # ---- sample

    def _sample_groups(self) -> list[RolloutGroup]:
        """This iteration's groups, in order."""
        iteration, count = self._num_iterations_done, self.config.groups_per_iteration
        indices = shuffled_indices(
            iteration * count, count, num_episodes=self._num_episodes, seed=self.config.seed or 0
        )

        arguments = {"iteration": iteration, "weights_seq_no": self._weights_seq_no}

        def sample(runner: Any, jobs: Sequence[tuple[int, int]]) -> tuple[dict[int, RolloutGroup], Any]:
            return runner.sample(jobs=jobs, **arguments), runner.get_metrics()

        return self._on_runners(list(enumerate(indices)), sample)

    def _on_runners(
        self,
        jobs: Sequence[tuple[int, int]],
        work: Callable[[Any, Sequence[tuple[int, int]]], tuple[dict[int, T], Any]],
    ) -> list[T]:
        """Spread jobs over the runners. What is lost with a dying runner goes to the others, and to the one restarted.

        Args:
            jobs: (position, episode index).
            work: What a runner does with its share: results by position, and metrics or None. As return values of a
                runner, results belong to the driver, and outlive the runner.

        Returns:
            The results in the order of the jobs.

        Raises:
            RuntimeError: If some are still missing after several attempts.
        """
        group = self.env_runner_group
        if group.num_remote_env_runners() == 0:
            results, metrics = work(group.local_env_runner, jobs)
            self._log_runners([metrics])
            return [results[position] for position, _ in jobs]
        results = {}
        for _ in range(MAX_SAMPLING_ATTEMPTS):
            runner_ids = self._await_runners()
            pending = [job for job in jobs if job[0] not in results]
            shards = [pending[k :: len(runner_ids)] for k in range(min(len(runner_ids), len(pending)))]
            parts = group.foreach_env_runner(
                [lambda runner, s=s: work(runner, s) for s in shards],
                remote_worker_ids=runner_ids[: len(shards)],
                local_env_runner=False,
                timeout_seconds=self.config.sample_timeout_s,
            )
            for part, _ in parts:
                results.update(part)
            self._log_runners([metrics for _, metrics in parts])
            if len(results) == len(jobs):
                return [results[position] for position, _ in jobs]
            self._restore_runners()
        raise RuntimeError(
            f"runners: {len(jobs) - len(results)} of {len(jobs)} episodes are missing after {MAX_SAMPLING_ATTEMPTS} "
            "attempts; the runners' logs say why"
        )

    def _await_runners(self) -> list[int]:
        """The runners that can work. If there is none, it waits for one: a call to one that restarts fails at once."""
        deadline = time.monotonic() + self.config.env_runner_restore_timeout_s
        while not (runner_ids := self.env_runner_group.healthy_env_runner_ids()):
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"runners: none came back within {self.config.env_runner_restore_timeout_s} s "
                    "(env_runner_restore_timeout_s); the runners' logs say why"
                )
            self._restore_runners()
        return runner_ids

    def _restore_runners(self) -> None:
        """Take restarted runners back into service, if there are any yet."""
        time.sleep(self.config.delay_between_env_runner_restarts_s)
        self.restore_env_runners(self.env_runner_group)
        self._sync_weights()

    def _log_runners(self, metrics: Sequence[Any]) -> None:
        self.metrics.aggregate([part for part in metrics if part is not None], key=ENV_RUNNER_RESULTS)

    # ---- update

    def _update(self, groups: Sequence[TrainingGroup]) -> None:
        """Deal the groups to the learners and take the optimizer steps."""
        steps = plan_steps(
            groups,
            num_learners=self.config.num_learners,
            groups_per_step=self.config.groups_per_step,
            micro_batch_groups=self.config.micro_batch_groups,
            num_iterations=self.config.num_iterations,
            # bnpo divides by what a micro-batch holds, so there a silent group changes the weight of others.
            skip_silent=self.config.kl_coeff == 0 and self.config.loss != "bnpo",
            seed=(self.config.seed or 0, self._num_iterations_done),
        )
        # Counted here for schedules: a runner that died took its own count with it.
        num_steps = (self._num_iterations_done + 1) * self.config.groups_per_iteration * self.config.group_size
        results = self.learner_group.update(
            training_data=GroupTrainingData(groups=dict(enumerate(groups)), steps=steps),
            timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: num_steps},
        )
        self.metrics.aggregate(results, key=LEARNER_RESULTS)

    # ---- sync

    def _sync_weights(self) -> None:
        """Push the trained weights to every runner, and wait until they have them.

        Those of remote learners go from the object store to the runners; here there is only a reference to them.
        RLlib's own `sync_weights` does not wait, and drops a push while an earlier one is being applied.
        """
        state = self._inference_state()
        self._weights_seq_no = state[WEIGHTS_SEQ_NO]
        group = self.env_runner_group
        if group.num_remote_env_runners() == 0:
            group.local_env_runner.set_state(state)
            return
        group.foreach_env_runner(
            "set_state",
            kwargs={"state": ray.put(state)},
            local_env_runner=False,
            timeout_seconds=self.config.sample_timeout_s,
        )

    def _inference_state(self) -> dict[str, Any]:
        """What a runner needs: the weights or a reference to them, and their number."""
        state = self.learner_group.get_state(
            components=f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}", inference_only=True
        )[COMPONENT_LEARNER]
        return {key: state[key] for key in (COMPONENT_RL_MODULE, WEIGHTS_SEQ_NO)}

    def _on_first_runner(self, method: str) -> Any:
        """Call a method on one runner; they are all alike."""
        group = self.env_runner_group
        if group.num_remote_env_runners() == 0:
            return getattr(group.local_env_runner, method)()
        return group.foreach_env_runner(
            method, remote_worker_ids=group.healthy_env_runner_ids()[:1], local_env_runner=False
        )[0]

    # ---- checkpoints

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state, and how far the episodes have been used."""
        return super().get_state(*args, **kwargs) | {"num_iterations_done": self._num_iterations_done}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where `get_state` was called: the same episodes, seeds and weights."""
        super().set_state(state)
        self._num_iterations_done = state.get("num_iterations_done", self._num_iterations_done)
        self._sync_weights()
