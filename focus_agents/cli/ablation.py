"""Test the paper's claim on synthetic scenes, part by part.

How to run (finished runs are not repeated; after an interruption, repeat the same command):
    focus ablation
    focus ablation --quick
    focus ablation --arms attention-grpo attention-more --scenes tracks --seeds 0

Each arm is a call of `focus sft` or `focus grpo` that starts from the model of another arm or from a base. Bases, kinds
of scenes and arms are listed in focus_agents/studies/ablation/arms.py. Results: runs/ablation/ with a folder for each
run, and in --report-dir the tables (ablation.md, ablation.html, ablation.json) and their pictures.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge
from rich.console import Console

from focus_agents.cli.command_line import parse, quiet_libraries
from focus_agents.cli.errors import as_flags, make_console, print_warning, user_errors, work_errors
from focus_agents.errors import TrainingError
from focus_agents.models.settings import Precision
from focus_agents.runs.lock import claimed_folder
from focus_agents.runs.progress import runs_progress
from focus_agents.runs.terminal import waiting
from focus_agents.settings import Seed, Settings
from focus_agents.studies.ablation.arms import ARMS, BASES, KINDS
from focus_agents.studies.ablation.grid import Variant, default_arms, planned, quick

if TYPE_CHECKING:  # a command line is read without torch
    from focus_agents.studies.ablation.runs import AblationStudy

QUICK = {"seeds": (0,), "num_sft_steps": 60, "num_grpo_iterations": 10, "num_episodes": 16}
QUICK_PROBE_EPISODES = 150
MOST_JOBS = 4
"""Of those that are run where no number is given; each takes about a gigabyte."""


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """Test the paper's claim on synthetic scenes."""

    last_wins: ClassVar[bool] = True  # so that a command line can be repeated with other arms behind it

    arms: tuple[str, ...] = default_arms()
    """Arms to run, on the bases and scenes of the plan. The arms that they start from are run too. If the flag is
    repeated, the last one counts."""
    bases: tuple[str, ...] = tuple(BASES)
    """Bases: where, how, more; see docs/bases.md."""
    scenes: tuple[str, ...] = tuple(KINDS)
    """Kinds of scenes: one_look, parts, tracks."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Seeds of the trainings. Some arms are run only with the first seed or the first two."""
    base: str = BASES["where"].model
    """Model of the base `where`."""
    base_how: str = BASES["how"].model
    """Model of the base `how`, whose box tokens also hold the look of the boxed object."""
    base_more: str = BASES["more"].model
    """Model of the base `more`, the control of `how`: pretrained as long, without heads."""
    num_sft_steps: Annotated[int, Ge(1)] = 1000
    """Optimizer steps of stage 1, of which each kind of scenes takes its fraction."""
    num_grpo_iterations: Annotated[int, Ge(1)] = 170
    """Iterations of GRPO, for each arm."""
    num_episodes: Annotated[int, Ge(1)] = 256
    """Episodes answered for each split and number of shots; four times as many for unseen identities."""
    precision: Precision | None = None
    """Precision of all trainings and answers; None: bf16 on a GPU and on a core with bfloat16 units, else fp32."""
    jobs: Annotated[int, Ge(1)] | None = None
    """Runs at a time; None: one for each core, at most four, and one on a GPU."""
    quick: bool = False
    """Run the paper's arms on one base with one seed, in about ten minutes. These runs are too short to show the
    effect."""
    output_dir: Path = Path("runs/ablation")
    """Folder of the runs; finished runs in it are not repeated."""
    report_only: bool = False
    """Report the finished runs, and train nothing."""
    report_dir: Path | None = None
    """Folder of the report; None: --output-dir."""


def main() -> None:
    with user_errors(Args):
        args = parse(Args, __doc__)
        console = make_console()
        folder = args.output_dir.absolute()
        console.print(f"runs: {folder}")  # torch takes its time
        claim = contextlib.nullcontext() if args.report_only else claimed_folder(folder, setting="output_dir")
        with claim, waiting(console, "loading torch"):
            study = check_arguments(args)
    from focus_agents.studies.ablation.costs import estimate
    from focus_agents.studies.ablation.report import write_report

    if not args.report_only:
        console.print(str(estimate(study)), soft_wrap=True)
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
    from focus_agents.studies.ablation.training import run_arms

    with runs_progress(len(study.runs()), 0, console) as on_done:
        try:
            run_arms(study, lambda run: on_done(run.folder))
        except TrainingError as error:
            console.print(as_flags(f"error: {error}", Args), style="red")
            return False
    return True


def check_arguments(args: Args) -> AblationStudy:
    """Everything that can be wrong is found here, before anything is trained."""
    check_names("arms", args.arms, ARMS)
    check_names("bases", args.bases, BASES)
    check_names("scenes", args.scenes, KINDS)
    quiet_libraries()
    import torch

    from focus_agents.models.devices import CPU, CUDA, fast_precision
    from focus_agents.models.loading import load_config
    from focus_agents.studies.ablation.runs import AblationStudy

    models = models_of(args)
    for model in models.values():
        load_config(model)
    settings = {name: getattr(args, name) for name in ("seeds", "num_sft_steps", "num_grpo_iterations", "num_episodes")}
    if args.quick:
        settings |= QUICK | {"num_probe_episodes": QUICK_PROBE_EPISODES}
    use_gpu = torch.cuda.is_available()
    study = AblationStudy(
        folder=args.output_dir.absolute(),
        bases=models,
        variants=tuple(chosen_variants(args, models)),
        jobs=args.jobs or (1 if use_gpu else min(MOST_JOBS, os.cpu_count() or 1)),
        precision=args.precision or fast_precision(CUDA if use_gpu else CPU),
        use_gpu=use_gpu,
        **settings,
    )
    study.check_seeds()
    study.runs()  # refuses a base without weights
    return study


def check_names(setting: str, given: Collection[str], known: Collection[str]) -> None:
    """Refuse names that the plan does not have.

    Raises:
        ValueError: If there are some.
    """
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"{setting}: expected names from {', '.join(known)}, got {unknown}")


def models_of(args: Args) -> dict[str, str]:
    """Return the models of the bases that are asked for."""
    models = {"where": args.base, "how": args.base_how, "more": args.base_more}
    return {name: model for name, model in models.items() if name in args.bases}


def chosen_variants(args: Args, bases: Collection[str]) -> list[Variant]:
    """Return the plan's variants for the arms, bases and scenes that are asked for; a quick look of all has its own.

    Raises:
        ValueError: If it holds nothing of them.
    """
    is_all = args.arms == default_arms()
    plan = quick() if args.quick and is_all else planned(args.arms, bases, args.scenes)
    chosen = [variant for variant in plan if variant.base in bases and variant.scenes in args.scenes]
    if not chosen:
        places = [
            f"{arm} on " + ", ".join(f"{kind} ({', '.join(of)})" for kind, of in ARMS[arm].grid.items())
            for arm in args.arms
        ]
        raise ValueError(
            f"arms: expected some that the plan has on bases {', '.join(bases) or 'none'} and scenes "
            f"{', '.join(args.scenes)}, got none; it has {'; '.join(places)}"
        )
    return chosen


if __name__ == "__main__":
    main()
