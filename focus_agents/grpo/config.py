"""The settings of GRPO, in RLlib's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

import focus_env
from focus_agents.grpo.advantage import AdvantageScale
from focus_agents.grpo.env_runner import GRPOEnvRunner
from focus_agents.grpo.evaluation import evaluate_greedily
from focus_agents.grpo.learner import GRPOTorchLearner
from focus_agents.grpo.learner_group import GRPOLearnerGroup
from focus_agents.grpo.loss import KLEstimator, LossName, LossSettings, RolloutCorrection
from focus_agents.grpo.module import MODEL_DEFAULTS, VLMModule
from focus_agents.grpo.rllib_checks import check_rllib_settings
from focus_agents.runs.schedule import check_schedule, lr_factor
from focus_env.boxes import CoordinateFrame
from focus_env.prompts import get_template

SharedPrefixMode = Literal["auto", "on", "off"]
ZeroVariance = Literal["keep", "drop", "refill"]
Truncated = Literal["keep", "mask"]

_CHOICES = {
    "advantage_scale": get_args(AdvantageScale),
    "rollout_correction": get_args(RolloutCorrection),
    "shared_prefix": get_args(SharedPrefixMode),
    "zero_variance": get_args(ZeroVariance),
    "truncated": get_args(Truncated),
}


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
        self.loss: LossName = "dapo"
        self.clip_low = 0.2
        self.clip_high = 0.2
        self.delta: float | None = None
        self.kl_coeff = 0.0
        self.kl_estimator: KLEstimator = "k3"
        self.advantage_scale: AdvantageScale = "group"
        self.leave_one_out = False
        self.signal_tolerance = 0.0
        self.zero_variance: ZeroVariance = "keep"
        self.max_refills = 4
        self.truncated: Truncated = "keep"
        self.truncation_penalty = 0.0
        self.rollout_correction: RolloutCorrection = "none"
        self.correction_cap = 2.0
        self.shared_prefix: SharedPrefixMode = "auto"
        self.async_steps = 0
        self.is_constrained = False
        self.temperature = 1.0
        self.max_completion_tokens = 48
        self.weight_decay = 0.0
        self.num_lr_steps: int | None = None
        self.warmup = 0.0
        self.cooldown = 0.0
        self.lr_end = 0.1
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
        self.sample_timeout_s = self.evaluation_sample_timeout_s = 1800.0
        self.custom_evaluation_function = evaluate_greedily
        self.log_gradients = True  # their norm is a metric, also where nothing is clipped by it
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
        loss: LossName = NotProvided,
        clip_low: float = NotProvided,
        clip_high: float = NotProvided,
        delta: float | None = NotProvided,
        kl_coeff: float = NotProvided,
        kl_estimator: KLEstimator = NotProvided,
        advantage_scale: AdvantageScale = NotProvided,
        leave_one_out: bool = NotProvided,
        signal_tolerance: float = NotProvided,
        zero_variance: ZeroVariance = NotProvided,
        max_refills: int = NotProvided,
        truncated: Truncated = NotProvided,
        truncation_penalty: float = NotProvided,
        rollout_correction: RolloutCorrection = NotProvided,
        correction_cap: float = NotProvided,
        shared_prefix: SharedPrefixMode = NotProvided,
        async_steps: int = NotProvided,
        is_constrained: bool = NotProvided,
        temperature: float = NotProvided,
        max_completion_tokens: int = NotProvided,
        weight_decay: float = NotProvided,
        num_lr_steps: int | None = NotProvided,
        warmup: float = NotProvided,
        cooldown: float = NotProvided,
        lr_end: float = NotProvided,
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
            rollout_batch_groups: Episodes per sampling batch; an EnvRunner works on whole batches.
            loss: Which of the family; see `focus_agents.grpo.loss.policy_loss`.
            clip_low: How far below 1 the probability ratio counts.
            clip_high: How far above 1.
            delta: Where the ratio of a bad answer stops to count; None: nowhere.
            kl_coeff: Weight of the KL penalty towards the starting weights; 0 keeps no reference and runs none.
            kl_estimator: "k1", "k2" or "k3".
            advantage_scale: "group" divides by the group's standard deviation, "batch" by that of the iteration,
                "none" by nothing.
            leave_one_out: Compare each answer with the others of its group, without itself.
            signal_tolerance: Groups whose rewards lie within this range teach nothing and get advantage 0.
            zero_variance: What becomes of such groups: "keep" counts them in the loss's denominator, "drop" does not,
                "refill" samples others in their place (dynamic sampling). Without KL none of them costs a pass.
            max_refills: Most rounds of sampling others; what is missing then is made up by groups that were dropped.
            truncated: Answers cut at the limit: "keep" learns from them, "mask" does not.
            truncation_penalty: Taken from the reward of an answer cut at the limit.
            rollout_correction: Weighs tokens where sampler and learner compute different probabilities of the same
                weights, or the sampler's weights are older: "token_tis", "seq_mask" or "none".
            correction_cap: The largest weight.
            shared_prefix: "on" scores a group as one row, "off" repeats the prompt for each answer; "auto" is "on" if
                both agree on the first group, and else warns and is "off".
            async_steps: 1 samples the next iteration's groups while this one's are learned from, by weights that are
                one update old; 0 waits for the update. Needs EnvRunners of their own.
            is_constrained: Sample and learn under the answer's grammar; the format's reward is constant then.
            temperature: Of sampling, above 0.
            max_completion_tokens: Where an answer is cut.
            weight_decay: Of AdamW.
            num_lr_steps: Optimizer steps over which the rate rises, stays and falls, and over which a reward with a
                curriculum goes through it; None: RLlib's own rate holds, a number or a schedule, and the curriculum is
                at its end.
            warmup: Share of these steps in which it rises.
            cooldown: Share of these steps, at the end, in which it falls.
            lr_end: Where it falls to, as a share of `lr`.
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
        at_least = {
            "group_size": 2, "groups_per_iteration": max(1, self.num_learners), "num_iterations": 1,
            "rollout_batch_groups": 1, "max_completion_tokens": 1, "max_refills": 1, "max_update_attempts": 1,
        }  # fmt: skip
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected {least} or more, got {getattr(self, name)}")
        for name in ("lr", "correction_cap", "update_timeout_s"):
            value = getattr(self, name)
            if isinstance(value, int | float) and value <= 0:
                raise ValueError(f"{name}: expected more than 0, got {value}")
        for name in ("weight_decay", "signal_tolerance", "truncation_penalty"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")
        _ = self.loss_settings
        check_schedule(self.warmup, self.cooldown, self.lr_end)
        if self.num_lr_steps is not None:
            if self.num_lr_steps < 1:
                raise ValueError(f"num_lr_steps: expected 1 or more, or None, got {self.num_lr_steps}")
            self.lr_at(0)
        if self.async_steps not in (0, 1):
            raise ValueError(f"async_steps: expected 0 or 1, got {self.async_steps}")
        # RLlib makes a copy of these settings for its own evaluation, without runners.
        if self.async_steps and self.num_env_runners == 0 and not self.in_evaluation:
            raise ValueError("async_steps: expected 0 where sampling has no process of its own; set num_env_runners")
        if self.async_steps and self.zero_variance == "refill":
            raise ValueError("async_steps: expected 0 with zero_variance='refill', which samples until it has enough")
        if self.micro_batch_groups is not None and self.micro_batch_groups < 1:
            raise ValueError(f"micro_batch_groups: expected 1 or more, or None for all, got {self.micro_batch_groups}")
        if self.temperature <= 0:
            raise ValueError(f"temperature: expected more than 0 so that answers differ, got {self.temperature}")
        num_batches = -(-self.groups_per_iteration // self.rollout_batch_groups)
        if self.num_env_runners > num_batches and not self.in_evaluation:
            raise ValueError(
                f"rollout_batch_groups: expected a batch for each of {self.num_env_runners} EnvRunners, got "
                f"{self.rollout_batch_groups}, which makes {num_batches} of {self.groups_per_iteration} groups; set at "
                f"most {max(1, self.groups_per_iteration // self.num_env_runners)}, or raise groups_per_iteration"
            )
        if self.groups_per_step is not None and self.groups_per_step < max(1, self.num_learners):
            raise ValueError(
                f"groups_per_step: expected at least one group for each of {self.num_learners} learners, "
                f"got {self.groups_per_step}"
            )

    @property
    def validation_batch_size(self) -> int:
        """Validation episodes that are answered together: more than groups, since each has one answer."""
        return 2 * self.rollout_batch_groups

    def lr_at(self, step: int) -> float:
        """Learning rate of an optimizer step, from 0, where `num_lr_steps` says how many there are."""
        if self.num_lr_steps is None or not isinstance(self.lr, int | float):
            raise ValueError(f"lr_at: expected num_lr_steps and a number as lr, got {self.num_lr_steps} and {self.lr}")
        return float(self.lr) * lr_factor(
            step, num_steps=self.num_lr_steps, warmup=self.warmup, cooldown=self.cooldown, lr_end=self.lr_end
        )

    def progress_at(self, iteration: int) -> float:
        """How far the training is at an iteration, from 0: its share of those that `num_lr_steps` take; else 1."""
        if self.num_lr_steps is None:
            return 1.0
        steps_per_pass = -(-self.groups_per_iteration // (self.groups_per_step or self.groups_per_iteration))
        return min(1.0, iteration * steps_per_pass * self.num_iterations / self.num_lr_steps)

    @property
    def can_reuse_prefill(self) -> bool:
        """Whether the sampler's forward pass over the prompts can be the learner's, if they share a process.

        That is, if the policy is updated once per iteration, and memory suffices for all groups at once.
        """
        takes_one_step = self.groups_per_step is None and self.num_iterations == 1
        is_at_once = self.micro_batch_groups is None and self.loss != "bnpo"
        checkpoints = self.model_config.get("gradient_checkpointing", False)
        return takes_one_step and is_at_once and self.shared_prefix != "off" and not checkpoints

    @property
    def loss_settings(self) -> LossSettings:
        """What the loss has to know of these settings.

        Raises:
            ValueError: If one is out of its range, or means nothing to the loss.
        """
        return LossSettings(
            name=self.loss,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            delta=self.delta,
            kl_estimator=self.kl_estimator,
            kl_coeff=self.kl_coeff,
            max_completion_tokens=self.max_completion_tokens,
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
        """Return the settings that the module has to know."""
        # Overridden because RLlib builds modules, on runners and learners, from model_config alone.
        own = ("kl_coeff", "temperature", "is_constrained", "shared_prefix")
        settings = {name: getattr(self, name) for name in own}
        frame = get_template(self.env_config.get("template", "default")).frame
        settings["largest_coordinate"] = 100 if frame is CoordinateFrame.NORM_100 else 1000
        return super()._model_config_auto_includes | MODEL_DEFAULTS | settings | {"seed": self.seed or 0}
