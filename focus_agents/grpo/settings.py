"""Settings of stage 2: each is declared here once, with its meaning, default and range.

`GRPOConfig` carries them as attributes, and `focus grpo` shows each part as a box of its help.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from focus_agents.grpo.advantage import AdvantageScale
from focus_agents.models.settings import VLLM_TEMPERATURES, Engine, SavedForm
from focus_agents.runs.schedule import MAX_BAD_STEPS, check_schedule, lr_factor
from focus_agents.settings import LearningRate, Settings, TokenCount

LossName = Literal["grpo", "dapo", "dr_grpo", "bnpo", "gspo", "cispo", "sapo"]
KLEstimator = Literal["k1", "k2", "k3"]
RolloutCorrection = Literal["none", "token_tis", "seq_mask"]
SharedPrefixMode = Literal["auto", "on", "off"]
ZeroVariance = Literal["keep", "drop", "refill"]
Truncated = Literal["keep", "mask"]
GroupWeights = Literal["equal", "difficulty", "size"]

UNBOUNDED = ("cispo", "sapo")
"""Losses that bound the probability ratio in a way of their own."""


@dataclass(frozen=True, kw_only=True)
class SamplingSettings(Settings):
    """The sampling of groups of answers."""

    groups_per_iteration: Annotated[int, Ge(1)] = 32
    """Episodes sampled per training iteration."""
    group_size: Annotated[int, Ge(2)] = 8
    """Answers sampled per episode, at least 2."""
    rollout_batch_groups: Annotated[int, Ge(1)] = 16
    """Episodes sampled together; a sampling process takes whole batches, so there must be one for each."""
    validation_batch_size: Annotated[int, Ge(1)] | None = None
    """Most validation episodes that a process answers together, fewer where their prompts are long (65,536 tokens);
    None: twice rollout_batch_groups."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """Sampling temperature, above 0."""
    max_completion_tokens: TokenCount = 40
    """Tokens at which an answer is cut."""
    constrained: bool = False
    """Sample and learn under the answer's grammar, in which every answer has the format; its reward is then constant.
    Needs a unit of coordinates with whole numbers and one range for all pictures (norm_100, norm_1000)."""
    zero_variance: ZeroVariance = "keep"
    """Groups whose answers all earn the same: keep them in the loss's denominator, drop them, or refill with others
    (dynamic sampling)."""
    signal_tolerance: Annotated[float, Ge(0)] = 0.0
    """Range of rewards within which answers earn the same; the group then gets advantage 0."""
    max_refills: Annotated[int, Ge(1)] = 4
    """Most rounds of sampling others, with refill; dropped groups make up for the rest."""
    sample_timeout_s: Annotated[float, Gt(0)] = 1800.0
    """Seconds after which a sampling process that has not answered counts as hung: it is ended and replaced, and what
    it had to answer is asked again."""
    engine: Engine = "transformers"
    """Engine that samples: transformers, or vllm in each sampling process, which needs the extra vllm, GPUs for these
    processes, and rollout_correction token_tis or seq_mask."""
    engine_memory: Annotated[float, Gt(0), Le(1)] = 0.9
    """Share of its GPU that a sampling process's vllm may fill; less where others share the GPU."""
    async_steps: Annotated[int, Ge(0), Le(1)] = 0
    """1 samples an iteration's groups while those before it are learned from, by weights one update old; needs sampling
    processes, and wants rollout_correction token_tis."""

    def check(self) -> None:
        """Check the fields, alone and together."""
        super().check()
        if self.async_steps and self.zero_variance == "refill":
            raise ValueError("async_steps: expected 0 with zero_variance='refill', which samples until it has enough")


@dataclass(frozen=True, kw_only=True)
class LossSettings(Settings):
    """From rewards to the loss; the formulas are in `focus_agents.grpo.advantage` and `focus_agents.grpo.loss`."""

    loss: LossName = "dapo"
    """dapo weighs all tokens alike, grpo all answers; dr_grpo, bnpo, gspo, cispo and sapo as in their papers."""
    clip_low: Annotated[float, Gt(0), Le(1)] = 0.2
    """How far below 1 the probability ratio counts. Without effect for cispo and sapo."""
    clip_high: Annotated[float, Gt(0)] = 0.2
    """How far above 1 the probability ratio counts; relative for cispo too, where TRL's `epsilon_high` is
    1 + clip_high. Without effect for sapo. GSPO's ratio of a whole answer moves little; its paper clips at 3e-4 and
    4e-4."""
    delta: float | None = None
    """Where the ratio of a bad answer stops to count, above 1 + clip_high; None: nowhere."""
    kl_coeff: Annotated[float, Ge(0)] = 0.0
    """Weight of the KL penalty towards the starting policy; 0 keeps no reference and runs none."""
    kl_estimator: KLEstimator = "k3"
    """Estimator of that KL per token."""
    advantage_scale: AdvantageScale = "group"
    """Divisor of centred rewards: standard deviation of the group, of the batch, or none."""
    leave_one_out: bool = False
    """Compare each answer with the mean of the others of its group, without itself."""
    rank_rewards: bool = False
    """Compare answers by the ranks of their rewards within the group, instead of the rewards themselves."""
    group_weights: GroupWeights = "equal"
    """How much a group counts: all alike (equal), more the worse its answers are (difficulty, UniVG-R1), or such that
    small, middling and large objects of an iteration push equally (size, Ground-R1)."""
    gold_answer: bool = False
    """Add the episode's right answer to its group, scored and learned from like those that were sampled (ViSurf)."""
    truncated: Truncated = "keep"
    """Whether answers that were cut count in the loss (keep) or not (mask)."""
    truncation_penalty: Annotated[float, Ge(0)] = 0.0
    """Taken from the reward of an answer that was cut."""
    rollout_correction: RolloutCorrection = "none"
    """Weigh tokens by how likely the learner and not the sampler makes them: token_tis, seq_mask or none."""
    correction_cap: Annotated[float, Gt(0)] = 2.0
    """The largest such weight."""

    def check(self) -> None:
        """Check the fields, alone and together."""
        super().check()
        if self.delta is None:
            return
        if self.loss in UNBOUNDED:
            raise ValueError(f"delta: expected None because {self.loss} bounds no ratio there, got {self.delta}")
        if not self.delta > 1 + self.clip_high:
            raise ValueError(
                f"delta: expected None or more than 1 + clip_high = {1 + self.clip_high}, got {self.delta}"
            )


@dataclass(frozen=True, kw_only=True)
class LearningSettings(Settings):
    """The optimizer's steps."""

    num_iterations: Annotated[int, Ge(1)] = 1000
    """Training iterations of the whole run, over which the learning rate and a reward's curriculum go."""
    num_passes: Annotated[int, Ge(1)] = 1
    """Passes over the groups of an iteration."""
    groups_per_step: Annotated[int, Ge(1)] | None = None
    """Episodes per optimizer step; None: all of the iteration."""
    micro_batch_groups: Annotated[int, Ge(1)] | None = None
    """Episodes per forward and backward pass, to save memory; None: all of a learner's share."""
    lr: LearningRate = 3e-4
    """Peak learning rate of AdamW; the default suits the small model, 1e-5 adapters of a 7B one (paper, table 7)."""
    warmup: float = 0.05
    """Fraction of the optimizer steps, at the start, in which the learning rate rises."""
    cooldown: float = 0.5
    """Fraction of the steps, at the end, in which it falls."""
    lr_end: float = 0.1
    """Where it falls to, as a fraction of its peak."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Of AdamW."""
    grad_clip: Annotated[float, Gt(0)] | None = 1.0
    """Largest global norm of the gradient; None: any."""
    max_bad_steps: Annotated[int, Ge(1)] = MAX_BAD_STEPS
    """So many steps in a row whose loss or gradient is not finite end the run; fewer are skipped."""
    shared_prefix: SharedPrefixMode = "auto"
    """Score a group as one row (on), or repeat its prompt for each answer (off); auto checks on the first group that
    both agree, and else warns and is off."""
    update_timeout_s: Annotated[float, Gt(0)] = 1800.0
    """Seconds after which an iteration's optimizer steps on learners of their own count as failed."""
    max_update_attempts: Annotated[int, Ge(1)] = 3
    """How often these steps are tried, from the second time on by new learners."""

    def check(self) -> None:
        """Check the fields, alone and together."""
        super().check()
        check_schedule(self.warmup, self.cooldown, self.lr_end)


@dataclass(frozen=True, kw_only=True)
class GRPOSettings(SamplingSettings, LossSettings, LearningSettings):
    """Every setting of GRPO; a study varies these."""

    def check(self) -> None:
        """Check the fields, alone and together."""
        super().check()
        if self.gold_answer and self.constrained:
            raise ValueError(
                "gold_answer: expected False with constrained=True, whose grammar may have no answer for an absent "
                "object, got True; sample without `constrained`"
            )
        if self.engine == "vllm":
            self._check_vllm()

    def _check_vllm(self) -> None:
        """Refuse what vLLM would sample otherwise than it is learned from."""
        if self.constrained:
            raise ValueError(
                "constrained: expected False with engine='vllm', which knows no grammar by the token, got True; set "
                "`engine` to transformers"
            )
        if self.rollout_correction == "none":
            raise ValueError(
                "rollout_correction: expected token_tis or seq_mask with engine='vllm', whose log-probabilities are "
                "not rounded as the learner's are, got 'none'"
            )
        least, most = VLLM_TEMPERATURES
        if not least <= self.temperature <= most:
            raise ValueError(
                f"temperature: expected {least} to {most} with engine='vllm', which changes others, got "
                f"{self.temperature}"
            )

    @property
    def num_learned_answers(self) -> int:
        """Answers of a group that are learned from: those sampled, and the right one."""
        return self.group_size + self.gold_answer

    @property
    def steps_per_iteration(self) -> int:
        """Optimizer steps of an iteration whose groups are all there."""
        return self.num_passes * -(-self.groups_per_iteration // (self.groups_per_step or self.groups_per_iteration))

    @property
    def num_validated_together(self) -> int:
        """Validation episodes that are answered together: more than groups, since each has one answer."""
        return self.validation_batch_size or 2 * self.rollout_batch_groups

    @property
    def is_one_pass(self) -> bool:
        """Whether an iteration is learned from in one backward pass over all of its groups, each as one row.

        The sampler's forward pass over the prompts can then be the learner's, if they share a process.
        """
        takes_one_step = self.groups_per_step is None and self.num_passes == 1
        is_at_once = self.micro_batch_groups is None and self.loss != "bnpo"
        return takes_one_step and is_at_once and self.shared_prefix != "off"

    @property
    def is_on_policy(self) -> bool:
        """Whether every probability ratio is 1 by construction, so that no bound changes one."""
        return self.steps_per_iteration == 1 and (self.async_steps == 0 or self.rollout_correction != "none")

    def lr_at(self, step: int) -> float:
        """Return the learning rate of an optimizer step, from 0."""
        num_steps = self.num_iterations * self.steps_per_iteration
        factor = lr_factor(step, num_steps=num_steps, warmup=self.warmup, cooldown=self.cooldown, lr_end=self.lr_end)
        return self.lr * factor

    def progress_at(self, iteration: int) -> float:
        """Return how far the training is at an iteration, from 0 to 1, for rewards with a curriculum."""
        return min(1.0, iteration / self.num_iterations)


@dataclass(frozen=True, kw_only=True)
class GRPOSchedule(Settings):
    """Validation and checkpoints of a run."""

    num_validation_episodes: Annotated[int, Ge(1)] = 512
    """Episodes of the validation split, from its front, to answer before and after training; fewer if it has fewer."""
    validation_interval: Annotated[int, Ge(0)] = 100
    """Iterations between further validations; 0: none."""
    checkpoint_interval: Annotated[int, Ge(0)] = 50
    """Iterations between checkpoints to resume from; 0: at the end only."""
    save: SavedForm = "merged"
    """Content of checkpoints/final of a model with adapters: whole weights (merged), the adapter alone in PEFT's
    format, or both, the adapter then in the folder adapter below the weights."""
