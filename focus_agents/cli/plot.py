"""Draw the curves of runs side by side, each with its meaning, start, end and best value, in panels of a page's width.

How to run, on runs of any kind, or on a folder of them:
    focus plot runs/my-grpo
    focus plot runs/ablation --output ablation.pdf
    focus plot runs/plain-0 runs/plain-1 runs/loss-0 runs/loss-1 --metrics lm_loss support_mass/0

Runs whose settings differ only in the seed share a colour; the legend names the settings that differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from annotated_types import Ge

from focus_agents.cli.command_line import parse
from focus_agents.cli.errors import user_errors
from focus_agents.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """Draw the curves of runs side by side."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, or folders of run folders."""
    metrics: tuple[str, ...] = ()
    """Metrics to draw; default: the usual metrics that the runs have logged. A slash names a layer or a term of the
    reward: support_mass/0, reward/iou."""
    output: Path = Path("runs/curves.png")
    """File of the picture; its ending decides the format: png, svg or pdf."""
    window: Annotated[int, Ge(1)] = 25
    """Lines of metrics.jsonl that are averaged."""
    start: Annotated[int, Ge(0)] = 0
    """Step after which curves start."""


def main() -> None:
    with user_errors(Args):
        args = parse(Args, __doc__)
        from focus_agents.reports.labels import find_runs, label_runs  # here: a command line is read without matplotlib
        from focus_agents.reports.plotting import check_format, plot_runs

        check_format(args.output)
        runs = label_runs(find_runs(args.runs))
        args.output.parent.mkdir(parents=True, exist_ok=True)
        print(plot_runs(runs, args.metrics, args.output, window=args.window, start=args.start))


if __name__ == "__main__":
    main()
