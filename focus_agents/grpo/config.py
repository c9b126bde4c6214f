"""The settings of GRPO in RLlib's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

import focus_env
from focus_agents.engine.grammar import largest_coordinate
from focus_agents.grpo.env_runner import GRPOEnvRunner
from focus_agents.grpo.evaluation import evaluate_greedily
from focus_agents.grpo.learner import GRPOTorchLearner
from focus_agents.grpo.learner_group import GRPOLearnerGroup
from focus_agents.grpo.module import VLMModule
from focus_agents.grpo.rllib_checks import check_rllib_settings
from focus_agents.grpo.rllib_compat import given_model_config
from focus_agents.grpo.settings import GRPOSettings
from focus_agents.models.loading import load_template
from focus_agents.models.settings import ModelSettings
from focus_agents.settings import as_dict, names_of
from focus_env.prompts import PromptTemplate, get_template

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
    """

    def __init__(self, algo_class: type | None = None) -> None:
        from focus_agents.grpo.algorithm import GRPO

        super().__init__(algo_class=algo_class or GRPO)
        # Attributes one by one, not a record: Tune looks for search spaces in them.
        for name, default in as_dict(GRPOSettings()).items():
            setattr(self, name, default)
        self.validation_env_config: Mapping[str, Any] | None = None

        self.grad_clip_by = "global_norm"
        self.seed = 0
        self.env = focus_env.ENV_ID
        self.env_runner_cls = GRPOEnvRunner
        self.num_env_runners = 0
        self.sample_timeout_s = self.evaluation_sample_timeout_s = 1800.0
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
        """Set the environment that `GRPO.validate` answers in."""
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
        given = self.env_config.get("template")
        return load_template(self.model_settings.model) if given is None else get_template(given)

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
        settings, num_learners = self.settings, max(1, self.num_learners)
        _ = self.model_settings
        if settings.groups_per_iteration < num_learners:
            raise ValueError(
                f"groups_per_iteration: expected {num_learners} or more, got {settings.groups_per_iteration}"
            )
        if settings.groups_per_step is not None and settings.groups_per_step < num_learners:
            raise ValueError(
                f"groups_per_step: expected at least one group for each of {num_learners} learners, "
                f"got {settings.groups_per_step}"
            )
        # RLlib makes a copy of these settings for its own evaluation, without runners.
        if settings.async_steps and self.num_env_runners == 0 and not self.in_evaluation:
            raise ValueError("async_steps: expected 0 where sampling has no process of its own; set num_env_runners")
        num_batches = -(-settings.groups_per_iteration // settings.rollout_batch_groups)
        if self.num_env_runners > num_batches and not self.in_evaluation:
            raise ValueError(
                f"rollout_batch_groups: expected a batch for each of {self.num_env_runners} EnvRunners, got "
                f"{settings.rollout_batch_groups}, which makes {num_batches} of {settings.groups_per_iteration} "
                f"groups; set at most {max(1, settings.groups_per_iteration // self.num_env_runners)}, or raise "
                "groups_per_iteration"
            )
        if settings.constrained:
            largest_coordinate(self.template.frame)

    @property
    def validation_batch_size(self) -> int:
        """Validation episodes that are answered together: more than groups, since each has one answer."""
        return 2 * int(self.rollout_batch_groups)

    @property
    def can_reuse_prefill(self) -> bool:
        """Whether the sampler's forward pass over the prompts can be the learner's, if they share a process.

        That is, if the policy is updated once per iteration, and memory suffices for all groups at once.
        """
        settings = self.settings
        takes_one_step = settings.groups_per_step is None and settings.num_passes == 1
        is_at_once = settings.micro_batch_groups is None and settings.loss != "bnpo"
        checkpoints = self.model_settings.gradient_checkpointing
        return takes_one_step and is_at_once and settings.shared_prefix != "off" and not checkpoints

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Our module."""
        return RLModuleSpec(module_class=VLMModule)

    def get_default_learner_class(self) -> type[GRPOTorchLearner]:
        """Our learner."""
        return GRPOTorchLearner

    def build_learner_group(
        self,
        *,
        env: Any = None,
        spaces: Mapping[str, Any] | None = None,
        rl_module_spec: Any = None,
        placement_group: Any = None,
    ) -> GRPOLearnerGroup:
        """Our learner group, built as RLlib builds its own."""
        return GRPOLearnerGroup(
            config=self.copy(),
            module_spec=rl_module_spec or self.get_multi_rl_module_spec(env=env, spaces=spaces),
            placement_group=placement_group,
        )

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        """What the module has to know of these settings."""
        own: dict[str, Any] = {name: getattr(self, name) for name in FOR_THE_MODULE}
        own["largest_coordinate"] = largest_coordinate(self.template.frame) if self.constrained else None
        own["seed"] = self.seed or 0
        return super()._model_config_auto_includes | as_dict(ModelSettings()) | own
