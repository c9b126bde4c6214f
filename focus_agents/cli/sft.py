r"""Stage 1: supervised fine-tuning with attention loss, on this machine or on a Ray cluster.

Train the small model that comes with the package:
    focus sft --name my-sft

Train without the attention loss, or as the baseline whose prompt names the object (IPLoc):
    focus sft --beta 0
    focus sft --beta 0 --template iploc

The paper's settings, on a cluster:
    focus sft --preset paper --ray-address auto --num-workers 8 --use-gpu --dataset got10k \
        --data-root /data/got10k

Results: runs/<name>/ with metrics.jsonl, summary.json, samples/validation.png and checkpoints/final, a policy in
transformers' format, which `focus grpo` takes as --init-from. `--resume runs/<name>` continues after an interruption.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

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
from focus_agents.cli.common import ModelArguments
from focus_agents.cli.data_arguments import TrainingDataArguments
from focus_agents.cli.data_checks import untold_absence
from focus_agents.cli.errors import as_flags, ending_at_once, in_a_thread, make_console, user_errors, warn, work_errors
from focus_agents.cli.presets import PAPER_DATA, PAPER_FINETUNING, PAPER_MODEL, preset_of
from focus_agents.cli.runs import RunArguments, after_a_stop, nothing_to_do, resumed
from focus_agents.cli.terminal import TerminalArguments, print_outcome
from focus_agents.cli.watching import WatchArguments
from focus_agents.models.settings import FinetuningSettings
from focus_agents.runs.folder import CONFIG_FILE, RunDirectory
from focus_agents.runs.starts import noting_a_stop
from focus_agents.runs.terminal import waiting
from focus_agents.settings import Settings, join
from focus_agents.sft.settings import SFTConfig, SFTLearningSettings, SFTLossSettings, SFTSchedule
from focus_env.errors import FocusError

if TYPE_CHECKING:  # a command line is read without torch and Ray
    from rich.console import Console

    from focus_agents.sft.plan import SFTPlan
    from focus_agents.sft.train import Workers


@dataclass(frozen=True, kw_only=True)
class ClusterArguments(RayArguments):
    """The processes that share the work, and where Ray runs them."""

    num_workers: Annotated[int, Ge(0)] = 1
    """Processes that train; 0 trains in this process, for debugging."""
    use_gpu: bool = False
    """Give each training process a GPU."""
    shard_weights: bool = False
    """Divide weights, gradients and optimizer among the workers (FSDP2), if one GPU does not hold them. In validation
    each worker holds all weights. A run may be resumed with or without it."""
    max_failures: Annotated[int, Ge(0)] = 2
    """How often the workers restart from the last checkpoint after one has died."""

    def needs(self) -> list[Need]:
        """Return the resources that a run asks of Ray; a Ray started here has a core for each worker."""
        return [
            Need(
                setting="num_workers",
                num_processes=self.num_workers,
                num_gpus=1 if self.use_gpu else 0,
                num_cpus=0 if self.ray_address is None or self.use_gpu else 1,
            )
        ]


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """Stage 1: supervised fine-tuning of a localization policy."""

    preset: Literal["default", "paper"] = "default"
    """Defaults of all other flags. default suits the small model. paper is FOCUS's table 7 with a 7B model."""
    data: TrainingDataArguments = TrainingDataArguments()
    model: ModelArguments = ModelArguments(model="focus-small-base")
    finetuning: FinetuningSettings = FinetuningSettings()
    loss: SFTLossSettings = SFTLossSettings()
    learning: SFTLearningSettings = SFTLearningSettings()
    validation: SFTSchedule = SFTSchedule()
    cluster: ClusterArguments = ClusterArguments()
    beside: BesideArguments = BesideArguments()
    terminal: TerminalArguments = TerminalArguments()
    run: RunArguments = RunArguments()
    watch: WatchArguments = WatchArguments()

    @property
    def config(self) -> SFTConfig:
        """The settings of the training as one record."""
        return join(SFTConfig, self.loss, self.learning, self.finetuning)


PRESETS: Mapping[str, Args] = {
    "default": Args(),
    "paper": Args(
        preset="paper",
        data=PAPER_DATA,
        model=PAPER_MODEL,
        finetuning=PAPER_FINETUNING,
        loss=SFTLossSettings(
            labels="full",
            beta=0.25,
            margin=0.025,
            margin_unit="absolute",
            attention_target="coords",
            attention_layers="all",
            one_shot=0.0,
        ),
        learning=SFTLearningSettings(
            num_steps=160,  # 20 epochs of 8 steps; the released checkpoint is that of step 96
            batch_size=64,
            micro_batch_size=1,
            lr=2e-4,
            warmup=0.03,
            cooldown=0.97,
            lr_end=0.0,
            adam_beta2=0.999,
            weight_decay=0.0,
            grad_clip=0.3,
        ),
        validation=SFTSchedule(max_completion_tokens=50, validation_interval=32, checkpoint_interval=8),
    ),
}
"""Presets by name. "paper" has the paper's known settings, those of its code where the two differ."""


def main() -> None:
    with user_errors(Args):
        args = with_words(parse_arguments(sys.argv[1:]))
        if args.run.resume is not None and args.cluster.num_workers == 0:
            raise ValueError("num_workers: expected 1 or more with --resume, got 0; that is for debugging")
        args.model.check_place()
        args.run.check_folder("sft", command="sft")
        args.data.check_places()
        console = make_console(arguments=Args)
        console.print(f"run folder: {args.run.path('sft')}", soft_wrap=True)  # Ray and torch take their time
        with args.run.claim("sft"):
            with waiting(console, "loading torch and Ray"):
                args.cluster.import_ray()
                from focus_agents.sft.train import check_resumable
            if args.run.resume is not None:
                run = RunDirectory(args.run.resume)
                check_resumable(run)
                args = resumed(args, command="sft", plain=with_commits)
                if (message := nothing_to_do(run, args)) is not None:
                    print(as_flags(message, Args))
                    return
                for line in args.model.describe_newer():
                    console.print(f"warning: {line}", style="yellow")
            with waiting(console, "checking model and data"):
                args = with_commits(args)
                plan, workers = check_arguments(args)
            console.print(f"unit of boxes: {plan.template.frame}")
            warn(untold_absence(args.data, plan.template), Args)
            tell_validation(plan.schedule.num_validation_episodes, plan.validation_episodes, console)
            tell_budget(plan, workers, args.cluster, console)
            args.cluster.connect(args.cluster.needs() if workers.num_workers else [], job=Job(folder=plan.run_path))
            used = (plan.training_episodes, plan.validation_episodes)
            run = args.run.open(plan.run_path, flat(args), *used, command="sft", model=args.model.source)
    train(args, plan, workers, run)


def tell_budget(plan: SFTPlan, workers: Workers, cluster: ClusterArguments, console: Console) -> None:
    """Print what a run will take.

    Raises:
        ValueError: If a worker needs more memory than there is.
    """
    from focus_agents.models.loading import as_trained
    from focus_agents.sft.budget import ADVICE, step_flops, worker_memory

    if (shape := shape_of_model(plan.model)) is None:
        return
    episodes = plan.training_episodes, plan.validation_episodes
    if (prompts := stage_prompts(plan.model, plan.template, plan.pictures, episodes, shape, console)) is None:
        return
    tell_prompts(console, shape, plan.pictures, *prompts)
    config = as_trained(plan.config, plan.model)
    memory = worker_memory(
        shape,
        config,
        plan.schedule,
        prompts=prompts,
        num_workers=workers.num_workers,
        shard_weights=workers.shard_weights,
    )
    process = Process(
        name="each worker", memory=memory, num=max(1, workers.num_workers), num_gpus=1 if workers.use_gpu else 0
    )
    device = device_for(uses_gpu=workers.use_gpu, ray_address=cluster.ray_address, is_own=workers.num_workers == 0)
    tell_unused_gpu(console, [process], "`use_gpu`")
    flops = step_flops(shape, config, prompt=prompts[0], num_workers=workers.num_workers)
    tell_memory(console, [process], device=device, advice=ADVICE, step_flops=flops)


def train(args: Args, plan: SFTPlan, workers: Workers, run: RunDirectory) -> None:
    """Start Ray where it does not run yet, train, and print the outcome."""
    from focus_agents.monitoring.ray_metrics import RayMetrics
    from focus_agents.monitoring.report import ReportSink
    from focus_agents.sft.train import train_sft

    console = make_console(arguments=Args)

    is_verbose = args.terminal.verbose

    def advice() -> str:
        return as_flags(after_a_stop(run), Args)

    def advice_after_leaving() -> str:
        console.print("ending the workers; a signal meanwhile ends all at once", style="yellow")
        # First, since a worker may be writing a checkpoint, which counts if it becomes whole.
        note = as_flags(f"what was saved is in {run.path}, and `resume` {run.path} goes on from it", Args)
        leave_ray(note)
        with ending_at_once(note), contextlib.suppress(FocusError, OSError):
            ReportSink(run.path).write()  # that says how far the run is, and how it is gone on with
        return advice()

    job = Job(folder=run.path, unit=str(plan.template.frame), go_on=f"focus sft --resume {run.path}")
    try:
        with work_errors(Args, console, FocusError, advice=advice_after_leaving):
            if workers.num_workers > 0:
                args.cluster.start_ray(num_processes=workers.num_workers, console=console, advice=advice, job=job)
                job.note_start()
                sinks = [*args.watch.open(run, console), RayMetrics(run.path.resolve().name, "sft")]
                with noting_a_stop(run.path / CONFIG_FILE):  # the thread hears of no signal
                    summary = in_a_thread(
                        lambda: train_sft(plan, workers, is_verbose=is_verbose, console=console, sinks=sinks)
                    )
            else:
                job.note_start()
                sinks = [*args.watch.open(run, console)]
                summary = train_sft(plan, workers, is_verbose=is_verbose, console=console, sinks=sinks)
    finally:
        leave_ray(f"what was saved is in {run.path}", console=console)
    print_outcome(run, summary, console)
    tell_beside(run, plan.validation_episodes, args.beside.specs(args.data.dataset), console)


def with_commits(args: Args) -> Args:
    """Return the arguments with a template's words and the commits of models on the hub, as a run keeps them."""
    return dataclasses.replace(args, model=args.model.with_words().pinned())


def parse_arguments(words: list[str]) -> Args:
    """Read a command line; the preset decides the defaults of everything else, so it is read first."""
    return parse(Args, __doc__, default=preset_of(words, PRESETS), words=words)


def with_words(args: Args) -> Args:
    """Return the arguments with the words of a template of one's own; see `ModelArguments.with_words`."""
    return dataclasses.replace(args, model=args.model.with_words())


def check_arguments(args: Args) -> tuple[SFTPlan, Workers]:
    """Find all that can be wrong, before Ray or a model starts."""
    args.watch.check_installed()
    args.beside.specs(args.data.dataset)
    import torch

    from focus_agents.sft.plan import SFTPlan
    from focus_agents.sft.train import Workers, check_plan

    plan = SFTPlan(
        model=args.model.source,
        template=args.model.load_template(),
        training_episodes=args.data.load_training(),
        validation_episodes=args.data.load_validation(),
        config=args.config,
        schedule=args.validation,
        run_path=args.run.path("sft").absolute(),
        max_image_tokens=args.model.max_image_tokens,
        validation_max_image_tokens=args.model.validation_max_image_tokens,
        num_threads=torch.get_num_threads(),
    )
    cluster = args.cluster
    workers = Workers(
        num_workers=cluster.num_workers,
        use_gpu=cluster.use_gpu,
        shard_weights=cluster.shard_weights,
        max_failures=cluster.max_failures,
    )
    check_plan(plan, workers)
    if cluster.use_gpu and cluster.ray_address is None and not torch.cuda.is_available():
        raise ValueError("use_gpu: this machine has no CUDA device that torch can use; train on the CPU")
    return plan, workers


if __name__ == "__main__":
    main()
