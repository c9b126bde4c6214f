"""The paper's ablation on synthetic scenes: what do the attention loss and GRPO add to plain fine-tuning?

How to run (what is done already is not done again, so an interrupted call is repeated as it was):
    focus ablation --jobs 2
    focus ablation --quick

Each arm is a call of `focus sft` or `focus grpo` from the model of another arm; the arms are listed in
focus_agents/studies/ablation/arms.py. Results: runs/ablation/ with a folder for each run, and in --report-dir the table
(ablation.md, ablation.json) and its pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge
from rich.console import Console

from focus_agents.cli.command_line import parse, quiet_libraries
from focus_agents.cli.errors import as_flags, make_console, print_warning, user_errors, work_errors
from focus_agents.errors import TrainingError
from focus_agents.runs.lock import hold_folder
from focus_agents.runs.progress import runs_progress
from focus_agents.settings import Seed, Settings
from focus_agents.studies.ablation.arms import ARMS

if TYPE_CHECKING:  # a command line is read without torch
    from focus_agents.studies.ablation.runs import AblationStudy

PAPER_ARMS = tuple(name for name, arm in ARMS.items() if arm.is_paper)
QUICK = {"seeds": (0,), "num_sft_steps": 120, "num_grpo_iterations": 20, "num_episodes": 64}


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """The paper's ablation on synthetic scenes."""

    last_wins: ClassVar[bool] = True  # so that a command line can be repeated with other arms behind it

    arms: tuple[str, ...] = tuple(ARMS)
    """Which arms; those that they start from are run too. Named twice, the last ones count."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Of training."""
    base: str = "focus-small-base"
    """The pretrained model that all arms start from."""
    num_sft_steps: Annotated[int, Ge(1)] = 1000
    """Optimizer steps of stage 1, for each arm."""
    num_grpo_iterations: Annotated[int, Ge(1)] = 1500
    """Iterations of stage 2, for each arm."""
    num_episodes: Annotated[int, Ge(1)] = 512
    """Episodes answered for each split and number of shots; four times as many for unseen identities."""
    jobs: Annotated[int, Ge(1)] = 1
    """Runs at a time."""
    quick: bool = False
    """The paper's arms and one seed in some five minutes: everything runs, too short to show the effect."""
    output_dir: Path = Path("runs/ablation")
    """Where runs go; what lies there is not run again."""
    report_only: bool = False
    """Report what has been done so far, and train nothing."""
    report_dir: Path | None = None
    """Where the report goes; None: --output-dir."""


def main() -> None:
    with user_errors(Args):
        args = parse(Args, __doc__)
        console = make_console()
        console.print(f"runs: {args.output_dir.absolute()}")  # torch takes its time
        study = check_arguments(args)
        if not args.report_only:
            hold_folder(study.folder, setting="output_dir")
    from focus_agents.studies.ablation.report import write_report

    for line in study.changes_of_code():
        print_warning(line)
    with work_errors(Args, console):
        succeeded = args.report_only or run_with_progress(study, console)
    with user_errors(Args):
        report = write_report(study, args.report_dir or study.folder)
    console.print(report.read_text())
    if not succeeded:
        raise SystemExit(1)


def run_with_progress(study: AblationStudy, console: Console) -> bool:
    """Run a study, and say what failed of it; False if something did. The rest can be reported all the same."""
    from focus_agents.studies.ablation.runs import run_arms

    with runs_progress(len(study.runs()), 0, console) as on_done:
        try:
            run_arms(study, lambda run: on_done(run.folder))
        except TrainingError as error:
            console.print(as_flags(f"error: {error}", Args), style="red")
            return False
    return True


def check_arguments(args: Args) -> AblationStudy:
    """Everything that can be wrong is found here, before anything is trained."""
    if unknown := sorted(set(args.arms) - set(ARMS)):
        raise ValueError(f"arms: expected names from {', '.join(ARMS)}, got {unknown}")
    quiet_libraries()
    import torch

    from focus_agents.models.loading import load_config
    from focus_agents.studies.ablation.runs import AblationStudy

    load_config(args.base)
    settings = {name: getattr(args, name) for name in ("seeds", "num_sft_steps", "num_grpo_iterations", "num_episodes")}
    arms = args.arms
    if args.quick:
        settings |= QUICK
        arms = PAPER_ARMS if arms == tuple(ARMS) else arms
    study = AblationStudy(
        folder=args.output_dir.absolute(),
        base=args.base,
        arms=arms,
        jobs=args.jobs,
        use_gpu=torch.cuda.is_available(),
        **settings,
    )
    study.check_seeds()
    study.runs()  # refuses a base without weights
    return study


if __name__ == "__main__":
    main()
