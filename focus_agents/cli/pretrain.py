"""Before stage 1: pretrain the small base model, which names single objects and finds them by name.

How to run (about 25 minutes on one CPU core):
    focus pretrain --name my-base

It has a prior of what objects are, as a model of the hub has, and has never seen an in-context episode. Results:
runs/<name>/ with metrics.jsonl, summary.json and checkpoints/final, a model that `focus sft` takes as --init-from.
`--resume runs/<name>` goes on after an interruption.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from focus_agents.cli import STARTED
from focus_agents.cli.command_line import flat, parse, quiet_libraries
from focus_agents.cli.errors import as_flags, make_console, user_errors, work_errors
from focus_agents.cli.runs import RunArguments, after_a_stop, nothing_to_do, resumed
from focus_agents.pretraining.settings import PretrainingConfig
from focus_agents.runs.folder import RunDirectory
from focus_agents.settings import Settings
from focus_env.errors import FocusError


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """Pretraining of the small base model."""

    learning: PretrainingConfig = PretrainingConfig()
    run: RunArguments = RunArguments()


def main() -> None:
    with user_errors(Args):
        args = parse(Args, __doc__)
        if args.run.resume is not None:
            args = resumed(args, command="pretrain")
            if (message := nothing_to_do(RunDirectory(args.run.path("pretraining")), args)) is not None:
                print(as_flags(message, Args))
                return
        run = args.run.open(args.run.path("pretraining"), flat(args), command="pretrain")
    console = make_console(arguments=Args)
    console.print(f"run folder: {run.path}")
    with work_errors(Args, console, FocusError, advice=lambda: after_a_stop(run)):
        from focus_agents.models.loading import SMALL, load_template  # here: a command line is read without torch
        from focus_agents.pretraining.train import Pretraining

        quiet_libraries()
        summary = Pretraining(run, args.learning, load_template(SMALL)).run(console)
    console.print(
        f"on unseen identities: box IoU {summary['box_iou']:.3f}, right words {summary['name_accuracy']:.1%}; "
        f"{time.perf_counter() - STARTED:.0f} s"
    )
    console.print(f"model: {run.checkpoints / 'final'}")
    console.print(f"run folder: {run.path}")


if __name__ == "__main__":
    main()
