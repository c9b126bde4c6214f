"""Command-line arguments of stage 2, and the configuration that they come to."""

from __future__ import annotations

from dataclasses import dataclass

from focus_agents.cli.common import DataArguments, ModelArguments
from focus_agents.grpo.advantage import AdvantageScale
from focus_agents.grpo.config import GRPOConfig, SharedPrefixMode, Truncated, ZeroVariance
from focus_agents.grpo.loss import KLEstimator, LossName, RolloutCorrection
from focus_agents.grpo.train import RunPlan
from focus_agents.models.loading import Precision
from focus_env.rewards.weighted import WeightedReward
from focus_env.types import EpisodeDataset


@dataclass(frozen=True, kw_only=True)
class GRPOArguments(DataArguments, ModelArguments):
    """How a policy is trained by GRPO, but for the reward, the seed and the processes that share the work."""

    model: str = "focus-small-sft"

    num_iterations: int = 1000
    """Training iterations."""
    groups_per_iteration: int = 32
    """Episodes sampled per iteration."""
    group_size: int = 8
    """Answers sampled per episode, at least 2."""
    rollout_batch_groups: int = 16
    """Episodes sampled together; a sampling process takes whole batches, so there must be one for each."""
    groups_per_step: int | None = None
    """Episodes per optimizer step; default: all of the iteration."""
    micro_batch_groups: int | None = None
    """Episodes per forward and backward pass, to save memory; default: all of a learner's share."""
    lr: float = 3e-4
    """Peak learning rate of AdamW; the default suits the small model, 1e-5 adapters of a 7B one (paper, table 7)."""
    warmup: float = 0.05
    """Share of the optimizer steps, at the start, in which the learning rate rises."""
    cooldown: float = 0.5
    """Share of the steps, at the end, in which it falls."""
    lr_end: float = 0.1
    """Where it falls to, as a share of its peak."""
    lora_rank: int | None = None
    """Rank of LoRA adapters on the language model; default: train all parameters."""
    freeze_vision: bool = True
    """Leave the vision tower as it is, and encode each picture once for sampling and all passes of learning."""
    precision: Precision = "fp32"
    """bf16 computes in bfloat16; weights that are trained stay in float32."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass, to save memory."""

    loss: LossName = "dapo"
    """dapo weighs all tokens alike, grpo all answers; dr_grpo, bnpo, gspo, cispo and sapo as in their papers."""
    clip_low: float = 0.2
    """How far below 1 the probability ratio counts."""
    clip_high: float = 0.2
    """How far above 1 the probability ratio counts."""
    delta: float | None = None
    """Where the ratio of a bad answer stops to count, above 1 + clip-high; default: nowhere."""
    kl_coeff: float = 0.0
    """Weight of the KL penalty towards the starting policy; 0 keeps no reference."""
    kl_estimator: KLEstimator = "k3"
    """Estimator of that KL per token."""
    num_passes: int = 1
    """Passes over the groups of an iteration."""
    advantage_scale: AdvantageScale = "group"
    """What centred rewards are divided by: standard deviation of the group, of the batch, or none."""
    leave_one_out: bool = False
    """Compare each answer with the mean of the others of its group, without itself."""
    zero_variance: ZeroVariance = "keep"
    """Groups whose answers all earn the same: keep them in the denominator, drop them, or refill with others."""
    signal_tolerance: float = 0.0
    """Range of rewards within which answers earn the same."""
    truncated: Truncated = "keep"
    """Whether answers that were cut count in the loss (keep) or not (mask)."""
    truncation_penalty: float = 0.0
    """Taken from the reward of an answer that was cut."""
    rollout_correction: RolloutCorrection = "none"
    """Weigh tokens by how likely the learner and not the sampler makes them: token_tis, seq_mask or none."""
    correction_cap: float = 2.0
    """The largest such weight."""
    shared_prefix: SharedPrefixMode = "auto"
    """Score a group as one row (on), or repeat its prompt for each answer (off); auto checks that both agree."""
    temperature: float = 1.0
    """Sampling temperature, above 0."""
    max_completion_tokens: int = 40
    """Tokens at which an answer is cut."""
    constrained: bool = False
    """Sample and learn under the answer's grammar, in which every answer has the format."""

    num_validation_episodes: int = 512
    """Episodes of the validation split to answer before and after training."""
    validation_interval: int = 0
    """Iterations between further validations; 0: none."""
    checkpoint_interval: int = 50
    """Iterations between checkpoints to resume from; 0: at the end only."""

    def plan(self) -> RunPlan:
        """How long a run goes on, and when it looks up."""
        return RunPlan(
            num_iterations=self.num_iterations,
            num_validation_episodes=self.num_validation_episodes,
            validation_interval=self.validation_interval,
            checkpoint_interval=self.checkpoint_interval,
        )

    def grpo_config(
        self, training: EpisodeDataset, validation: EpisodeDataset, *, reward: WeightedReward, seed: int
    ) -> GRPOConfig:
        """RLlib's configuration of a run in one process.

        Raises:
            ValueError: If an argument is out of its range.
            CheckpointError: If there is no such model.
        """
        environment = {"reward": reward, "template": self.load_template()}
        self.load_processor()
        steps_per_pass = -(-self.groups_per_iteration // (self.groups_per_step or self.groups_per_iteration))
        return (
            GRPOConfig()
            .environment(env_config={"dataset": training, **environment})
            .validation(env_config={"dataset": validation, **environment})
            .training(
                group_size=self.group_size,
                groups_per_iteration=self.groups_per_iteration,
                rollout_batch_groups=self.rollout_batch_groups,
                groups_per_step=self.groups_per_step,
                micro_batch_groups=self.micro_batch_groups,
                lr=self.lr,
                num_lr_steps=self.num_iterations * self.num_passes * steps_per_pass,
                warmup=self.warmup,
                cooldown=self.cooldown,
                lr_end=self.lr_end,
                num_iterations=self.num_passes,
                loss=self.loss,
                clip_low=self.clip_low,
                clip_high=self.clip_high,
                delta=self.delta,
                kl_coeff=self.kl_coeff,
                kl_estimator=self.kl_estimator,
                advantage_scale=self.advantage_scale,
                leave_one_out=self.leave_one_out,
                zero_variance=self.zero_variance,
                signal_tolerance=self.signal_tolerance,
                truncated=self.truncated,
                truncation_penalty=self.truncation_penalty,
                rollout_correction=self.rollout_correction,
                correction_cap=self.correction_cap,
                shared_prefix=self.shared_prefix,
                is_constrained=self.constrained,
                temperature=self.temperature,
                max_completion_tokens=self.max_completion_tokens,
            )
            .rl_module(
                model_config={
                    "model": self.source,
                    "max_image_tokens": self.max_image_tokens,
                    "lora_rank": self.lora_rank,
                    "freeze_vision": self.freeze_vision,
                    "precision": self.precision,
                    "gradient_checkpointing": self.gradient_checkpointing,
                }
            )
            .debugging(seed=seed, log_level="ERROR")
        )
