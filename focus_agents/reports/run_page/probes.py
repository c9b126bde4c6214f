"""The section of linear probes, of runs that end with one."""

from __future__ import annotations

from collections.abc import Sequence

from focus_agents.reports.markup import Html, tag
from focus_agents.reports.probe_table import probe_note, probe_rows
from focus_agents.reports.run_page.records import RunRecord


def probe_part(runs: Sequence[RunRecord]) -> Html:
    """Return a table of each run's probe; nothing where no run has one."""
    parts: list[Html] = []
    for run in runs:
        try:
            probe = run.summary["probe"]
            rows, note = probe_rows(probe), probe_note(probe)
        except (KeyError, TypeError, ValueError, ArithmeticError):  # it has none, or a damaged one
            continue
        head = tag("tr", *(tag("th", cell) for cell in rows[0]))
        body = [tag("tr", tag("th", row[0]), *(tag("td", cell) for cell in row[1:])) for row in rows[1:]]
        parts += [tag("h3", run.name)] if len(runs) > 1 else []
        parts += [
            tag("p", note, class_="meaning"),
            tag("div", tag("table", head, *body, class_="settings"), class_="wide"),
        ]
    return tag("section", tag("h2", "Linear probe"), *parts, id="probe") if parts else Html("")
