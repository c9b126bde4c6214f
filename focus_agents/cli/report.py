"""Write the report of a run, or of several side by side, as one HTML file that opens from disk.

How to run:
    focus report runs/my-run
    focus report runs/with runs/without --output compared.html

Each run writes its own `report.html` during training, so this command is for older runs and for several. The report
shows the curves, sampled groups and validation episodes with their pictures, warnings, settings and code. Pictures that
a run did not keep are drawn from its data set, if the data set is available.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from focus_agents.cli.command_line import parse, restore_arguments
from focus_agents.cli.errors import user_errors
from focus_agents.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Args(Settings):
    """Write the report of runs."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders."""
    output: Path | None = None
    """File of the report; None: report.html in the folder of a single run, runs/report.html for several."""


def main() -> None:
    with user_errors(Args):
        args = parse(Args, __doc__)
        from focus_agents.reports.run_page.page import MOST_RUNS, render_page  # here: --help needs none of them
        from focus_agents.reports.run_page.pictures import PictureBook
        from focus_agents.reports.run_page.records import read_run
        from focus_env.files import write_text

        if not 1 <= len(args.runs) <= MOST_RUNS:
            raise ValueError(f"runs: expected 1 to {MOST_RUNS} run folders, got {len(args.runs)}")
        names = names_of(args.runs)
        records = [read_run(path, name=name) for path, name in zip(args.runs, names, strict=True)]
        books = [PictureBook(run.path, episodes_of(run.arguments)) for run in records]
        output = args.output or (args.runs[0] / "report.html" if len(args.runs) == 1 else Path("runs/report.html"))
        output.parent.mkdir(parents=True, exist_ok=True)
        write_text(output, render_page(records, books))
        print(output)


def names_of(runs: Sequence[Path]) -> list[str]:
    """Return a name for each run: that of its folder, or as much of its path as tells it from the others.

    Raises:
        ValueError: If a run stands twice.
    """
    places = [Path(os.path.abspath(run)) for run in runs]
    if twice := [str(run) for run, place in zip(runs, places, strict=True) if places.count(place) > 1]:
        raise ValueError(f"runs: expected each of them once, got {twice[0]} more often")
    depth = 1
    while len({place.parts[-depth:] for place in places}) < len(places):
        depth += 1
    return ["/".join(place.parts[-depth:]) for place in places]


def episodes_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data sets of a run, for pictures, as far as they can be had here."""
    from focus_agents.cli.data_arguments import TrainingDataArguments

    try:
        data = restore_arguments(TrainingDataArguments(), arguments, keep=())
        return {"training": data.load_training(), "validation": data.load_validation()}
    except Exception:  # a report does without pictures, whatever has become of the data
        return {}


if __name__ == "__main__":
    main()
