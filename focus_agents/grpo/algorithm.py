"""GRPO as an RLlib algorithm: `training_step` is sample, advantage, update, sync."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import (
    COMPONENT_EVAL_ENV_RUNNER,
    COMPONENT_LEARNER,
    COMPONENT_RL_MODULE,
    DEFAULT_MODULE_ID,
)
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

from focus_agents.grpo.config import GRPOConfig
from focus_agents.grpo.evaluation import log_episodes
from focus_agents.grpo.plan import GroupTrainingData, TrainingGroup, plan_steps
from focus_agents.grpo.rllib_compat import local_learner, weights_number
from focus_agents.grpo.runners import Job, Request, Runners
from focus_agents.grpo.selection import make_training_groups, split_by_signal
from focus_agents.models.adapters import merge_adapters
from focus_agents.rollout.records import RolloutGroup, without_prefix
from focus_agents.runs.checkpoint import save_policy
from focus_agents.runs.metrics import rollout_metrics
from focus_env.datasets.order import shuffled_indices
from focus_env.metrics import ScoredAnswer
from focus_env.prompts import get_template

ROLLOUTS = "rollouts"


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
        self._num_groups_drawn = 0
        self._weights_seq_no = 0
        self._ahead: Request[RolloutGroup] | None = None
        self._runners = Runners(self, self.env_runner_group, self.config, self._log_runners)
        self._evaluation_runners = self._runners
        if self.eval_env_runner_group is not None:
            self._evaluation_runners = Runners(self, self.eval_env_runner_group, self.evaluation_config)
        self._share_module()
        self._num_episodes: int = self._runners.ask_one("num_episodes")
        self._num_evaluation_episodes: int = self._evaluation_runners.ask_one("num_evaluation_episodes")
        self.last_groups: list[RolloutGroup] = []
        self.last_evaluation: list[ScoredAnswer] = []
        self._sync_weights()

    def _share_module(self) -> None:
        """Let runners in the learner's process use its module instead of copies."""
        if self.config.num_learners > 0:
            return
        module = local_learner(self.learner_group).module[DEFAULT_MODULE_ID].unwrapped()
        if (evaluating := self._evaluation_runners.local) is not None:
            evaluating.share_module(module, reuses_prefill=False)
        if (sampling := self._runners.local) is not None:
            sampling.share_module(module, reuses_prefill=self.config.can_reuse_prefill)

    def training_step(self) -> None:
        """Sample groups, compare the answers within each, update the policy, hand the new weights to the runners."""
        with self._time(ENV_RUNNER_SAMPLING_TIMER):
            sampled = self._sample_groups()
            groups = self._refill(sampled)
        if self.config.async_steps:
            self._ahead = self._request_groups(self._num_iterations_done + 1, self.config.groups_per_iteration)
        with self._time(LEARNER_UPDATE_TIMER):
            self._update(make_training_groups(groups, self.config))
        self._num_iterations_done += 1
        with self._time(SYNCH_WORKER_WEIGHTS_TIMER):
            self._sync_weights()
        self.last_groups = [without_prefix(group) for group in groups]
        self.metrics.log_dict(rollout_metrics(sampled), key=ROLLOUTS, window=1)
        returns = [float(reward) for group in sampled for reward in group.rewards]
        log_episodes(self.metrics, returns, key=(ENV_RUNNER_RESULTS,))

    def validate(self, episode_indices: Sequence[int]) -> list[ScoredAnswer]:
        """Answer validation episodes greedily with the current weights, spread over the runners, in the order given."""

        def answer(runner: Any, jobs: Sequence[Job]) -> tuple[dict[int, ScoredAnswer], None]:
            answers = runner.validate(episode_indices=[index for _, index in jobs])
            return {position: answer for (position, _), answer in zip(jobs, answers, strict=True)}, None

        return self._runners.run(list(enumerate(episode_indices)), answer, batch_size=self.config.validation_batch_size)

    def answer_evaluation_episodes(self) -> list[tuple[float, ScoredAnswer]]:
        """Answer the first `evaluation_duration` episodes of RLlib's evaluation, or all if there are fewer.

        Returns:
            In their order the reward and the score of a greedy answer by the current weights, whichever runners answer.
        """
        runners = self._evaluation_runners
        if runners is not self._runners:
            # RLlib has sent the weights, but not to a runner that was still taking earlier ones.
            runners.push(self._inference_state(runners))
        number = self._weights_seq_no

        def answer(runner: Any, jobs: Sequence[Job]) -> tuple[dict[int, tuple[float, ScoredAnswer]], None]:
            answers = runner.evaluate(episode_indices=[index for _, index in jobs], weights_seq_no=number)
            return {position: answer for (position, _), answer in zip(jobs, answers, strict=True)}, None

        count = min(self.config.evaluation_duration, self._num_evaluation_episodes)
        size = self.evaluation_config.validation_batch_size
        return runners.run(list(enumerate(range(count))), answer, batch_size=size)

    def save_policy(self, directory: Path) -> Path:
        """Write the policy in transformers' format; `load_model` and `--init-from` read it."""
        with torch.no_grad():
            module = self.config.get_rl_module_spec(spaces=self.spaces, inference_only=True).build()
            module.set_state(self.learner_group.get_weights()[DEFAULT_MODULE_ID])
            template = get_template(self.config.env_config.get("template", "default"))
            return save_policy(directory, merge_adapters(module.policy), module.processor, template=template)

    def _time(self, timer: str) -> Any:
        """Log the seconds of this iteration alone; RLlib's default average remembers a slow first one for hundreds."""
        return self.metrics.log_time((TIMERS, timer), reduce="mean", window=1)

    # ---- sample

    def _sample_groups(self) -> list[RolloutGroup]:
        """This iteration's groups, in order: those asked for in the iteration before, or new ones."""
        request, self._ahead = self._ahead, None
        if request is None:
            request = self._request_groups(self._num_iterations_done, self.config.groups_per_iteration)
        return self._runners.collect(request)

    def _request_groups(self, iteration: int, count: int, *, first: int = 0) -> Request[RolloutGroup]:
        """Ask the runners for groups of the next episodes, from the weights that they have.

        Args:
            iteration: With the position in it, seeds a group.
            count: How many groups.
            first: Position of the first.
        """
        indices = shuffled_indices(
            self._num_groups_drawn, count, num_episodes=self._num_episodes, seed=self.config.seed or 0
        )
        self._num_groups_drawn += count
        arguments = {"iteration": iteration, "weights_seq_no": self._weights_seq_no}

        def sample(runner: Any, jobs: Sequence[Job]) -> tuple[dict[int, RolloutGroup], Any]:
            return runner.sample(jobs=jobs, **arguments), runner.get_metrics()

        jobs = list(enumerate(indices, start=first))
        return self._runners.submit(jobs, sample, batch_size=self.config.rollout_batch_groups)

    def _refill(self, sampled: list[RolloutGroup]) -> list[RolloutGroup]:
        """With dynamic sampling: groups with signal, in the place of those without; what was sampled is added to."""
        if self.config.zero_variance != "refill":
            return sampled
        count = len(sampled)
        chosen, silent = split_by_signal(sampled, self.config)
        for _ in range(self.config.max_refills):
            if len(chosen) == count:
                break
            request = self._request_groups(self._num_iterations_done, count - len(chosen), first=len(sampled))
            more = self._runners.collect(request)
            sampled += more
            others, still_silent = split_by_signal(more, self.config)
            chosen, silent = chosen + others, silent + still_silent
        return (chosen + silent)[:count]

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
        # By the plan, not by what runners counted, so that schedules are a function of the iteration alone.
        num_steps = (self._num_iterations_done + 1) * self.config.groups_per_iteration * self.config.group_size
        results = self.learner_group.update(
            training_data=GroupTrainingData(groups=dict(enumerate(groups)), steps=steps),
            timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: num_steps},
        )
        self.metrics.aggregate(results, key=LEARNER_RESULTS)

    # ---- sync

    def _sync_weights(self) -> None:
        """Push the trained weights to every runner.

        Those of remote learners go from the object store to the runners; here there is only a reference to them.
        """
        state = self._inference_state(self._runners)
        self._weights_seq_no = state[WEIGHTS_SEQ_NO]
        self._runners.push(state)

    def _inference_state(self, runners: Runners) -> dict[str, Any]:
        """Return what runners need: the weights or a reference to them, and their number."""
        if runners.local is not None and self.config.num_learners == 0:  # one model
            return {COMPONENT_RL_MODULE: {}, WEIGHTS_SEQ_NO: weights_number(local_learner(self.learner_group))}
        state = self.learner_group.get_state(
            components=f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}", inference_only=True
        )[COMPONENT_LEARNER]
        return {key: state[key] for key in (COMPONENT_RL_MODULE, WEIGHTS_SEQ_NO)}

    # ---- checkpoints

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state, how far the episodes have been used, and groups that are sampled ahead."""
        own: dict[str, Any] = {
            "num_iterations_done": self._num_iterations_done,
            "num_groups_drawn": self._num_groups_drawn,
        }
        if self._ahead is not None:
            own["groups_ahead"] = self._runners.collect(self._ahead)
        state = super().get_state(*args, **kwargs)
        state.pop(COMPONENT_EVAL_ENV_RUNNER, None)
        return state | own

    def get_checkpointable_components(self) -> list[tuple[str, Any]]:
        """RLlib's, without the runners of its evaluation: all that they have are weights, sent before each use."""
        return [part for part in super().get_checkpointable_components() if part[0] != COMPONENT_EVAL_ENV_RUNNER]

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where `get_state` was called: the same episodes, seeds and weights."""
        super().set_state(state)
        self._num_iterations_done = state.get("num_iterations_done", self._num_iterations_done)
        self._num_groups_drawn = state.get("num_groups_drawn", self._num_groups_drawn)
        self._ahead = None
        if "groups_ahead" in state:
            self._ahead = Request.done(state["groups_ahead"])
        self._sync_weights()
