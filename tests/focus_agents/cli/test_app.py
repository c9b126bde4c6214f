"""`focus app`: what it says to wrong arguments, and one session from its start to Ctrl-C."""

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

from focus_agents.cli import app
from tests.focus_agents.app.client import png, sought
from tests.focus_agents.finding.scenes import scene
from tests.places import ROOT


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policy", "nobody"], "nobody"),
        (["--policy", "center", "--device", "cpu"], "without effect on"),
        (["--port", "{taken}"], "--port: cannot listen at 127.0.0.1:{taken}: "),
        (["--host", "no.such.invalid"], "--port: cannot listen at no.such.invalid:7860: "),
        (["--max-upload", "0"], "--max-upload"),
        (["--keep", "pyproject.toml"], "--keep: expected a folder, got the file pyproject.toml; choose another"),
    ],
)
def test_what_cannot_be_is_said_at_the_start(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        monkeypatch.setattr(sys, "argv", ["focus app", *(word.replace("{taken}", port) for word in words)])
        with pytest.raises(SystemExit) as stop:
            app.main()
    assert stop.value.code == 2
    assert message.replace("{taken}", port) in " ".join(capsys.readouterr().err.split())


def test_who_else_can_ask_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "own_address", lambda: "192.0.2.7")
    said: list[str] = []
    found = []
    for host in ("0.0.0.0", "127.0.0.1"):
        server = app.start(app.Args(host=host, port=0, policy="center"), said.append)
        found.append(app.address(host, server).partition("/#token=")[0])
        server.server_close()
    assert said == [
        "policy: center",
        "note: whoever has the address can ask, and what is sent is not encrypted",
        "policy: center",
    ]
    assert re.fullmatch(r"http://192\.0\.2\.7:\d+", found[0])
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", found[1])


def test_from_its_start_to_ctrl_c(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    words = ["-X", "importtime", "-m", "focus_agents", "app", "--port", "0", "--keep", str(tmp_path / "kept")]
    process = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        found = re.match(r"open http://127\.0\.0\.1:(\d+)/#token=(\S+)  \(Ctrl-C ends it\)", first)
        assert found is not None, first
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
        headers = {"X-Focus-Token": found[2], "Content-Type": "application/json"}

        def ask(path: str, content: object) -> dict[str, object]:
            is_file = isinstance(content, bytes)
            kind = {"Content-Type": "application/octet-stream", "X-Focus-Name": "a.png"} if is_file else {}
            connection.request("POST", path, content if is_file else json.dumps(content), headers | kind)
            answer: dict[str, object] = json.loads(connection.getresponse().read())
            return answer

        headers["X-Focus-Session"] = str(ask("/session", {})["session"])
        for corner in ((8, 8), (50, 30)):
            ask("/pictures", png(scene(corner)))
        told = ask("/show", {"objects": [sought((1, (8, 8)))]})
        (answer,) = ask("/find", {"picture": 2})["answers"]  # type: ignore[misc, attr-defined]
        connection.close()
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert told["policy"] == "match"
    assert str(told["reason"]).startswith("the best on real frames of those that need no download")
    assert answer["box"] == pytest.approx([50, 30, 66, 46], abs=0.01)
    assert "policy: match, the best on real frames" in out
    said = [line for line in err.splitlines() if not line.startswith("import time:")]
    assert (process.returncode, said) == (130, [f"stopped by SIGINT; what was kept is in {tmp_path / 'kept'}"])
    assert re.findall(r"\| +(torch|transformers|ray)\n", err) == []
    (folder,) = (tmp_path / "kept").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["found.json", "picture_0001.png", "picture_0002.png"]
