"""An RLlib algorithm whose processes are named after its run, and that writes nothing outside of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm

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

    def _setup_logdir(self) -> None:
        # Overridden because RLlib makes a folder for each algorithm in the user's home, which it leaves empty.
        if self.config.run_folder is None:
            super()._setup_logdir()
        else:
            self._logdir = str(self.config.run_folder)
