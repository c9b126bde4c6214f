"""Which reward trains best? The same start and budget for each, several seeds, one report.

How to run (30 to 40 minutes on 2 cores; what is done already is not done again, so an interrupted call is repeated):
    focus rewards
    focus rewards --rewards iou giou "iou:1,format:0.5,copy:0.5" --seeds 0 1 2

A reward is a spec as for `focus grpo`, or the name of a term, which then comes with format:0.5. Each run of GRPO is a
trial of Ray Tune; as many go at once as there are cores or GPUs. Results: --output-dir with a folder for each run, and
in --report-dir rewards_report.md, .html (one file with its pictures) and .json.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import ray
import tyro
from rich.console import Console

from focus_agents.cli.common import RayArguments, load_reward, part_of, quiet_libraries
from focus_agents.cli.errors import as_flags, user_errors
from focus_agents.errors import TrainingError
from focus_agents.grpo.arguments import GRPOArguments
from focus_agents.models.loading import Precision
from focus_agents.runs.progress import runs_progress
from focus_agents.studies.rewards.report import write_report
from focus_agents.studies.rewards.runs import Study, check_study, plan_study, reward_of, run_study


@dataclass(frozen=True, kw_only=True)
class Args(GRPOArguments, RayArguments):
    """Which reward trains best?"""

    rewards: tuple[str, ...] = ("iou", "giou", "piecewise")
    """What is compared: specs such as iou:1,format:0.5, or names of terms."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of training."""
    precision: Precision = "bf16"
    """bf16 computes in bfloat16, which takes half the time on a CPU that has units for it, and longer on others."""
    num_iterations: int = 300
    """Training iterations of each run."""
    max_completion_tokens: int = 16
    """Tokens at which an answer is cut."""
    validation_interval: int = 75
    """Iterations between further validations; 0: none."""
    cpus_per_run: int = 1
    """CPU cores of each run."""
    gpus_per_run: float = 0.0
    """GPUs of each run, fractions allowed."""
    output_dir: Path = Path("runs/rewards")
    """Where runs go; what lies there is not run again."""
    report_dir: Path | None = None
    """Where the report goes; default: --output-dir."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    quiet_libraries()
    with user_errors(Args):
        study = check_arguments(args)
    console = Console()
    console.print(f"runs: {study.folder}", highlight=False)
    args.start_ray(num_processes=0, console=console)
    runs = plan_study(study)
    num_done = sum(run.is_done for run in runs)
    try:
        with runs_progress(len(runs), num_done, console) as on_done:
            run_study(study, lambda run: on_done(run.folder))
    except TrainingError as error:
        console.print(as_flags(f"error: {error}", Args), style="red", highlight=False)
        raise SystemExit(1) from None
    finally:
        ray.shutdown()
    command = shlex.join(["focus", "rewards", *sys.argv[1:]])
    report = write_report(study, args.report_dir or study.folder, command=command)
    console.print(report.read_text(), highlight=False, soft_wrap=True, markup=False)
    console.print(f"with pictures: {report.with_suffix('.html')}", highlight=False)


def check_arguments(args: Args) -> Study:
    """Everything that can be wrong is found here, before anything is trained."""
    for name, least in (("cpus_per_run", 1), ("gpus_per_run", 0)):
        if getattr(args, name) < least:
            raise ValueError(f"{name}: expected {least} or more, got {getattr(args, name)}")
    study = Study(
        folder=args.output_dir.absolute(),
        rewards={name: load_reward(reward_of(name)).spec for name in args.rewards},
        seeds=args.seeds,
        settings=part_of(args, GRPOArguments),
        cpus_per_run=args.cpus_per_run,
        gpus_per_run=args.gpus_per_run,
    )
    check_study(study)
    return study


if __name__ == "__main__":
    main()
