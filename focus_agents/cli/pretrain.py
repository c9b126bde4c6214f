"""Before stage 1: pretrain the small base model, which names single objects and finds them by name.

How to run (about 25 minutes on one CPU core):
    focus pretrain --name my-base

It has a prior of what objects are, as a model of the hub has, and has never seen an in-context episode. Results:
runs/<name>/ with metrics.jsonl, summary.json and checkpoints/final, a model that `focus sft` takes as --init-from.
`--resume runs/<name>` goes on after an interruption.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from focus_agents.cli.common import part_of, quiet_libraries, restore_arguments, run_path
from focus_agents.cli.errors import user_errors
from focus_agents.models.loading import SMALL, load_template
from focus_agents.pretraining.train import Pretraining, PretrainingConfig
from focus_agents.runs.folder import RunDirectory


@dataclass(frozen=True, kw_only=True)
class Args(PretrainingConfig):
    """Pretraining of the small base model."""

    name: str | None = None
    """Name of the run's folder; default: pretraining and the time of the start."""
    output_dir: Path = Path("runs")
    """Where run folders go."""
    resume: Path | None = None
    """Folder of an interrupted run to go on with, with that run's own arguments."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    quiet_libraries()
    with user_errors(Args):
        if args.resume is not None:
            run = RunDirectory(args.resume)
            args = restore_arguments(args, run, keep=("resume",))
        else:
            run = RunDirectory.create(run_path(args.output_dir, args.name, "pretraining"), dataclasses.asdict(args))
    console = Console()
    console.print(f"run folder: {run.path}", highlight=False)
    summary = Pretraining(run, part_of(args, PretrainingConfig), load_template(SMALL)).run(console)
    console.print(
        f"on unseen identities: box IoU {summary['box_iou']:.3f}, right words {summary['name_accuracy']:.1%}; "
        f"{summary['seconds']:.0f} s\nmodel: {run.checkpoints / 'final'}",
        highlight=False,
    )


if __name__ == "__main__":
    main()
