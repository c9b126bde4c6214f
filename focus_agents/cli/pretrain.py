"""Pretrain the small base model of stage 1, which names single objects and finds them by name.

How to run (about 25 minutes on one CPU core):
    focus pretrain --name my-base

Train a base whose box text holds the look of the object, from an existing base (10 minutes), and its control, with as
many steps without the heads:
    focus pretrain --name my-base-how --init-from focus-small-base --num-steps 1300 --seed 1 --name-weight 1
    focus pretrain --name my-base-more --init-from focus-small-base --num-steps 1300 --seed 1

The base has a prior of objects, as a model of the hub has, and has never seen an in-context episode. Results:
runs/<name>/ with metrics.jsonl, summary.json and checkpoints/final, a model that `focus sft` takes as --init-from. The
linear probe at the end says at which tokens and layers the colour of a boxed object can be read; `focus probe` does the
same for any model. `--resume runs/<name>` continues after an interruption.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

from focus_agents.cli import STARTED
from focus_agents.cli.command_line import flat, parse, quiet_libraries
from focus_agents.cli.errors import as_flags, make_console, user_errors, work_errors
from focus_agents.cli.runs import RunArguments, after_a_stop, nothing_to_do, resumed
from focus_agents.models.references import absolute_reference, check_place
from focus_agents.pretraining.settings import PretrainingConfig
from focus_agents.probing.settings import ProbeSettings
from focus_agents.reports.probe_table import probe_note, probe_rows
from focus_agents.reports.tables import text_table
from focus_agents.runs.folder import RunDirectory
from focus_agents.runs.terminal import waiting
from focus_agents.settings import Settings
from focus_env.errors import FocusError


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """Pretrain the small base model."""

    learning: PretrainingConfig = PretrainingConfig()
    probe: ProbeSettings = ProbeSettings()
    run: RunArguments = RunArguments()


def main() -> None:
    with user_errors(Args):
        args = with_place(parse(Args, __doc__))
        if args.learning.init_from is not None:
            check_place(args.learning.init_from)
        args.run.check_folder("pretraining", command="pretrain")
        console = make_console(arguments=Args)
        console.print(f"run folder: {args.run.path('pretraining')}")  # torch takes its time
        with args.run.claim("pretraining"):
            if args.run.resume is not None:
                args = resumed(args, command="pretrain", plain=with_place)
                if (message := nothing_to_do(RunDirectory(args.run.path("pretraining")), args)) is not None:
                    print(as_flags(message, Args))
                    return
            if args.learning.init_from is not None or args.learning.name_weight > 0:
                from focus_agents.pretraining.train import check_start  # here: a command line is read without torch

                check_start(args.learning)
            run = args.run.open(args.run.path("pretraining"), flat(args), command="pretrain")
    with work_errors(Args, console, FocusError, advice=lambda: after_a_stop(run)):
        with waiting(console, "loading torch"):
            quiet_libraries()
            from focus_agents.models.loading import SMALL, load_template
            from focus_agents.pretraining.train import Pretraining

        summary = Pretraining(run, args.learning, load_template(SMALL), probe=args.probe).run(console)
    if (probe := summary.get("probe")) is not None:  # an outcome of an earlier release has none
        console.print(text_table(probe_rows(probe), "linear probe"))
        console.print(probe_note(probe))
    console.print(
        f"on unseen identities: box IoU {summary['box_iou']:.3f}, right words {summary['name_accuracy']:.1%}; "
        f"{time.perf_counter() - STARTED:.0f} s"
    )
    console.print(f"model: {run.checkpoints / 'final'}")
    console.print(f"run folder: {run.path}")


def with_place(args: Args) -> Args:
    """Return the arguments with the model to start from by its absolute path, as a run keeps it."""
    if args.learning.init_from is None:
        return args
    place = absolute_reference(args.learning.init_from)
    return dataclasses.replace(args, learning=dataclasses.replace(args.learning, init_from=place))


if __name__ == "__main__":
    main()
