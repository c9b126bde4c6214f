"""config.json holds each start of a run, and the arguments read from it do not."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from focus_agents.runs.folder import CONFIG_FILE, RunDirectory
from focus_agents.runs.starts import STARTS, note_start


def test_each_start_is_noted(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "a", {"seed": 0})
    session = {"ray_session": "session_1", "ray_logs": "/tmp/ray/session_1/logs"}
    note_start(run.path / CONFIG_FILE, command="focus grpo --name a", ray=session)
    note_start(run.path / CONFIG_FILE, command="focus grpo --resume runs/a")
    config = json.loads((run.path / CONFIG_FILE).read_text())
    first, second = config[STARTS]
    assert first | session == first
    assert first["command_line"] == "focus grpo --name a"
    assert (second["host"], second["process"]) == (socket.gethostname(), os.getpid())
    assert second["command_line"] == "focus grpo --resume runs/a"
    assert "ray_session" not in second
    assert config["code"][0]["versions"]["python"], "versions and commit are beside it"
    assert run.config() == {"seed": 0}


def test_an_older_run_has_no_starts(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text('{"seed": 0, "starts": null}')
    note_start(tmp_path / CONFIG_FILE, command="focus sft")
    assert len(json.loads((tmp_path / CONFIG_FILE).read_text())[STARTS]) == 1
