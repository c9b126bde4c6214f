"""Each start of a run: by which command, on which machine, and where Ray keeps its logs."""

from __future__ import annotations

import datetime
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from focus_agents.runs.files import read_json, write_json

STARTS = "starts"
"""In a run's config.json: a record for each start, the last one of which is that of now."""


def note_start(
    config_file: Path, *, command: str, unit: str | None = None, ray: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Add a start to a run's config.json.

    Args:
        config_file: The file; it is there.
        command: The command line.
        unit: The unit of coordinates that is in force, whoever has chosen it; None: it is not known.
        ray: What is known of the session of Ray that the run uses, under `ray_` names; None: it uses none.

    Returns:
        The record: `time`, `command_line`, `host`, `process`, `unit` if it is known, and what `ray` holds.
    """
    config = read_json(config_file, "the arguments of a run")
    start = {
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command_line": command,
        "host": socket.gethostname(),
        "process": os.getpid(),
        **({} if unit is None else {"unit": unit}),
        **(ray or {}),
    }
    earlier = config.get(STARTS)
    write_json(config_file, {**config, STARTS: [*(earlier if isinstance(earlier, list) else []), start]})
    return start
