"""`focus labelstudio`: what it says to wrong arguments, and one question to the server that it starts."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from focus_agents.cli import labelstudio
from tests.focus_agents.finding.scenes import write
from tests.focus_agents.integrations.label_studio.client import CONFIG, boxes, drawn, task
from tests.places import ROOT


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--url", "localhost"], "--url: expected the address of Label Studio, such as http://localhost:8080"),
        (["--data-root", "no/such"], "--data-root: expected the folder of the pictures, there is none at no/such"),
        (["--policy", "nobody"], "nobody"),
        (["--policy", "vlm:no-such"], "expected one of focus-small"),
        (["--policy", "center", "--device", "cpu"], "without effect on"),
        (["--port", "{taken}"], "--port: cannot listen at 127.0.0.1:{taken}: "),
        (["--port", "70000"], "--port"),
        (["--shots", "0"], "--shots"),
    ],
)
def test_what_cannot_be_is_said_at_the_start(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        monkeypatch.setattr(sys, "argv", ["focus labelstudio", *(word.replace("{taken}", port) for word in words)])
        with pytest.raises(SystemExit) as stop:
            labelstudio.main()
    assert stop.value.code == 2
    assert message.replace("{taken}", port) in " ".join(capsys.readouterr().err.split())


def test_who_else_can_ask_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    for host in ("0.0.0.0", "127.0.0.1"):
        labelstudio.start(labelstudio.Args(host=host, port=0, policy="center"), said.append).server_close()
    assert said == [
        "policy: center",
        "note: whoever reaches this address can ask, without a password",
        "policy: center",
    ]


def test_from_its_start_to_ctrl_c(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    for name, corner in {"a.png": (8, 8), "b.png": (50, 30)}.items():
        write(tmp_path / name, corner)
    words = ["labelstudio", "--port", "0", "--data-root", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "focus_agents", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        found = re.match(r"listening at http://127\.0\.0\.1:(\d+); connect it in the settings", first)
        assert found is not None, first
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
        tasks = [task(1, "a.png", drawn((8, 8))), task(2, "b.png")]
        body = json.dumps({"tasks": tasks, "project": "1.17", "label_config": CONFIG})
        connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        connection.close()
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert boxes(answer["results"][1])["mug"] == pytest.approx([50, 30, 16, 16], abs=0.01)
    assert answer["model_version"].startswith("focus ")
    assert "policy: match, the best on real frames" in out
    assert (process.returncode, err) == (130, "stopped by SIGINT; boxes labelled so far are in Label Studio\n")
