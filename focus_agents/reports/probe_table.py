"""The linear probe of a model as a table: a row for each layer, a column for each place that is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from focus_agents.reports.tables import markdown_table

TITLES = {
    "numbers": "four numbers",
    "last_number": "last number",
    "text_end": "end of box text",
    "region": "mean of region",
}
"""Of the places, in the order in which they are shown."""


def probe_rows(probe: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of a probe's table, the first as the heading.

    Args:
        probe: As `focus_agents.probing.probe.ProbeScores.as_dict` returns it.

    Raises:
        KeyError, TypeError, ValueError: If it is something else.
    """
    accuracy = probe["accuracy"]
    columns = [[f"{float(share):.2f}" for share in accuracy[name]] for name in TITLES]
    names = ["embedding", *(f"layer {number}" for number in range(1, len(columns[0])))]
    return [["hidden states of", *TITLES.values()], *map(list, zip(names, *columns, strict=True))]


def probe_note(probe: Mapping[str, Any]) -> str:
    """Return how a probe's table came about.

    Args:
        probe: As for `probe_rows`.

    Raises:
        KeyError, TypeError, ValueError: If it is something else.
    """
    num_fit, num_test, commonest = int(probe["num_fit"]), int(probe["num_test"]), float(probe["commonest"])
    widest = 1.96 * (0.25 / num_test) ** 0.5
    return (
        f"Share of {num_test:,} test episodes in which a ridge regression from a hidden state tells the "
        f"{probe['target']} of the boxed object; fitted on {num_fit:,} others. Commonest colour: {commonest:.2f}. "
        f"95% intervals reach {widest:.2f} at most to either side."
    )


def probe_section(probe: Mapping[str, Any]) -> str:
    """Return a probe's note and table in Markdown."""
    return f"{probe_note(probe)}\n\n{markdown_table(probe_rows(probe))}"
