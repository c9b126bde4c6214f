"""config.json holds each start of a run, and the arguments read from it do not."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import pytest

from focus_agents.cli.ending import Terminated
from focus_agents.errors import RunInterrupted
from focus_agents.runs.folder import CONFIG_FILE, RunDirectory
from focus_agents.runs.starts import STARTS, STOPPED_BY, note_start, noting_a_stop


def test_each_start_is_noted(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "a", {"seed": 0})
    session = {"ray_session": "session_1", "ray_logs": "/tmp/ray/session_1/logs"}
    note_start(run.path / CONFIG_FILE, command="focus grpo --name a", ray=session)
    note_start(run.path / CONFIG_FILE, command="focus grpo --resume runs/a", go_on="focus grpo --resume runs/a")
    config = json.loads((run.path / CONFIG_FILE).read_text())
    first, second = config[STARTS]
    assert first | session == first
    assert first["command_line"] == "focus grpo --name a"
    assert (second["host"], second["process"]) == (socket.gethostname(), os.getpid())
    assert second["command_line"] == "focus grpo --resume runs/a"
    assert "ray_session" not in second
    assert (first.get("go_on"), second["go_on"]) == (None, "focus grpo --resume runs/a")
    assert config["code"][0]["versions"]["python"], "versions and commit are beside it"
    assert run.config() == {"seed": 0}


def test_an_older_run_has_no_starts(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text('{"seed": 0, "starts": null}')
    note_start(tmp_path / CONFIG_FILE, command="focus sft")
    assert len(json.loads((tmp_path / CONFIG_FILE).read_text())[STARTS]) == 1


@pytest.mark.parametrize(
    ("stop", "name"),
    [
        (RunInterrupted("stopped", signal_number=signal.SIGTERM), "SIGTERM"),
        (KeyboardInterrupt(), "SIGINT"),
        (Terminated(), "SIGTERM"),
    ],
)
def test_the_signal_that_stops_a_run_is_noted_in_its_last_start(stop: BaseException, name: str, tmp_path: Path) -> None:
    file = RunDirectory.create(tmp_path / "a", {"seed": 0}).path / CONFIG_FILE
    for _ in range(2):
        note_start(file, command="focus grpo")
    with pytest.raises(type(stop)), noting_a_stop(file):
        raise stop
    first, second = json.loads(file.read_text())[STARTS]
    assert (first.get(STOPPED_BY), second[STOPPED_BY]) == (None, name)
    note_start(file, command="focus grpo --resume a")
    assert STOPPED_BY not in json.loads(file.read_text())[STARTS][-1]


def test_a_stop_of_what_has_no_starts_passes(tmp_path: Path) -> None:
    for content in (None, "{]", '{"seed": 0, "starts": null}'):
        if content is not None:
            (tmp_path / CONFIG_FILE).write_text(content)
        with pytest.raises(KeyboardInterrupt), noting_a_stop(tmp_path / CONFIG_FILE):
            raise KeyboardInterrupt
