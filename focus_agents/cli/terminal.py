"""Print a training in the terminal, as verbosely as you ask, with last lines that `grep` finds by their first word."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from focus_agents.cli import STARTED
from focus_agents.runs.figures import in_digits
from focus_agents.runs.folder import METRICS_FILE, WARNINGS_FILE, RunDirectory
from focus_agents.runs.summary import describe_fall
from focus_agents.settings import Settings


@dataclass(frozen=True, kw_only=True)
class TerminalArguments(Settings):
    """The output in the terminal."""

    verbose: bool = False
    """Show the best and the worst answers too: those of each iteration of GRPO, and those of each validation."""


def print_outcome(run: RunDirectory, summary: Mapping[str, Any], console: Console) -> None:
    """Print what a training has come to, and where everything is; the time is that since the command's start."""
    gain, low, high = in_digits(summary["miou_gain"], summary["miou_gain_interval"], digits=3, is_signed=True)
    seconds = summary.get("seconds")
    trained = "" if seconds is None else f" ({seconds:.0f} s of training and validation, of all its starts)"
    console.print(
        f"validation mIoU {summary['miou_start']:.3f} -> {summary['miou_end']:.3f} (gain {gain}, "
        f"95% interval {low} to {high}) in {time.perf_counter() - STARTED:.0f} s since this command's start"
        f"{trained}"
    )
    if (absence := describe_absence(summary)) is not None:
        console.print(absence)
    if (fall := describe_fall(summary, run.read_metrics(), run.config(), run.checkpoints)) is not None:
        console.print(f"warning: {fall}", style="yellow")
    if warnings := summary.get("warnings"):
        console.print(f"warnings: {len(warnings)}, in {run.path / WARNINGS_FILE}")
    console.print(f"policy: {summary['checkpoint']}")
    console.print(f"pictures: {summary['sheet']}")
    if (line := report_line(run.path)) is not None:
        console.print(line)
    console.print(f"run folder: {run.path}")


def describe_absence(summary: Mapping[str, Any]) -> str | None:
    """Say how presence and absence were told at a training's start and end; None: no target is absent, or all are.

    Args:
        summary: Of the run, see `compare_validation`.
    """
    titles = {"miou_present": "mIoU on present targets", "absent_recall": "recall of absence", "f1_50": "F1 of both"}
    if any(f"{name}_{when}" not in summary for name in titles for when in ("start", "end")):
        return None
    parts = []
    for name, title in titles.items():
        end, low, high = in_digits(summary[f"{name}_end"], summary[f"{name}_end_interval"], digits=3)
        parts.append(f"{title} {summary[f'{name}_start']:.3f} -> {end} (95% interval {low} to {high})")
    return ", ".join(parts)


def report_line(run: Path) -> str | None:
    """Return where the report of a run that has ended is, or how it is made if it was written before the end."""
    report, metrics = run / "report.html", run / METRICS_FILE
    if report.exists() and (not metrics.exists() or report.stat().st_mtime >= metrics.stat().st_mtime):
        return f"report: {report}"
    return f"report: `focus report {run}` writes it; the run itself could not" if metrics.exists() else None
