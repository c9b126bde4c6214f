"""An RLlib algorithm as a set of processes: named after its run, measured, and writing nothing outside of it.

Each process has the weights once: learners, and runners that are processes of their own, hold theirs, and all that is
in the driver's process shares one module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.exceptions import RayError
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, LEARNER_RESULTS

from focus_agents.grpo.rllib_compat import local_learner
from focus_agents.grpo.runners import Runners
from focus_agents.processes.memory import MEMORY, memory_gib
from focus_agents.processes.names import naming_grpo


class NamedAlgorithm(Algorithm):
    """An algorithm whose configuration says by `run_folder` which run it is; else it is named after its trial, if any.

    Trials of Tune are named by `trial_name`; an algorithm that is neither has processes without a run's name.
    """

    def setup(self, config: Any) -> None:
        """Build runners and learners (RLlib), with names."""
        with naming_grpo(self.run_name):
            super().setup(config)
        self.learner_group.run_name = self.run_name

    @property
    def run_name(self) -> str | None:
        """The run's name, or the trial's; None: there is neither."""
        folder = self.config.run_folder
        if folder is not None:
            return Path(folder).name
        name = self.trial_name
        return None if name in (None, "default") else str(name)

    @property
    def learned_module(self) -> Any | None:
        """The learner's module, if it is in this process."""
        learner = local_learner(self.learner_group)
        return None if learner is None else learner.module[DEFAULT_MODULE_ID].unwrapped()

    def share_module(self, *, reuses_prefill: bool) -> None:
        """Let all runners in this process answer by one module: the learner's if it is here, else the sampler's.

        Args:
            reuses_prefill: Whether a learner here takes the forward passes over prompts from the sampler.
        """
        groups = (self.env_runner_group, self.eval_env_runner_group)
        sampling, evaluating = (None if group is None else group.local_env_runner for group in groups)
        module = self.learned_module
        if module is not None and sampling is not None:
            sampling.share_module(module, reuses_prefill=reuses_prefill)
        elif sampling is not None and self.env_runner_group.num_remote_env_runners() == 0 and evaluating is not None:
            module = sampling.module
        if module is not None and evaluating is not None:
            evaluating.share_module(module, reuses_prefill=False)

    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        """Take restarted runners back into service (RLlib), also where a learner has died meanwhile."""
        try:
            return list(super().restore_env_runners(env_runner_group))
        except (IndexError, RayError):  # RLlib asks a learner for its module
            self.learner_group.revive()
            return list(super().restore_env_runners(env_runner_group))

    def process_metrics(self, samplers: Runners) -> dict[str, float]:
        """Return restarts so far and resident memory, by names of `runs.metrics.METRICS`.

        Args:
            samplers: The runners that sample.
        """
        measured: dict[str, float] = {}
        memory = {"driver": memory_gib()}
        if samplers.local is None:
            measured["sampler_restarts"] = float(samplers.num_restarts)
            memory["samplers"] = self.metrics.peek((ENV_RUNNER_RESULTS, MEMORY), default=0.0)
        if self.config.num_learners > 0:
            measured["learner_restarts"] = float(self.learner_group.num_rebuilds)
            memory["learners"] = self.metrics.peek((LEARNER_RESULTS, DEFAULT_MODULE_ID, MEMORY), default=0.0)
        parts = {f"{MEMORY}/{role}": float(size) for role, size in memory.items() if size > 0}
        return {**measured, MEMORY: max(parts.values()), **parts}

    def _setup_logdir(self) -> None:
        # Overridden because RLlib makes a folder for each algorithm in the user's home, which it leaves empty.
        if self.config.run_folder is None:
            super()._setup_logdir()
        else:
            self._logdir = str(self.config.run_folder)
