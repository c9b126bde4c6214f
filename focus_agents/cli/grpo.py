r"""Stage 2: GRPO of a localization policy, on this machine or on a Ray cluster.

How to run, from the small model that comes with the package, after its stage 1; and from a policy of your own that
answers in the format already, e.g. one trained by `focus sft`:
    focus grpo
    focus grpo --init-from runs/my-sft/checkpoints/final

On real frames in GOT-10k's layout:
    focus grpo --dataset got10k --data-root /data/got10k --init-from ...

On a cluster:
    focus grpo --ray-address auto --num-env-runners 8 --num-gpus-per-env-runner 1 \
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

from focus_agents.cli.common import RayArguments, load_reward, quiet_libraries, restore_arguments, run_path
from focus_agents.cli.errors import as_flags, user_errors
from focus_agents.errors import RunInterrupted
from focus_agents.grpo.arguments import GRPOArguments
from focus_agents.grpo.config import GRPOConfig
from focus_agents.grpo.train import RunPlan, newest_checkpoint, train_grpo
from focus_agents.runs.folder import RunDirectory
from focus_env.errors import FocusError
from focus_env.types import EpisodeDataset


@dataclass(frozen=True, kw_only=True)
class Args(GRPOArguments, RayArguments):
    """Stage 2: GRPO of a localization policy."""

    name: str | None = None
    """Name of the run's folder; default: grpo and the time of the start."""
    output_dir: Path = Path("runs")
    """Where run folders go."""
    resume: Path | None = None
    """Folder of an interrupted run to go on with, with that run's own arguments; all but the Ray ones are ignored."""
    seed: int = 0
    """Seed of sampling, shuffling and new weights."""
    reward: str = "iou:1,format:0.5"
    """Reward terms and their weights, as in iou:1,iou_at(0.5):0.5,my_module:my_term:0.2, or a YAML file of them; see
    docs/rewards.md."""
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
    with user_errors(Args):
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
            "nothing to learn from; train it by `focus sft` first and pass --init-from",
            style="yellow",
        )
    args.start_ray(num_processes=args.num_env_runners + args.num_learners, console=console)
    try:
        summary = train_grpo(config, plan, run, validation, is_resumed=args.resume is not None, console=console)
    except RunInterrupted as interruption:
        console.print(as_flags(str(interruption), Args), style="yellow", highlight=False, soft_wrap=True)
        raise SystemExit(interruption.exit_code) from None
    except FocusError as error:
        console.print(as_flags(f"error: {error}", Args), style="red", highlight=False, markup=False, soft_wrap=True)
        raise SystemExit(1) from None
    finally:
        ray.shutdown()
    low, high = summary["miou_gain_interval"]
    console.print(
        f"validation mIoU {summary['miou_start']:.3f} -> {summary['miou_end']:.3f} "
        f"(gain {summary['miou_gain']:+.3f}, 95% interval {low:+.3f} to {high:+.3f}) in {summary['seconds']:.0f} s\n"
        f"policy: {summary['checkpoint']}\npictures: {summary['sheet']}",
        highlight=False,
    )


def check_arguments(args: Args) -> tuple[GRPOConfig, RunPlan, EpisodeDataset]:
    """Everything that can be wrong is found here, before Ray or a model starts."""
    plan, reward = args.plan(), load_reward(args.reward)
    training, validation = args.load_training(), args.load_validation()
    config = (
        args.grpo_config(training, validation, reward=reward, seed=args.seed)
        .env_runners(
            num_env_runners=args.num_env_runners,
            num_gpus_per_env_runner=args.num_gpus_per_env_runner,
            create_local_env_runner=args.num_env_runners == 0,
        )
        .learners(num_learners=args.num_learners, num_gpus_per_learner=args.num_gpus_per_learner)
        .training(async_steps=args.async_steps)
    )
    config.validate()
    return config, plan, validation


def open_run(args: Args) -> RunDirectory:
    if args.resume is not None:
        return RunDirectory(args.resume)
    # The terms themselves, so that a resumed run has them whatever has become of a YAML file.
    arguments = dataclasses.asdict(args) | {"reward": load_reward(args.reward).spec}
    return RunDirectory.create(run_path(args.output_dir, args.name, "grpo"), arguments)


if __name__ == "__main__":
    main()
