"""GRPO as an RLlib algorithm: its configuration, and `training_step`, which is sample, advantage, update, sync."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import COMPONENT_EVAL_ENV_RUNNER, COMPONENT_LEARNER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
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

import focus_env
from focus_agents.engine.grammar import largest_coordinate
from focus_agents.grpo.env_runner import GRPOEnvRunner
from focus_agents.grpo.evaluation import evaluate_greedily, log_episodes
from focus_agents.grpo.learner import GRPOTorchLearner
from focus_agents.grpo.learner_group import GRPOLearnerGroup
from focus_agents.grpo.module import VLMModule
from focus_agents.grpo.named import NamedAlgorithm
from focus_agents.grpo.rllib_checks import check_processes, check_rllib_settings
from focus_agents.grpo.rllib_compat import given_model_config, local_learner, weights_number
from focus_agents.grpo.runners import Runners
from focus_agents.grpo.sampling import GroupSampler
from focus_agents.grpo.selection import training_data
from focus_agents.grpo.settings import GRPOSettings
from focus_agents.grpo.steps import GroupTrainingData
from focus_agents.models.adapters import has_adapters
from focus_agents.models.loading import load_template
from focus_agents.models.settings import ModelSettings, SavedForm
from focus_agents.rollout.records import RolloutGroup, released
from focus_agents.runs.checkpoint import save_policy
from focus_agents.runs.scores import rollout_metrics
from focus_agents.settings import as_dict, names_of
from focus_env.metrics import ScoredAnswer
from focus_env.prompts import PromptTemplate, get_template

ROLLOUTS = "rollouts"

FOR_THE_MODULE = ("kl_coeff", "temperature", "constrained", "shared_prefix")
"""Settings that the module has to know."""


class GRPOConfig(AlgorithmConfig):
    """Configures `GRPO`.

    Each field of `GRPOSettings` is an attribute, set by `training`. The model is named by
    ``.rl_module(model_config={"model": ..., "lora_rank": ...})``, whose keys and defaults are those of `ModelSettings`.
    Everything else is RLlib's. For example:

    >>> config = GRPOConfig().environment(env_config={"dataset": "synthetic"}).training(group_size=4, lr=1e-4)
    >>> config.settings.group_size
    4

    Attributes:
        validation_env_config: Arguments of the environment that `GRPO.validate` answers in; None: there is none.
        run_folder: The run whose name the processes on Ray carry, and which RLlib's own files go to; None: RLlib's.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or GRPO)
        # Attributes one by one, not a record: Tune looks for search spaces in them.
        for name, default in as_dict(GRPOSettings()).items():
            setattr(self, name, default)
        self.validation_env_config: Mapping[str, Any] | None = None
        self.run_folder: str | None = None

        self.grad_clip_by = "global_norm"
        self.seed = 0
        self.env = focus_env.ENV_ID
        self.env_runner_cls = GRPOEnvRunner
        self.num_env_runners = 0
        self.evaluation_sample_timeout_s = 1800.0
        self.custom_evaluation_function = evaluate_greedily
        self.log_gradients = True  # their norm is a metric, also where nothing is clipped by it
        # A runner that raises sleeps this long before it exits; RLlib's 60 s make a bug look like a hang.
        self.delay_between_env_runner_restarts_s = 2.0
        # Runners return whole groups and the learner makes its own tensors: no connector has anything to do.
        self.add_default_connectors_to_env_to_module_pipeline = False
        self.add_default_connectors_to_module_to_env_pipeline = False
        self.add_default_connectors_to_learner_pipeline = False

    def training(self, **settings: Any) -> GRPOConfig:
        """Set fields of `GRPOSettings`; other arguments go to RLlib's `training`.

        Args:
            settings: By name, e.g. ``group_size=8, lr=1e-4``.

        Raises:
            TypeError: If neither knows a name.
        """
        own = names_of(GRPOSettings)
        super().training(**{name: value for name, value in settings.items() if name not in own})
        for name in own & settings.keys():
            setattr(self, name, settings[name])
        return self

    def validation(self, *, env_config: Mapping[str, Any] | None) -> GRPOConfig:
        """Set the environment that `GRPO.validate` and RLlib's evaluation answer in."""
        self.validation_env_config = env_config
        return self

    @property
    def settings(self) -> GRPOSettings:
        """The settings as a record, checked.

        Raises:
            ValueError: If one is out of its range.
        """
        return GRPOSettings(**{name: getattr(self, name) for name in names_of(GRPOSettings)})

    @property
    def model_settings(self) -> ModelSettings:
        """The model and how it is trained, checked.

        Raises:
            ValueError: If one is out of its range.
        """
        # Not `model_config`, which RLlib joins with what is made of this.
        given = given_model_config(self)
        return ModelSettings(**{name: given[name] for name in names_of(ModelSettings) if name in given})

    @property
    def template(self) -> PromptTemplate:
        """The prompt: the environment's, or else the one that the model was trained on."""
        given, own = self.env_config.get("template"), self.model_settings
        return load_template(own.model, max_image_tokens=own.max_image_tokens) if given is None else get_template(given)

    def get_evaluation_config_object(self) -> GRPOConfig | None:
        """Return the settings of RLlib's evaluation; None: these are already.

        Its episodes are those of `evaluation_config`'s `env_config`, else those of `validation`, else those that are
        trained on.
        """
        config = super().get_evaluation_config_object()
        if config is None:
            return None
        if self.validation_env_config is not None and "env_config" not in (self.evaluation_config or {}):
            config.env_config = dict(self.validation_env_config)
        config.validation_env_config = None  # one environment is enough
        config.sample_timeout_s = self.evaluation_sample_timeout_s
        # Beside runners of its own, one in this process would only be a model more.
        config.create_local_env_runner = config.num_env_runners == 0
        return config

    def validate(self) -> None:
        """Check the settings before anything is built.

        Raises:
            ValueError: If a setting is out of its range.
        """
        check_rllib_settings(self)
        super().validate()
        check_processes(self, self.settings)
        self.model_settings.check()
        if self.constrained:
            largest_coordinate(self.template.frame)
            if not self.template.has_plain_answers:
                raise ValueError(
                    "constrained: expected a template without thoughts whose answers are <answer>[...]</answer>, got "
                    f"{self.template.name!r}; choose another `template`, or sample without `constrained`"
                )

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Return our module."""
        return RLModuleSpec(module_class=VLMModule)

    def get_default_learner_class(self) -> type[GRPOTorchLearner]:
        """Return our learner."""
        return GRPOTorchLearner

    def build_learner_group(
        self,
        *,
        env: Any = None,
        spaces: Mapping[str, Any] | None = None,
        rl_module_spec: Any = None,
        placement_group: Any = None,
    ) -> GRPOLearnerGroup:
        """Build our learner group as RLlib builds its own."""
        return GRPOLearnerGroup(
            config=self.copy(),
            module_spec=rl_module_spec or self.get_multi_rl_module_spec(env=env, spaces=spaces),
            placement_group=placement_group,
        )

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        """Return the settings that the module has to know."""
        # Overridden because RLlib builds modules, on runners and learners, from model_config alone.
        own: dict[str, Any] = {name: getattr(self, name) for name in FOR_THE_MODULE} | {"seed": self.seed or 0}
        own["largest_coordinate"] = largest_coordinate(self.template.frame) if self.constrained else None
        own["allow_absent"] = self.template.allow_absent
        return super()._model_config_auto_includes | as_dict(ModelSettings()) | own


class GRPO(NamedAlgorithm):
    """Group-relative policy optimization of a vision-language policy in a localization environment.

    Attributes:
        last_groups: Groups that the last update learned from, without the forward passes of their prompts. If other
            processes sample, the groups have no prompts, either.
        last_evaluation: Answers of RLlib's last evaluation, in the order of its episodes.

    Source: arXiv:2402.03300 (GRPO), arXiv:2605.31145 (FOCUS, stage 2).
    """

    @classmethod
    def get_default_config(cls) -> GRPOConfig:
        """Return our config, for RLlib."""
        return GRPOConfig()

    def setup(self, config: Any) -> None:
        """Build runners and learners (RLlib), and number the weights that they share."""
        super().setup(config)
        self._num_iterations_done = 0
        self._weights_seq_no = 0
        self._runners = Runners(self, self.env_runner_group, self.config, self._log_runners)
        self._evaluation_runners = self._runners
        if self.eval_env_runner_group is not None:
            self._evaluation_runners = Runners(self, self.eval_env_runner_group, self.evaluation_config)
        # Checkpointing computes activations again in the backward pass, so that sampling leaves none.
        reuses_prefill = self.config.settings.is_one_pass and not self.config.model_settings.gradient_checkpointing
        self.share_module(reuses_prefill=reuses_prefill)
        self._sampler = GroupSampler(
            self._runners, self.config.settings, seed=self.config.seed or 0, num_learners=self.config.num_learners
        )
        self._num_evaluation_episodes: int = self._evaluation_runners.ask_one("num_evaluation_episodes")
        self.last_groups: list[RolloutGroup] = []
        self.last_evaluation: list[ScoredAnswer] = []
        self._sync_weights()

    def training_step(self) -> None:
        """Sample groups, compare the answers within each, update the policy, hand the new weights to the runners."""
        measured = {"queue_depth": float(self._sampler.num_waiting())} if self.config.async_steps else {}
        with self._time(ENV_RUNNER_SAMPLING_TIMER):
            sampled, groups = self._sampler.draw(self._num_iterations_done, self._weights_seq_no)
        if self.config.async_steps:
            self._sampler.ask_ahead(self._num_iterations_done + 1, self._weights_seq_no)
        with self._time(LEARNER_UPDATE_TIMER):
            seed = (self.config.seed or 0, self._num_iterations_done)
            self._update(training_data(groups, self.config.settings, num_learners=self.config.num_learners, seed=seed))
            self._sampler.release()
        self._num_iterations_done += 1
        with self._time(SYNCH_WORKER_WEIGHTS_TIMER):
            self._sync_weights()
        self.last_groups = [released(group) for group in groups]
        measured |= rollout_metrics(sampled) | self._sampler.failures(sampled) | self.process_metrics(self._runners)
        self.metrics.log_dict(measured, key=ROLLOUTS, window=1)
        returns = [float(reward) for group in sampled for reward in group.rewards]
        log_episodes(self.metrics, returns, key=(ENV_RUNNER_RESULTS,))

    def validate(self, episode_indices: Sequence[int]) -> list[ScoredAnswer]:
        """Answer validation episodes greedily with the current weights, spread over the runners, in the order given."""
        batch_size = self.config.settings.num_validated_together
        return self._runners.answer("validate", episode_indices, batch_size=batch_size)

    def answer_evaluation_episodes(self) -> list[tuple[float, ScoredAnswer]]:
        """Answer the first `evaluation_duration` episodes of RLlib's evaluation, or all if there are fewer.

        Returns:
            In their order the reward and the score of a greedy answer by the current weights, whichever runners answer.
        """
        runners = self._evaluation_runners
        if runners is not self._runners:
            # RLlib has sent the weights, but not to a runner that was still taking earlier ones.
            runners.push(self._inference_state(runners))
        indices = range(min(self.config.evaluation_duration, self._num_evaluation_episodes))
        batch_size = self.evaluation_config.settings.num_validated_together
        return runners.answer("evaluate", indices, batch_size=batch_size, weights_seq_no=self._weights_seq_no)

    def save_policy(self, directory: Path, *, form: SavedForm = "merged") -> Path:
        """Write the policy in transformers' format, or its adapter in PEFT's; `load_model` reads both."""
        with torch.no_grad():
            module = self.learned_module
            if module is None or (form != "adapter" and has_adapters(module.policy)):  # merging uses adapters up
                spec = self.config.get_rl_module_spec(spaces=self.spaces, inference_only=True)
                spec.model_config = {**spec.model_config, "quantization": "none"}  # the driver may have no GPU for it
                module = spec.build()
                module.set_state(self.learner_group.get_weights()[DEFAULT_MODULE_ID])
            own: dict[str, Any] = {"template": self.config.template, "pictures": module.pictures, "form": form}
            return save_policy(directory, module.policy, module.processor, **own)

    def _time(self, timer: str) -> Any:
        """Log the seconds of this iteration alone; RLlib's default average remembers a slow first one for hundreds."""
        return self.metrics.log_time((TIMERS, timer), reduce="mean", window=1)

    def _log_runners(self, metrics: Sequence[Any]) -> None:
        self.metrics.aggregate([part for part in metrics if part is not None], key=ENV_RUNNER_RESULTS)

    def _update(self, data: GroupTrainingData) -> None:
        """Take the optimizer steps of an iteration."""
        # By the plan, not by what runners counted, so that schedules are a function of the iteration alone.
        num_steps = (self._num_iterations_done + 1) * self.config.groups_per_iteration * self.config.group_size
        timesteps = {NUM_ENV_STEPS_SAMPLED_LIFETIME: num_steps}
        results = self.learner_group.update(training_data=data, restore=self._sampler.restore, timesteps=timesteps)
        self.metrics.aggregate(results, key=LEARNER_RESULTS)

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
        """Return RLlib's state, how far the episodes have been used, and groups that are sampled ahead."""
        own = {"num_iterations_done": self._num_iterations_done, **self._sampler.get_state()}
        state = super().get_state(*args, **kwargs)
        state.pop(COMPONENT_EVAL_ENV_RUNNER, None)
        return state | own

    def get_checkpointable_components(self) -> list[tuple[str, Any]]:
        """Return RLlib's components but the runners of its evaluation: they have only weights, sent before each use."""
        return [part for part in super().get_checkpointable_components() if part[0] != COMPONENT_EVAL_ENV_RUNNER]

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where `get_state` was called: the same episodes, seeds and weights."""
        super().set_state(state)
        self._num_iterations_done = state.get("num_iterations_done", self._num_iterations_done)
        self._sampler.set_state(state)
        self._sync_weights()
