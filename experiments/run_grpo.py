"""Stage 2: GRPO of a localization policy, on this machine or on a Ray cluster.

How to run, from the small model that comes with the package, after its stage 1; and from a policy of your own that
answers in the format already, e.g. one trained by run_sft.py:
    python experiments/run_grpo.py
    python experiments/run_grpo.py --init-from runs/my-sft/checkpoints/final

On real frames in GOT-10k's layout:
    python experiments/run_grpo.py --dataset got10k --data-root /data/got10k --init-from ...

On a cluster:
    python experiments/run_grpo.py --ray-address auto --num-env-runners 8 --num-gpus-per-env-runner 1 \
        --num-learners 8 --num-gpus-per-learner 1 --rollout-batch-groups 4 --model Qwen/Qwen2-VL-7B-Instruct \
        --template default --lora-rank 8 --precision bf16

Results: runs/<name>/ with metrics.jsonl, summary.json, samples/validation.png (supports, target, answers before and
after) and checkpoints/final, a policy in transformers' format. `--resume runs/<name>` goes on after an interruption.
SIGTERM and Ctrl-C end a run after the iteration that is going on, with a checkpoint, and exit codes 143 and 130.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import ray
import tyro
from rich.console import Console

from focus_agents.arguments import (
    DataArguments,
    ModelArguments,
    RayArguments,
    quiet_libraries,
    restore_arguments,
    run_path,
    user_errors,
)
from focus_agents.grpo.advantage import AdvantageScale
from focus_agents.grpo.config import GRPOConfig, SharedPrefixMode, Truncated, ZeroVariance
from focus_agents.grpo.loss import KLEstimator, LossName, RolloutCorrection
from focus_agents.grpo.train import RunPlan, newest_checkpoint, train_grpo
from focus_agents.models.loading import Precision
from focus_agents.reporting import RunDirectory
from focus_env.errors import RunInterrupted, TrainingError
from focus_env.rewards import WeightedReward


@dataclass(frozen=True, kw_only=True)
class Args(DataArguments, ModelArguments, RayArguments):
    """Stage 2: GRPO of a localization policy."""

    model: str = "focus-small-sft"
    name: str | None = None
    """Name of the run's folder; default: grpo and the time of the start."""
    output_dir: Path = Path("runs")
    """Where run folders go."""
    resume: Path | None = None
    """Folder of an interrupted run to go on with, with that run's own arguments; all but the Ray ones are ignored."""
    seed: int = 0
    """Seed of sampling, shuffling and new weights."""

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
    reward: str = "iou:1,format:0.5"
    """Reward terms and their weights."""

    num_validation_episodes: int = 512
    """Episodes of the validation split to answer before and after training."""
    validation_interval: int = 0
    """Iterations between further validations; 0: none."""
    checkpoint_interval: int = 50
    """Iterations between checkpoints to resume from; 0: at the end only."""

    num_env_runners: int = 0
    """Processes that sample; 0 samples in this process."""
    async_steps: int = 0
    """1 samples an iteration's groups while those before it are learned from, by weights one update old; wants
    --rollout-correction token_tis."""
    num_learners: int = 0
    """Processes that train; 0 trains in this process."""
    num_gpus_per_env_runner: float = 0
    """GPUs of each sampling process, fractions allowed."""
    num_gpus_per_learner: float = 0
    """GPUs of each training process, fractions allowed."""


RAY_ARGUMENTS = (
    "ray_address", "num_env_runners", "num_learners", "num_gpus_per_env_runner", "num_gpus_per_learner", "dashboard",
)  # fmt: skip


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    quiet_libraries()
    with user_errors():
        if args.resume is not None:
            run = RunDirectory(args.resume)
            newest_checkpoint(run)
            args = restore_arguments(args, run, keep=("resume", *RAY_ARGUMENTS))
        config, plan, validation = check_arguments(args)
        run = open_run(args)
    console = Console()
    console.print(f"run folder: {run.path}", highlight=False)
    if args.source == "tiny" and args.resume is None:
        console.print(
            "warning: the tiny model starts from random weights, which never answer in the format, so GRPO has "
            "nothing to learn from; train it by run_sft.py first and pass --init-from",
            style="yellow",
        )
    args.start_ray(num_processes=args.num_env_runners + args.num_learners, console=console)
    try:
        summary = train_grpo(config, plan, run, validation, is_resumed=args.resume is not None, console=console)
    except TrainingError as error:
        console.print(f"error: {error}", style="red", highlight=False)
        raise SystemExit(1) from None
    except RunInterrupted as interruption:
        console.print(str(interruption), style="yellow", highlight=False, soft_wrap=True)
        raise SystemExit(interruption.exit_code) from None
    finally:
        ray.shutdown()
    low, high = summary["miou_gain_interval"]
    console.print(
        f"validation mIoU {summary['miou_start']:.3f} -> {summary['miou_end']:.3f} "
        f"(gain {summary['miou_gain']:+.3f}, 95% interval {low:+.3f} to {high:+.3f}) in {summary['seconds']:.0f} s\n"
        f"policy: {summary['checkpoint']}\npictures: {summary['sheet']}",
        highlight=False,
    )


def check_arguments(args: Args):
    """Everything that can be wrong is found here, before Ray or a model starts."""
    training, validation = args.load_training(), args.load_validation()
    environment = {"reward": WeightedReward.from_spec(args.reward), "template": args.load_template()}
    args.load_processor()
    plan = RunPlan(
        num_iterations=args.num_iterations,
        num_validation_episodes=args.num_validation_episodes,
        validation_interval=args.validation_interval,
        checkpoint_interval=args.checkpoint_interval,
    )
    steps_per_pass = -(-args.groups_per_iteration // (args.groups_per_step or args.groups_per_iteration))
    config = (
        GRPOConfig()
        .environment(env_config={"dataset": training, **environment})
        .validation(env_config={"dataset": validation, **environment})
        .env_runners(
            num_env_runners=args.num_env_runners,
            num_gpus_per_env_runner=args.num_gpus_per_env_runner,
            create_local_env_runner=args.num_env_runners == 0,
        )
        .learners(num_learners=args.num_learners, num_gpus_per_learner=args.num_gpus_per_learner)
        .training(
            group_size=args.group_size,
            groups_per_iteration=args.groups_per_iteration,
            rollout_batch_groups=args.rollout_batch_groups,
            groups_per_step=args.groups_per_step,
            micro_batch_groups=args.micro_batch_groups,
            lr=args.lr,
            num_lr_steps=args.num_iterations * args.num_passes * steps_per_pass,
            warmup=args.warmup,
            cooldown=args.cooldown,
            lr_end=args.lr_end,
            num_iterations=args.num_passes,
            loss=args.loss,
            clip_low=args.clip_low,
            clip_high=args.clip_high,
            delta=args.delta,
            kl_coeff=args.kl_coeff,
            kl_estimator=args.kl_estimator,
            advantage_scale=args.advantage_scale,
            leave_one_out=args.leave_one_out,
            zero_variance=args.zero_variance,
            signal_tolerance=args.signal_tolerance,
            truncated=args.truncated,
            truncation_penalty=args.truncation_penalty,
            rollout_correction=args.rollout_correction,
            correction_cap=args.correction_cap,
            shared_prefix=args.shared_prefix,
            async_steps=args.async_steps,
            is_constrained=args.constrained,
            temperature=args.temperature,
            max_completion_tokens=args.max_completion_tokens,
        )
        .rl_module(
            model_config={
                "model": args.source,
                "max_image_tokens": args.max_image_tokens,
                "lora_rank": args.lora_rank,
                "freeze_vision": args.freeze_vision,
                "precision": args.precision,
                "gradient_checkpointing": args.gradient_checkpointing,
            }
        )
        .debugging(seed=args.seed, log_level="ERROR")
    )  # fmt: skip
    config.validate()
    return config, plan, validation


def open_run(args: Args) -> RunDirectory:
    if args.resume is not None:
        return RunDirectory(args.resume)
    return RunDirectory.create(run_path(args.output_dir, args.name, "grpo"), dataclasses.asdict(args))


if __name__ == "__main__":
    main()
