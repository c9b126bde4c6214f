"""Workers of stage 1 that die, and come back: told by Ray Train's controller through a file in the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from focus_agents.runs.files import append_json_lines, read_json_lines

RESTARTS_FILE = "worker_restarts.jsonl"
"""In the run's folder: a line for each time that all workers were started again."""


class NoteRestarts:
    """Writes down that workers have failed and are started again; Ray Train's controller calls it.

    Args:
        folder: The run's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, failures: Mapping[int, Any]) -> None:
        """Note which workers failed, by rank, and by which errors."""
        # The first is the cause; others fail because they wait for it.
        causes = [f"{type(error).__name__}" for error in failures.values()]
        line = {"workers": sorted(failures), "reason": next(iter(causes), "unknown")}
        append_json_lines(self._folder / RESTARTS_FILE, [line])


def num_restarts(folder: Path) -> int:
    """Count how often workers were started again since the command has been started."""
    return len(read_json_lines(folder / RESTARTS_FILE))


def describe_restarts(folder: Path) -> list[str]:
    """Return a sentence for each time: who died, what was lost, what goes on."""
    lines = []
    for restart in read_json_lines(folder / RESTARTS_FILE):
        who = ", ".join(map(str, restart["workers"])) or "unknown"
        lines.append(
            f"worker {who} has died ({restart['reason']}); what came after the last checkpoint is lost: all workers "
            "start again from there"
        )
    return lines
