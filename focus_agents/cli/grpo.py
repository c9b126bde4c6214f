r"""Stage 2: GRPO of a localization policy, on this machine or on a Ray cluster.

Train the small model that comes with the package, from its stage 1:
    focus grpo

Train on short videos, where the reward rises within minutes; `make train` runs this command:
    focus grpo --preset tracks

Train your own policy, which must already answer in the format, such as one trained by `focus sft`:
    focus grpo --init-from runs/my-sft/checkpoints/final

On real frames in GOT-10k's layout:
    focus grpo --dataset got10k --data-root /data/got10k --init-from runs/my-sft/checkpoints/final

The paper's settings, after its stage 1, on a cluster of 16 GPUs:
    focus grpo --preset paper --ray-address auto --num-env-runners 8 --num-gpus-per-env-runner 1 \
        --num-learners 8 --num-gpus-per-learner 1 --dataset got10k --data-root /data/got10k \
        --init-from runs/my-7b/checkpoints/final

Results: runs/<name>/ with metrics.jsonl, summary.json, samples/validation.png (supports, target, answers before and
after) and checkpoints/final, a policy in transformers' format. `--resume runs/<name>` continues after an interruption.
SIGTERM and Ctrl-C end a run after the current iteration, with a checkpoint, and with exit codes 143 and 130.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from focus_agents.cli.beside import BesideArguments, tell_beside
from focus_agents.cli.budget import (
    Process,
    device_for,
    shape_of_model,
    stage_prompts,
    tell_memory,
    tell_prompts,
    tell_unused_gpu,
    tell_validation,
)
from focus_agents.cli.cluster import Job, Need, RayArguments, leave_ray
from focus_agents.cli.command_line import flat, parse
from focus_agents.cli.common import ModelArguments, RewardText
from focus_agents.cli.data_arguments import TrainingDataArguments
from focus_agents.cli.data_checks import untold_absence
from focus_agents.cli.errors import as_flags, make_console, user_errors, warn, work_errors
from focus_agents.cli.presets import PAPER_DATA, PAPER_FINETUNING, PAPER_MODEL, preset_of
from focus_agents.cli.reward import load_reward
from focus_agents.cli.runs import RunArguments, after_a_stop, nothing_to_do, resumed
from focus_agents.cli.terminal import TerminalArguments, print_outcome
from focus_agents.cli.watching import WatchArguments
from focus_agents.grpo.settings import GRPOSchedule, GRPOSettings, LearningSettings, LossSettings, SamplingSettings
from focus_agents.models.settings import FinetuningSettings, ModelSettings
from focus_agents.runs.folder import RunDirectory
from focus_agents.runs.terminal import waiting
from focus_agents.settings import Seed, Settings, as_dict, join
from focus_env.errors import FocusError

if TYPE_CHECKING:  # a command line is read without torch and Ray
    from rich.console import Console

    from focus_agents.grpo.algorithm import GRPOConfig
    from focus_agents.grpo.plan import GRPOPlan


@dataclass(frozen=True, kw_only=True)
class ClusterArguments(RayArguments):
    """The processes that share the work, and where Ray runs them."""

    num_env_runners: Annotated[int, Ge(0)] = 0
    """Processes that sample; 0 samples in this process."""
    num_learners: Annotated[int, Ge(0)] = 0
    """Processes that train; 0 trains in this process."""
    num_gpus_per_env_runner: Annotated[float, Ge(0)] = 0
    """GPUs of each sampling process, fractions allowed."""
    num_gpus_per_learner: Annotated[float, Ge(0)] = 0
    """GPUs of each training process, fractions allowed."""

    def needs(self) -> list[Need]:
        """Return the resources that a run asks of Ray; without other processes, the command samples and trains."""
        return [
            Need(
                setting="num_gpus_per_env_runner",
                num_processes=self.num_env_runners,
                num_gpus=self.num_gpus_per_env_runner,
            ),
            Need(
                setting="num_gpus_per_learner",
                num_processes=max(1, self.num_learners),
                num_gpus=self.num_gpus_per_learner,
            ),
            Need(
                setting="num_env_runners" if self.num_env_runners else "num_learners",
                num_processes=self.num_env_runners + self.num_learners,
                num_cpus=0 if self.ray_address is None else 1,  # Ray here has a core for each of them
            ),
        ]


@dataclass(frozen=True, kw_only=True)
class TrainingArguments(Settings):
    """All settings of a GRPO training, except for the reward, the seed and the processes that share the work."""

    data: TrainingDataArguments = TrainingDataArguments()
    model: ModelArguments = ModelArguments(model="focus-small-sft")
    finetuning: FinetuningSettings = FinetuningSettings()
    sampling: SamplingSettings = SamplingSettings()
    loss: LossSettings = LossSettings()
    learning: LearningSettings = LearningSettings()
    validation: GRPOSchedule = GRPOSchedule()

    def plan(self, *, reward: str, seed: int) -> GRPOPlan:
        """Load all that a run needs, except for the model's weights.

        Args:
            reward: A reward as for `load_reward`.
            seed: Seed of sampling, shuffling and new weights.

        Raises:
            ValueError: If an argument is out of its range.
            DatasetError: If there are no such episodes.
            CheckpointError: If there is no such model.
        """
        from focus_agents.grpo.plan import GRPOPlan

        model = ModelSettings(
            model=self.model.source,
            max_image_tokens=self.model.max_image_tokens,
            validation_max_image_tokens=self.model.validation_max_image_tokens,
            **as_dict(self.finetuning),
        )
        return GRPOPlan(
            model=model,
            template=self.model.load_template(),
            reward=load_reward(reward),
            training_episodes=self.data.load_training(),
            validation_episodes=self.data.load_validation(),
            settings=join(GRPOSettings, self.sampling, self.loss, self.learning),
            schedule=self.validation,
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True)
class Args(TrainingArguments):
    """Stage 2: GRPO of a localization policy."""

    preset: Literal["default", "tracks", "paper"] = "default"
    """Defaults of all other flags. default suits the small model. tracks trains on short videos, from a short stage 1,
    and gains within minutes. paper is FOCUS's stage 2 with a 7B model."""
    reward: RewardText = "iou:1,format:0.5"
    seed: Seed = 0
    """Seed of sampling, shuffling and new weights."""
    cluster: ClusterArguments = ClusterArguments()
    beside: BesideArguments = BesideArguments()
    terminal: TerminalArguments = TerminalArguments()
    run: RunArguments = RunArguments()
    watch: WatchArguments = WatchArguments()


PRESETS: Mapping[str, Args] = {
    "default": Args(),
    "tracks": Args(
        preset="tracks",
        data=TrainingDataArguments(scenes="tracks"),
        model=ModelArguments(model="focus-small-start"),
        sampling=SamplingSettings(max_completion_tokens=16),
        learning=LearningSettings(num_iterations=150),
        validation=GRPOSchedule(validation_interval=25, num_validation_episodes=256),
    ),
    "paper": Args(
        preset="paper",
        data=PAPER_DATA,
        model=PAPER_MODEL,
        finetuning=PAPER_FINETUNING,
        sampling=SamplingSettings(group_size=4, rollout_batch_groups=4, max_completion_tokens=50),
        # The penalty and the average over answers are those of the code that the paper names, TRL 0.15.
        loss=LossSettings(loss="grpo", kl_coeff=0.04, kl_estimator="k3"),
        learning=LearningSettings(micro_batch_groups=1, lr=1e-5, warmup=0.01, cooldown=0.99, lr_end=0.0, grad_clip=1.0),
    ),
}
"""Presets by name. "paper" has the known settings of the paper (its table 7), and of the code that it names."""


def main() -> None:
    with user_errors(Args):
        args = with_spec(parse_arguments(sys.argv[1:]))
        args.model.check_place()
        args.run.check_folder("grpo", command="grpo")
        args.data.check_places()
        console = make_console(arguments=Args)
        console.print(f"run folder: {args.run.path('grpo')}", soft_wrap=True)  # Ray and torch take their time
        with args.run.claim("grpo"):
            with waiting(console, "loading torch and Ray"):
                args.cluster.import_ray()
                import focus_agents.grpo.train  # noqa: F401 - here, while it is said that this takes its time
            if args.run.resume is not None:
                args = resumed(args, command="grpo", plain=with_commits)
                if (message := nothing_to_do(RunDirectory(args.run.path("grpo")), args)) is not None:
                    print(as_flags(message, Args))
                    return
                for line in args.model.describe_newer():
                    console.print(f"warning: {line}", style="yellow")
            with waiting(console, "checking model and data"):
                args = with_commits(args)
                plan, config = check_arguments(args)
            console.print(f"unit of boxes: {plan.template.frame}")
            warn(untold_absence(args.data, plan.template), Args)
            tell_validation(plan.schedule.num_validation_episodes, plan.validation_episodes, console)
            tell_budget(plan, args.cluster, console)
            path = args.run.path("grpo")
            args.cluster.connect(args.cluster.needs(), job=Job(folder=path))
            run = open_run(args, *plan.objects, path=path)
    train(args, plan, config, run)


def tell_budget(plan: GRPOPlan, cluster: ClusterArguments, console: Console) -> None:
    """Print what a run will take.

    Raises:
        ValueError: If a process needs more memory than there is.
    """
    from focus_agents.grpo.budget import ADVICE, LEARNING, learner_memory, process_memory, sampler_memory, step_flops
    from focus_agents.models.loading import as_trained

    if (shape := shape_of_model(plan.model.model)) is None:
        return
    model, settings = as_trained(plan.model, plan.model.model), plan.settings
    episodes = plan.training_episodes, plan.validation_episodes
    if (prompts := stage_prompts(model.model, plan.template, plan.pictures, episodes, shape, console)) is None:
        return
    tell_prompts(console, shape, plan.pictures, *prompts)
    num_samplers, num_learners = cluster.num_env_runners, cluster.num_learners
    gpus = cluster.num_gpus_per_env_runner, cluster.num_gpus_per_learner
    device = device_for(uses_gpu=any(gpus), ray_address=cluster.ray_address, is_own=num_samplers == num_learners == 0)
    device_bytes = None if device is None else device.total
    processes = []
    if num_samplers == num_learners == 0:
        memory = process_memory(shape, model, settings, prompts=prompts, device_bytes=device_bytes)
        processes = [Process(name="this process", memory=memory, num_gpus=gpus[1])]
    else:
        sampler = sampler_memory(shape, model, settings, prompts=prompts, device_bytes=device_bytes)
        learner = {LEARNING: learner_memory(shape, model, settings, prompt=prompts[0], num_learners=num_learners)}
        processes = [
            Process(name="each sampler", memory=sampler, num=max(1, num_samplers), num_gpus=gpus[0]),
            Process(name="each learner", memory=learner, num=max(1, num_learners), num_gpus=gpus[1]),
        ]
    tell_unused_gpu(console, processes, "`num_gpus_per_learner`")
    flops = step_flops(shape, model, settings, prompt=prompts[0], num_learners=num_learners)
    tell_memory(console, processes, device=device, advice=ADVICE, step_flops=flops)
    if settings.engine == "vllm":
        share = f"{settings.engine_memory:.0%} of its GPU"
        console.print(f"not counted: what each sampler's vLLM holds beside the weights, up to {share}", soft_wrap=True)


def train(args: Args, plan: GRPOPlan, config: GRPOConfig, run: RunDirectory) -> None:
    """Start Ray where it does not run yet, train, and print the outcome."""
    from focus_agents.grpo.train import train_grpo
    from focus_agents.monitoring.ray_metrics import RayMetrics

    console = make_console(arguments=Args)
    if args.model.source == "tiny" and args.run.resume is None:
        console.print(
            "warning: the tiny model starts from random weights, which never answer in the format, so GRPO has "
            "nothing to learn from; train it by `focus sft` first and pass --init-from",
            style="yellow",
        )
    num_processes = args.cluster.num_env_runners + args.cluster.num_learners

    def advice() -> str:
        return as_flags(after_a_stop(run), Args)

    try:
        with work_errors(Args, console, FocusError, advice=advice):
            job = Job(folder=run.path, unit=str(plan.template.frame), go_on=f"focus grpo --resume {run.path}")
            args.cluster.start_ray(num_processes=num_processes, console=console, advice=advice, job=job)
            job.note_start()
            summary = train_grpo(
                config,
                plan.schedule,
                run,
                plan.validation_episodes,
                is_resumed=args.run.resume is not None,
                is_verbose=args.terminal.verbose,
                console=console,
                sinks=[*args.watch.open(run, console), RayMetrics(run.path.resolve().name, "grpo")],
            )
    finally:
        leave_ray(f"what was saved is in {run.path}", console=console)
    print_outcome(run, summary, console)
    tell_beside(run, plan.validation_episodes, args.beside.specs(args.data.dataset), console)


def parse_arguments(words: list[str]) -> Args:
    """Read a command line; the preset decides the defaults of everything else, so it is read first."""
    return parse(Args, __doc__, default=preset_of(words, PRESETS), words=words)


def with_spec(args: Args) -> Args:
    """Return the arguments with a reward's terms and a template's words themselves in place of files.

    A run that is gone on with has them, whatever has become of the files.
    """
    return dataclasses.replace(args, reward=load_reward(args.reward).spec, model=args.model.with_words())


def with_commits(args: Args) -> Args:
    """Return the arguments with the reward's terms, and the commits of models on the hub; see `with_spec`."""
    args = with_spec(args)
    return dataclasses.replace(args, model=args.model.pinned())


def check_arguments(args: Args) -> tuple[GRPOPlan, GRPOConfig]:
    """Find all that can be wrong, before Ray or a model starts."""
    args.watch.check_installed()
    args.beside.specs(args.data.dataset)
    plan, cluster = args.plan(reward=args.reward, seed=args.seed), args.cluster
    config = (
        plan.config()
        .env_runners(
            num_env_runners=cluster.num_env_runners,
            num_gpus_per_env_runner=cluster.num_gpus_per_env_runner,
            create_local_env_runner=cluster.num_env_runners == 0,
        )
        .learners(num_learners=cluster.num_learners, num_gpus_per_learner=cluster.num_gpus_per_learner)
    )
    config.validate()
    return plan, config


def open_run(args: Args, *used: Any, path: Path | None = None) -> RunDirectory:
    """Open the run's folder, with its arguments inside; `used` are objects that may be a user's own code."""
    return args.run.open(
        path or args.run.path("grpo"), flat(with_spec(args)), *used, command="grpo", model=args.model.source
    )


if __name__ == "__main__":
    main()
