"""The outcome of a run in its folder, which nothing but another outcome replaces."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from focus_agents.errors import CheckpointError
from focus_agents.runs.files import read_json, to_json, write_json
from focus_agents.runs.metrics import outcome_of

SUMMARY_FILE = "summary.json"


def replace_summary(file: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Write the outcome of a run, unless nothing has been done since the one that is there was written.

    Args:
        file: Where it stands.
        summary: The outcome; `seconds` are those of this call, and those of an earlier end are added to them.

    Returns:
        The summary that is in the file now.
    """
    new, earlier = dict(summary), dict[str, Any]()
    if file.exists():
        with contextlib.suppress(CheckpointError):  # a damaged one is replaced
            earlier = read_json(file, "the summary of a run")
    if earlier and outcome_of(json.loads(to_json(new))) == outcome_of(earlier):
        return earlier
    if "seconds" in new:
        new["seconds"] += earlier.get("seconds") or 0.0
    write_json(file, new)
    return new
