"""The settings of GRPO, in RLlib's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

import focus_env
from focus_agents.grpo.advantage import AdvantageScale
from focus_agents.grpo.env_runner import GRPOEnvRunner
from focus_agents.grpo.learner import GRPOTorchLearner
from focus_agents.grpo.learner_group import GRPOLearnerGroup
from focus_agents.grpo.module import VLMModule


class GRPOConfig(AlgorithmConfig):
    """Configures `GRPO`.

    The model is named by ``.rl_module(model_config={"model": ..., "lora_rank": ...})``; what is specific to GRPO is set
    by `training`; everything else is RLlib's. For example:

    >>> config = GRPOConfig().environment(env_config={"dataset": "synthetic"}).training(group_size=8, lr=1e-4)
    >>> config.group_size
    8
    """

    def __init__(self, algo_class: type | None = None) -> None:
        from focus_agents.grpo.algorithm import GRPO

        super().__init__(algo_class=algo_class or GRPO)
        self.group_size = 8
        self.groups_per_iteration = 16
        self.groups_per_step: int | None = None
        self.num_iterations = 1
        self.micro_batch_groups: int | None = None
        self.rollout_batch_groups = 16
        self.clip_low = 0.2
        self.clip_high = 0.2
        self.kl_coeff = 0.0
        self.advantage_scale: AdvantageScale = "group"
        self.temperature = 1.0
        self.max_completion_tokens = 48
        self.weight_decay = 0.0
        self.update_timeout_s = 1800.0
        self.max_update_attempts = 3
        self.validation_env_config: Mapping[str, Any] | None = None

        self.lr = 1e-5
        self.grad_clip = 1.0
        self.grad_clip_by = "global_norm"
        self.seed = 0
        self.env = focus_env.ENV_ID
        self.env_runner_cls = GRPOEnvRunner
        self.num_env_runners = 0
        self.sample_timeout_s = 1800.0
        # A runner that raises sleeps this long before it exits; RLlib's 60 s make a bug look like a hang.
        self.delay_between_env_runner_restarts_s = 2.0
        # Runners return whole groups and the learner makes its own tensors: no connector has anything to do.
        self.add_default_connectors_to_env_to_module_pipeline = False
        self.add_default_connectors_to_module_to_env_pipeline = False
        self.add_default_connectors_to_learner_pipeline = False

    def training(
        self,
        *,
        group_size: int = NotProvided,
        groups_per_iteration: int = NotProvided,
        groups_per_step: int | None = NotProvided,
        num_iterations: int = NotProvided,
        micro_batch_groups: int | None = NotProvided,
        rollout_batch_groups: int = NotProvided,
        clip_low: float = NotProvided,
        clip_high: float = NotProvided,
        kl_coeff: float = NotProvided,
        advantage_scale: AdvantageScale = NotProvided,
        temperature: float = NotProvided,
        max_completion_tokens: int = NotProvided,
        weight_decay: float = NotProvided,
        update_timeout_s: float = NotProvided,
        max_update_attempts: int = NotProvided,
        **kwargs: Any,
    ) -> GRPOConfig:
        """Set what is specific to GRPO; other arguments go to RLlib's `training`.

        Args:
            group_size: Answers sampled per episode.
            groups_per_iteration: Episodes sampled per training iteration.
            groups_per_step: Episodes per optimizer step; None takes all of the iteration in one step.
            num_iterations: Passes over an iteration's groups.
            micro_batch_groups: Episodes per forward and backward pass; None takes all of a learner's share at once.
            rollout_batch_groups: Episodes per sampling batch.
            clip_low: How far below 1 the probability ratio counts.
            clip_high: How far above 1.
            kl_coeff: Weight of the k3 KL penalty towards the starting weights; 0 keeps no reference.
            advantage_scale: "group" divides by the group's standard deviation, "none" does not.
            temperature: Of sampling, above 0.
            max_completion_tokens: Where an answer is cut.
            weight_decay: Of AdamW.
            update_timeout_s: Seconds after which an iteration's optimizer steps on remote learners count as failed.
            max_update_attempts: How often these are tried, from the second time on by new learners.
            kwargs: RLlib's own, e.g. `lr`, `grad_clip`.
        """
        own = {k: v for k, v in locals().items() if k not in ("self", "kwargs", "__class__")}
        super().training(**kwargs)
        for name, value in own.items():
            if value is not NotProvided:
                setattr(self, name, value)
        return self

    def validation(self, *, env_config: Mapping[str, Any] | None) -> GRPOConfig:
        """Set the environment that `GRPO.validate` answers in."""
        self.validation_env_config = env_config
        return self

    def validate(self) -> None:
        """Check the settings before anything is built.

        Raises:
            ValueError: If a setting is out of its range.
        """
        super().validate()
        at_least = {
            "group_size": 2, "groups_per_iteration": max(1, self.num_learners), "num_iterations": 1,
            "rollout_batch_groups": 1, "max_completion_tokens": 1, "max_update_attempts": 1,
        }  # fmt: skip
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected {least} or more, got {getattr(self, name)}")
        for name in ("lr", "clip_low", "clip_high", "update_timeout_s"):
            value = getattr(self, name)
            if isinstance(value, int | float) and value <= 0:
                raise ValueError(f"{name}: expected more than 0, got {value}")
        for name in ("kl_coeff", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        if self.micro_batch_groups is not None and self.micro_batch_groups < 1:
            raise ValueError(f"micro_batch_groups: expected 1 or more, or None for all, got {self.micro_batch_groups}")
        if self.temperature <= 0:
            raise ValueError(f"temperature: expected more than 0 so that answers differ, got {self.temperature}")
        if self.groups_per_step is not None and self.groups_per_step < max(1, self.num_learners):
            raise ValueError(
                f"groups_per_step: expected at least one group for each of {self.num_learners} learners, "
                f"got {self.groups_per_step}"
            )

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
        return super()._model_config_auto_includes | {
            "model": "tiny",
            "max_image_tokens": None,
            "lora_rank": None,
            "kl_coeff": self.kl_coeff,
            "temperature": self.temperature,
            "seed": self.seed or 0,
        }
