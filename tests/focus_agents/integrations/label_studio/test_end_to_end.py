"""A real Label Studio asks for boxes: project, upload, boxes drawn, connection, predictions; where it is installed.

pip install label-studio    (in an environment of its own; 1.23 was tried)
FOCUS_LABEL_STUDIO=/path/to/its/bin/label-studio pytest tests/focus_agents/integrations/label_studio -m e2e
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from focus_agents.integrations.label_studio.host import Host
from tests.focus_agents.finding.scenes import SIDE, scene
from tests.focus_agents.integrations.label_studio.client import CONFIG, Client, boxes, drawn
from tests.focus_agents.integrations.label_studio.fake_host import serving

PROGRAM = shutil.which(os.environ.get("FOCUS_LABEL_STUDIO", "label-studio"))
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        PROGRAM is None, reason="needs the program label-studio, or FOCUS_LABEL_STUDIO that leads to it"
    ),
]
USER = {"email": "somebody@example.org", "password": "of-this-test-alone"}
SECONDS = 240.0


@pytest.fixture(scope="module")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of its own, which may reach this machine."""
    assert PROGRAM is not None
    folder = tmp_path_factory.mktemp("label-studio")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")},
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder), "SECRET_KEY": "of-this-test", "DEBUG": "false",
        "COLLECT_ANALYTICS": "false", "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "", "LATEST_VERSION_CHECK": "false",
        "ML_BLOCK_LOCAL_IP": "false", "SSRF_PROTECTION_ENABLED": "false",
    }  # fmt: skip
    words = [PROGRAM, "start", "--port", str(port), "--internal-host", "127.0.0.1", "--no-browser"]
    words += ["--username", USER["email"], "--password", USER["password"]]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            words, cwd=folder, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process, folder / "log.txt")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    start = time.monotonic()
    while time.monotonic() - start < SECONDS and process.poll() is None:
        try:
            if requests.get(url, timeout=2).ok:
                return
        except requests.RequestException:
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-2000:])


class People:
    """What people do there, over its API."""

    def __init__(self, url: str) -> None:
        self.url = url
        with requests.Session() as session:
            session.get(f"{url}/user/login/", timeout=30)
            key = {"csrfmiddlewaretoken": session.cookies["csrftoken"]}
            session.post(f"{url}/user/login/", data=USER | key, headers={"Referer": url}, timeout=30)
            headers = {"X-CSRFToken": session.cookies["csrftoken"], "Referer": url}
            self.token = session.post(f"{url}/api/token/", headers=headers, timeout=30).json()["token"]
        access = requests.post(f"{url}/api/token/refresh", json={"refresh": self.token}, timeout=30).json()["access"]
        self.headers = {"Authorization": f"Bearer {access}"}

    def ask(self, method: str, path: str, **options: Any) -> Any:
        answer = requests.request(method, f"{self.url}/api/{path}", headers=self.headers, timeout=100, **options)
        assert answer.ok, answer.text
        return answer.json() if answer.content else None

    def retrieve(self, project: int) -> None:
        selected = {"selectedItems": {"all": True, "excluded": []}, "project": project}
        self.ask("POST", f"dm/actions?id=retrieve_tasks_predictions&project={project}", json=selected)

    def newest(self, task: int) -> Any:
        return max(self.ask("GET", f"tasks/{task}")["predictions"], key=lambda one: one["id"])


def test_a_project_from_its_first_box_to_proposals(label_studio: str) -> None:
    people = People(label_studio)
    project = people.ask("POST", "projects", json={"title": "mugs", "label_config": CONFIG})["id"]
    corners = [(8, 8), (50, 30), (20, 40)]
    files = {}
    for number, corner in enumerate(corners):
        stream = io.BytesIO()
        scene(corner).save(stream, "PNG")
        files[f"file{number}"] = (f"p{number}.png", stream.getvalue(), "image/png")
    people.ask("POST", f"projects/{project}/import", files=files)
    listed = people.ask("GET", f"tasks?project={project}&fields=all")["tasks"]
    numbers = {int(re.findall(r"-p(\d)", str(one["data"]))[0]): one["id"] for one in listed}
    people.ask("POST", f"tasks/{numbers[0]}/annotations", json={"result": drawn(corners[0])["result"]})

    client = Client(Host(people.url, token=people.token))
    with serving(client.server):
        address = f"http://127.0.0.1:{client.server.server_port}"
        connected = people.ask(
            "POST", "ml", json={"project": project, "url": address, "title": "focus", "is_interactive": True}
        )
        assert (connected["readable_state"], connected["error_message"]) == ("Connected", None)
        people.retrieve(project)
        first = people.newest(numbers[1])
        assert boxes(first) == {"mug": [50, 30, SIDE, SIDE]}
        assert (first["score"], first["model_version"]) == (50 / 80, connected["model_version"])
        assert people.newest(numbers[0])["result"] == []

        people.ask("POST", f"tasks/{numbers[1]}/annotations", json={"result": drawn(corners[1], "cup")["result"]})
        people.retrieve(project)
        second = people.newest(numbers[2])
        assert boxes(second) == {label: [20, 40, SIDE, SIDE] for label in ("mug", "cup")}
        assert second["model_version"] != first["model_version"]
        asked = people.ask("POST", f"ml/{connected['id']}/interactive-annotating", json={"task": numbers[2]})
        assert boxes(asked["data"]) == boxes(second)
        people.ask("POST", f"ml/{connected['id']}/train", json={})

        other = {"title": "words", "label_config": '<View><Text name="t" value="$t"/></View>'}
        project = people.ask("POST", "projects", json=other)["id"]
        refused = requests.post(
            f"{people.url}/api/ml", headers=people.headers, json={"project": project, "url": address}, timeout=30
        )
    assert refused.status_code == 400
    assert "expected a configuration with one Image and RectangleLabels for it, got 0 of the one" in refused.text
