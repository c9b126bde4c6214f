"""A run of GRPO on processes of its own, as Ray and the system see it while it goes on: one run, all questions."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from focus_agents.runs.folder import CONFIG_FILE, RunDirectory
from tests.focus_agents.cli.commands import wait_for
from tests.places import ROOT
from tests.sockets import is_local, open_sockets

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")]
NAME = "watched"


class Watched:
    """The run, and the ways to look at it.

    Attributes:
        first_line_seconds: How long it was silent.
        dashboard: The line with its address.
    """

    def __init__(self, process: subprocess.Popen[str], folder: Path, started: float) -> None:
        self.process, self.folder = process, folder
        assert process.stdout is not None
        self.first_line = process.stdout.readline()
        self.first_line_seconds = time.monotonic() - started
        # Behind lines that say what the run will take.
        self.dashboard = next(line for line in process.stdout if "get-auth-token" in line)

    @property
    def token(self) -> str:
        """What the command in the line prints, as a person would run it."""
        command = re.search(r"`(.*)`", self.dashboard)[1]
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": "/dev/null"}
        result = subprocess.run(
            command, shell=True, env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        return result.stdout

    def ask(self, path: str, token: str) -> Any:
        url = re.search(r"http://[\d.:]+", self.dashboard)[0]
        request = urllib.request.Request(url + path, headers={"Authorization": f"Bearer {token}"} if token else {})
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def last(self, name: str) -> float:
        return RunDirectory(self.folder).read_steps()[-1][name]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    output = tmp_path_factory.mktemp("runs")
    arguments = [
        "--output-dir", str(output), "--name", NAME, "--num-iterations", "100000", "--num-env-runners", "1",
        "--num-learners", "1", "--groups-per-iteration", "2", "--rollout-batch-groups", "2", "--group-size", "2",
        "--num-validation-episodes", "2",
    ]  # fmt: skip
    left_out = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-u", str(ROOT / "experiments/run_grpo.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "HF_HUB_OFFLINE": "1", "HOME": "/dev/null"},
    )
    try:
        watched = Watched(process, output / NAME, started)
        wait_for(lambda: bool(RunDirectory(output / NAME).read_steps()), process)
        yield watched
    finally:
        process.kill()
        process.communicate(timeout=60)


def test_the_first_sign_of_life(run: Watched) -> None:
    assert run.first_line == f"run folder: {run.folder}\n"
    assert run.first_line_seconds < 20, "two on a machine that does nothing else"


def test_it_listens_to_this_machine_alone(run: Watched) -> None:
    found = open_sockets(run.process.pid)
    assert len(found) >= 8, "Ray's daemons, the dashboard, two workers"
    assert {address: name for address, name in found.items() if not is_local(address)} == {}


def test_the_dashboard_opens_and_knows_who_is_who(run: Watched) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        run.ask("/api/jobs/", "")
    token = run.token
    (job,) = run.ask("/api/jobs/", token)
    assert job["metadata"]["job_name"] == NAME
    assert job["metadata"]["run_folder"] == str(run.folder)
    assert f"--name {NAME}" in job["metadata"]["command"]
    actors = run.ask("/api/v0/actors?detail=true", token)["data"]["result"]["result"]
    names = {f"sampler 1 of run {NAME}", f"learner 0 of run {NAME}"}
    assert {actor["name"] for actor in actors} == {actor["repr_name"] for actor in actors} == names
    deadline = time.monotonic() + 60
    while True:
        nodes = run.ask("/api/v0/tasks/summarize", token)["data"]["result"]["result"]["node_id_to_summary"]
        if {"sample", "validate"} <= set(nodes["cluster"]["summary"]) or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    assert {"sample", "validate"} <= set(nodes["cluster"]["summary"])


def test_where_it_runs_is_in_its_folder(run: Watched) -> None:
    (start,) = json.loads((run.folder / CONFIG_FILE).read_text())["starts"]
    assert f"--name {NAME}" in start["command_line"]
    assert Path(start["ray_logs"]).is_dir()
    assert start["ray_session"] in start["ray_logs"]


def test_its_processes_are_measured(run: Watched) -> None:
    assert run.last("sampler_restarts") == run.last("learner_restarts") == 0
    assert all(0.1 < run.last(f"memory_gib/{role}") < 10 for role in ("driver", "samplers", "learners"))
    assert "queue_depth" not in RunDirectory(run.folder).read_steps()[-1]


def test_who_dies_is_named_once(run: Watched) -> None:
    """A learner and a sampler at a time, which is the worst that can happen short of everything."""
    actors = run.ask("/api/v0/actors?detail=true", run.token)["data"]["result"]["result"]
    for actor in actors:
        os.kill(actor["pid"], signal.SIGKILL)
    done = run.last("iteration")
    wait_for(lambda: run.last("iteration") > done + 1 and run.last("learner_restarts") > 0, run.process)
    wait_for(lambda: run.last("sampler_restarts") > 0, run.process)
    run.process.send_signal(signal.SIGTERM)
    output, errors = run.process.communicate(timeout=120)
    assert run.process.returncode == 128 + signal.SIGTERM, errors
    lines = (output + errors).splitlines()
    assert len([line for line in lines if line.startswith("sampler 1 has died")]) == 1, errors
    assert len([line for line in lines if line.startswith("learner 0 has died")]) == 1, errors
    for noise in ("raylet", "Worker exit type", "out of service", "NoneType", "53727", "Traceback"):
        assert noise not in output + errors
