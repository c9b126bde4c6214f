"""Draw the curves of runs side by side.

How to run:
    focus plot runs/plain-0 runs/plain-1 runs/loss-0 runs/loss-1 --metrics lm_loss support_mass

Runs of one folder whose names differ only in what follows the last hyphen, such as seeds, share a colour.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
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
    """Run folders."""
    metrics: tuple[str, ...] = ()
    """What to draw; default: what the runs have logged of reward, lm_loss, support_mass and validation_miou. A layer is
    named by a slash: support_mass/0."""
    output: Path = Path("runs/curves.png")
    """File of the picture; its ending decides the format."""
    window: Annotated[int, Ge(1)] = 25
    """Lines of metrics.jsonl that are averaged."""
    start: Annotated[int, Ge(0)] = 0
    """Steps up to here are not drawn."""


def main() -> None:
    with user_errors(Args):
        args = parse(Args, __doc__)
        from focus_agents.reports.plotting import plot_runs  # here: a command line is read without matplotlib

        args.output.parent.mkdir(parents=True, exist_ok=True)
        print(plot_runs(labelled(args.runs), args.metrics, args.output, window=args.window, start=args.start))


def labelled(runs: Sequence[Path]) -> dict[str, list[Path]]:
    """Group runs by the names that they share; those of several folders have the folder's name before theirs.

    Raises:
        ValueError: If a run stands twice.
    """
    places = [Path(os.path.abspath(run)) for run in runs]
    if twice := [run for run, place in zip(runs, places, strict=True) if places.count(place) > 1]:
        raise ValueError(f"runs: expected different folders, got {twice[0]} twice")
    folders = {place.parent for place in places}
    by_label: dict[str, list[Path]] = {}
    for run, place in zip(runs, places, strict=True):
        name = place.name.rpartition("-")[0] or place.name
        label = name if len(folders) == 1 else os.path.relpath(place.parent / name, os.path.commonpath(folders))
        by_label.setdefault(label, []).append(run)
    return by_label


if __name__ == "__main__":
    main()
