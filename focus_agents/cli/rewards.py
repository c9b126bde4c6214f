"""Train the same start by several rewards, with several seeds each, and compare them in one report.

How to run (20 to 40 minutes on 2 cores; finished runs are not repeated; after an interruption, repeat the command):
    focus rewards
    focus rewards --rewards "iou:1,format:0.5" "giou:1,format:0.5" "iou:1,format:0.5,copy:0.5" --seeds 0 1 2

The default compares three rewards with three controls, which pay for something else than right boxes and must lose. The
runs are on short videos, from a short stage 1, as `focus grpo --preset tracks`, where GRPO has room to gain.

A reward is written as for `focus grpo`: the name of a single term means that term alone. Each run of GRPO is a trial of
Ray Tune; as many run at once as there are cores or GPUs. Results: --output-dir with a folder for each run, and in
--report-dir rewards_report.md, .html (one file with its pictures) and .json.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from focus_agents.cli.budget import tell_validation
from focus_agents.cli.cluster import Job, Need, RayArguments, leave_ray
from focus_agents.cli.command_line import flat, parse
from focus_agents.cli.common import ModelArguments
from focus_agents.cli.data_arguments import TrainingDataArguments
from focus_agents.cli.errors import make_console, print_warning, user_errors, work_errors
from focus_agents.cli.grpo import PRESETS, TrainingArguments
from focus_agents.cli.reward import load_reward
from focus_agents.cli.watching import TENSORBOARD, WatchArguments
from focus_agents.errors import TrainingError
from focus_agents.grpo.settings import GRPOSchedule, LearningSettings, SamplingSettings
from focus_agents.runs.lock import claimed_folder
from focus_agents.runs.progress import runs_progress
from focus_agents.runs.terminal import waiting
from focus_agents.settings import Seed, names_of

if TYPE_CHECKING:  # a command line is read without torch and Ray
    from focus_agents.studies.rewards.runs import RewardStudy

TRACKS = PRESETS["tracks"]
"""Where GRPO has something to gain: 11 points in twice as many iterations."""


@dataclass(frozen=True, kw_only=True)
class Args(TrainingArguments):
    """Train the same start by several rewards, and compare them."""

    rewards: tuple[str, ...] = (
        "iou:1,format:0.5", "giou:1,format:0.5", "piecewise:1,format:0.5", "format", "random(0)", "area",
    )  # fmt: skip
    """Rewards to compare: specs or YAML files, as for `focus grpo`."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Seeds of the trainings."""
    cpus_per_run: Annotated[int, Ge(1)] = 1
    """CPU cores of each run."""
    gpus_per_run: Annotated[float, Ge(0)] = 0.0
    """GPUs of each run, fractions allowed."""
    output_dir: Path = Path("runs/rewards")
    """Folder of the runs; finished runs in it are not repeated."""
    report_dir: Path | None = None
    """Folder of the report; None: --output-dir."""
    data: TrainingDataArguments = TRACKS.data
    model: ModelArguments = TRACKS.model
    sampling: SamplingSettings = TRACKS.sampling
    learning: LearningSettings = dataclasses.replace(TRACKS.learning, num_iterations=75)
    validation: GRPOSchedule = GRPOSchedule(validation_interval=75, num_validation_episodes=512)
    cluster: RayArguments = RayArguments()
    watch: WatchArguments = WatchArguments()


def main() -> None:
    with user_errors(Args):
        args = parse(Args, __doc__)
        args = dataclasses.replace(args, model=args.model.with_words())
        args.model.check_place()
        folder = args.output_dir.absolute()
        console = make_console(arguments=Args)
        console.print(f"runs: {folder}, each with report.html and log.txt")  # Ray and torch take their time
        if TENSORBOARD in args.watch.log_to:
            console.print(f"{TENSORBOARD}: `focus tensorboard {folder}`")
        with claimed_folder(folder, setting="output_dir"):
            with waiting(console, "loading torch and Ray"):
                study = check_arguments(args)
            tell_validation(study.plan.schedule.num_validation_episodes, study.plan.validation_episodes, console)
            need = Need(setting="cpus_per_run", num_cpus=args.cpus_per_run)
            args.cluster.connect(
                [need, Need(setting="gpus_per_run", num_gpus=args.gpus_per_run)], job=Job(folder=study.folder)
            )
    train(args, study)


def train(args: Args, study: RewardStudy) -> None:
    """Train what is not trained yet, and write the report."""
    from focus_agents.studies.rewards.report import write_report
    from focus_agents.studies.rewards.runs import run_trials

    console = make_console()
    for line in study.changes_of_code(*study.objects):
        print_warning(line)
    runs = study.runs()
    num_done = sum(run.is_done for run in runs)
    try:
        with work_errors(Args, console, TrainingError), runs_progress(len(runs), num_done, console) as on_done:
            args.cluster.start_ray(
                num_processes=0,
                console=console,
                advice=lambda: "the same command goes on with it",
                job=Job(folder=study.folder),
            )
            run_trials(study, lambda run: on_done(run.folder))
    finally:
        leave_ray(f"what was trained is in {study.folder}", console=console)
    command = shlex.join(["focus", "rewards", *sys.argv[1:]])
    with user_errors(Args):
        report = write_report(study, args.report_dir or study.folder, command=command)
    console.print(report.read_text())
    console.print(f"with pictures: {report.with_suffix('.html')}")


def check_arguments(args: Args) -> RewardStudy:
    """Find all that can be wrong, before anything is trained."""
    args.watch.check_installed()
    if len(set(args.rewards)) < len(args.rewards):
        raise ValueError(f"rewards: expected two or more different ones to compare, got {sorted(set(args.rewards))}")
    rewards = {name: load_reward(name) for name in args.rewards}
    args.cluster.import_ray()  # what is wrong above is said before Ray and torch are there
    from focus_agents.studies.rewards.runs import RewardStudy, check_rewards

    study = RewardStudy(
        folder=args.output_dir.absolute(),
        rewards={name: reward.spec for name, reward in rewards.items()},
        seeds=args.seeds,
        plan=args.plan(reward=next(iter(rewards.values())).spec if rewards else "iou", seed=0),
        arguments=flat(TrainingArguments(**{name: getattr(args, name) for name in names_of(TrainingArguments)})),
        cpus_per_run=args.cpus_per_run,
        gpus_per_run=args.gpus_per_run,
        open_places=args.watch.open,
    )
    check_rewards(study)
    return study


if __name__ == "__main__":
    main()
