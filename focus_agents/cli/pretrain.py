"""Before stage 1: pretrain the small base model, which names single objects and finds them by name.

How to run (about 25 minutes on one CPU core):
    focus pretrain --name my-base

It has a prior of what objects are, as a model of the hub has, and has never seen an in-context episode. Results:
runs/<name>/ with metrics.jsonl, summary.json and checkpoints/final, a model that `focus sft` takes as --init-from.
`--resume runs/<name>` goes on after an interruption.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from focus_agents.cli.command_line import flat, parse, quiet_libraries, restore_arguments
from focus_agents.cli.common import RunArguments
from focus_agents.cli.errors import user_errors, work_errors
from focus_agents.models.loading import SMALL, load_template
from focus_agents.pretraining.settings import PretrainingConfig
from focus_agents.pretraining.train import Pretraining
from focus_agents.runs.folder import RunDirectory
from focus_agents.settings import Settings
from focus_env.errors import FocusError


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """Pretraining of the small base model."""

    learning: PretrainingConfig = PretrainingConfig()
    run: RunArguments = RunArguments()


def main() -> None:
    quiet_libraries()
    console = Console()
    with user_errors(Args):
        args = parse(Args, __doc__)
        if args.run.resume is not None:
            args = restore_arguments(args, RunDirectory(args.run.resume).config(), keep=("run",))
        run = args.run.open(args.run.path("pretraining"), flat(args))
    console.print(f"run folder: {run.path}", highlight=False, markup=False)
    with work_errors(Args, console, FocusError):
        summary = Pretraining(run, args.learning, load_template(SMALL)).run(console)
    console.print(
        f"on unseen identities: box IoU {summary['box_iou']:.3f}, right words {summary['name_accuracy']:.1%}; "
        f"{summary['seconds']:.0f} s\nmodel: {run.checkpoints / 'final'}",
        highlight=False,
    )


if __name__ == "__main__":
    main()
