"""Each start of a run: by which command and where, where Ray keeps its logs, and which signal has stopped it."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from focus_agents.errors import CheckpointError, RunInterrupted
from focus_agents.runs.files import read_json, write_json

STARTS = "starts"
"""In a run's config.json: a record for each start, the last one of which is that of now."""

STOPPED_BY, GO_ON = "stopped_by", "go_on"
"""In such a record: the signal that has stopped the run, and the command line that goes on with it."""


def note_start(
    config_file: Path,
    *,
    command: str,
    unit: str | None = None,
    ray: Mapping[str, str] | None = None,
    go_on: str | None = None,
) -> dict[str, Any]:
    """Add a start to a run's config.json.

    Args:
        config_file: The file; it is there.
        command: The command line.
        unit: The unit of coordinates that is in force, whoever has chosen it; None: it is not known.
        go_on: The command line that goes on with the run after a stop; None: there is none.
        ray: What is known of the session of Ray that the run uses, under `ray_` names; None: it uses none.

    Returns:
        The record: `time`, `command_line`, `host`, `process`, `unit` and `go_on` if they are known, and what
        `ray` holds.
    """
    config = read_json(config_file, "the arguments of a run")
    start = {
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command_line": command,
        "host": socket.gethostname(),
        "process": os.getpid(),
        **({} if unit is None else {"unit": unit}),
        **({} if go_on is None else {GO_ON: go_on}),
        **(ray or {}),
    }
    earlier = config.get(STARTS)
    write_json(config_file, {**config, STARTS: [*(earlier if isinstance(earlier, list) else []), start]})
    return start


@contextlib.contextmanager
def noting_a_stop(config_file: Path) -> Iterator[None]:
    """Within it, a signal that stops the run is noted in the record of the run's last start, if there is one."""
    try:
        yield
    except RunInterrupted as interruption:
        _note_stop(config_file, interruption.exit_code - 128)
        raise
    except KeyboardInterrupt as stop:  # SIGTERM raises one that has its number
        _note_stop(config_file, getattr(stop, "signal_number", signal.SIGINT))
        raise


def _note_stop(config_file: Path, number: int) -> None:
    with contextlib.suppress(CheckpointError, OSError):  # nothing goes on without it
        config = read_json(config_file, "the arguments of a run")
        starts = config.get(STARTS)
        if isinstance(starts, list) and starts and isinstance(starts[-1], dict):
            starts[-1][STOPPED_BY] = signal.Signals(number).name
            write_json(config_file, config)
