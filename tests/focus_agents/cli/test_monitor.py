"""`focus monitor`: real runs of both stages, a real Prometheus for each, and every query of the board."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from focus_agents.cli import monitor
from focus_agents.cli.ray_sessions import Session, running_sessions
from focus_agents.monitoring.board import groups
from focus_agents.monitoring.provisioning import Servers
from focus_agents.runs.metrics import METRICS
from tests.focus_agents.cli.commands import SMALL, main_error
from tests.places import ROOT

SECONDS = 180
"""More than a machine with other work needs; an idle one is done in a fifth of it."""
GRPO = [
    "run_grpo.py", "--num-iterations", "100000", "--groups-per-iteration", "2", "--group-size", "2", *SMALL,
    "--num-passes", "2", "--kl-coeff", "0.1", "--validation-interval", "5", "--checkpoint-interval", "0",
    "--num-env-runners", "1", "--num-learners", "1", "--async-steps", "1",
]  # fmt: skip
SFT = [
    "run_sft.py",
    "--num-steps",
    "100000",
    "--batch-size",
    "2",
    *SMALL,
    "--validation-interval",
    "5",
    "--no-dashboard",
]


@contextlib.contextmanager
def running(words: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is asked to end at the end."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "RAY_metrics_report_interval_ms": "1000"}
    with log.open("wb") as output:
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=log.parent)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()


def until(look: Callable[[], Any], process: subprocess.Popen[bytes], log: Path) -> Any:
    """What a look gives, once it gives something."""
    deadline = time.monotonic() + SECONDS
    while not (found := look()):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.3)
    return found


def session_of(process: subprocess.Popen[bytes]) -> Session | None:
    children = {child.pid for child in psutil.Process(process.pid).children(recursive=True)}
    sessions = {session.folder: session for session in running_sessions()}
    for folder, session in sessions.items():
        for child in psutil.process_iter(["pid", "cmdline"]):
            if child.pid in children and f"--session_dir={folder}" in (child.info["cmdline"] or []):
                return session if session.endpoints else None
    return None


class Prometheus:
    """A server that `focus monitor` has said how to start."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/api/v1"

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer; none while the server is not up."""
        try:
            with urllib.request.urlopen(f"{self.url}/{path}?{urllib.parse.urlencode(parameters)}") as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error
        except OSError:
            return {"result": []}

    def result(self, query: str) -> list[Any]:
        found: list[Any] = self.ask("query", query=query)["result"]
        return found


def monitored(run: Path, capsys: pytest.CaptureFixture[str]) -> tuple[list[str], Prometheus]:
    """The command line of Prometheus as a person copies it from what `focus monitor` prints."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        words = [str(run), "--prometheus-port", str(port), "--scrape-seconds", "1"]
        patch.setattr(sys, "argv", ["focus monitor", *words])
        monitor.main()
    assert (run / "monitoring/prometheus.yml").is_file()
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("  prometheus --config"))
    return shlex.split(line), Prometheus(port)


@pytest.mark.ray
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus; run: apt-get install prometheus")
def test_every_query_of_the_board_returns_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of each stage that declares the metric. The second cluster shares ports of the first, and has no dashboard."""
    stages = {"grpo": GRPO, "sft": SFT}
    logs = {name: tmp_path / f"{name}.log" for name in stages}
    with contextlib.ExitStack() as stack:
        runs = {}
        for name, (script, *words) in stages.items():
            line = [sys.executable, str(ROOT / "experiments" / script), *words, "--output-dir", str(tmp_path)]
            runs[name] = stack.enter_context(running([*line, "--name", f"run-{name}"], logs[name]))
        sessions = {name: until(lambda run=run: session_of(run), run, logs[name]) for name, run in runs.items()}
        servers = {}
        for name, session in sessions.items():
            folder = tmp_path / f"run-{name}"
            until(lambda f=folder, s=session: s.folder.name in (f / "config.json").read_text(), runs[name], logs[name])
            words, servers[name] = monitored(folder, capsys)
            stack.enter_context(running(words, tmp_path / f"prometheus-{name}.log"))
        for panel in [panel for row in groups().values() for panel in row]:
            for metric, query in panel.queries().items():
                for name in {*METRICS[metric].stages} & {*stages}:
                    asked = query.replace("$run", ".*").replace("$stage", ".*")
                    found = until(lambda a=asked, name=name: servers[name].result(a), runs[name], logs[name])
                    assert {part["metric"]["run"] for part in found} == {f"run-{name}"}, query
                    assert {part["metric"]["stage"] for part in found} == {name}, query
                    assert all("part" in part["metric"] for part in found) == panel.by_part
        for name, session in sessions.items():
            assert servers[name].ask("label/run/values", **{"match[]": "ray_focus_seconds"}) == [f"run-{name}"]
            (own,) = servers[name].result('count by (SessionName) ({SessionName=~".+"})')
            assert own["metric"]["SessionName"] == session.folder.name
            targets = [part["metric"]["instance"] for part in servers[name].result("up")]
            assert sorted({*targets}) == sorted(targets)  # what two lists name is asked once
            assert {*session.endpoints} <= {*targets}


def test_what_is_not_there_is_an_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "running_sessions", list)
    assert "expected a cluster of Ray whose head runs on this machine, found none" in main_error("monitor", [], capsys)


def test_the_files_go_into_the_folder_of_a_run_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert monitor.default_folder(str(tmp_path)) == tmp_path / "monitoring"
    assert monitor.default_folder("auto") == monitor.default_folder(None) == Path("monitoring")


def test_the_token_is_where_the_run_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    assert monitor.token_file(None) == monitor.token_file(str(tmp_path)) == Path.home() / ".ray/auth_token"
    (tmp_path / "ray_token").write_text("secret")
    assert monitor.token_file(str(tmp_path)) == tmp_path / "ray_token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/elsewhere")
    assert monitor.token_file(str(tmp_path)) == Path("/elsewhere")


def test_advice_says_what_is_missing_and_which_port_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        monkeypatch.setattr(shutil, "which", lambda name: None)
        text = monitor.advice(tmp_path, Servers(prometheus_port=port, grafana_port=1))
    assert f"  port {port} is taken: stop who has it (`systemctl stop prometheus`), or choose another" in text
    assert "port 1 is taken" not in text
    assert "\n  apt-get install prometheus\n" in text
    assert f"-L {port}:127.0.0.1:{port}" in text
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert "install" not in monitor.advice(tmp_path, Servers(prometheus_port=1, grafana_port=1))


@pytest.mark.parametrize(("code", "asks"), [(200, False), (401, True), (403, True), (500, False)])
def test_a_token_is_needed_where_the_endpoint_asks_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, asks: bool
) -> None:
    class Endpoint(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code if self.path == "/metrics" else 404)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # nobody there
    (tmp_path / "metrics_export_port_a").write_text("1")
    session = Session(tmp_path, "127.0.0.1:6379", 0.0)
    assert not monitor.asks_for_a_token(session)
    with HTTPServer(("127.0.0.1", 0), Endpoint) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        (tmp_path / "metrics_export_port_b").write_text(str(server.server_port))
        assert monitor.asks_for_a_token(session) == asks
