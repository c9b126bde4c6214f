"""The protocol: what is refused, with which status and sentence, and what goes on meanwhile."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from focus_agents.finding.looking import Looker
from focus_agents.integrations.label_studio import server as server_file
from focus_agents.integrations.label_studio.backend import Backend
from focus_agents.integrations.label_studio.host import Host
from focus_agents.integrations.label_studio.server import make_server
from focus_agents.policies.localizers import LocalizerPolicy, center_box
from tests.focus_agents.finding.scenes import TEMPLATE
from tests.focus_agents.integrations.label_studio.client import (
    CONFIG,
    ORIGIN,
    Client,
    drawn,
    task,
)
from tests.focus_agents.integrations.label_studio.fake_host import serving


class TestRequests:
    @pytest.mark.parametrize(
        ("path", "request_", "status", "message"),
        [
            ("/predict", b"{", 400, "expected JSON, got something else"),
            ("/predict", b"[" * 100_000, 400, "expected JSON, got something else"),
            ("/predict", b"\xff", 400, "expected JSON, got something else"),
            ("/predict", b"[]", 400, "expected an object of JSON, got []"),
            ("/predict", {}, 400, "project: expected its number, got None"),
            ("/predict", {"project": "1", "tasks": []}, 400, "label_config: expected a configuration"),
            ("/predict", {"project": "1", "label_config": CONFIG}, 400, "tasks: expected a list of objects, got None"),
            (
                "/predict",
                {"project": "1", "label_config": CONFIG, "tasks": [1]},
                400,
                "tasks: expected a list of objects",
            ),
            ("/setup", {"project": "1", "schema": "<View/>"}, 400, "one Image and RectangleLabels"),
            ("/train", {"project": "1", "annotations": 7}, 400, "annotations: expected a list of objects, got 7"),
            ("/webhook", {"project": {"id": 1}, "action": "ANNOTATION_CREATED"}, 400, "annotation: expected a list"),
            ("/versions", {"project": "1"}, 404, "path: expected /health, /setup, /predict, /webhook, /train"),
        ],
    )
    def test_what_is_none_is_refused_in_a_sentence(
        self, path: str, request_: Any, status: int, message: str, serve: Callable[..., Client]
    ) -> None:
        client = serve(Host(ORIGIN))
        body = request_ if isinstance(request_, bytes) else json.dumps(request_).encode()
        found, reason, answer = client.send("POST", path, body, Content_Type="application/json")
        assert found == status
        assert message in answer["error"]
        assert reason == answer["error"][:400].encode("ascii", "replace").decode().replace("\n", " ")
        assert client.send("GET", "/health")[0] == 200

    @pytest.mark.parametrize(
        ("headers", "status", "message"),
        [
            ({"Content_Type": "text/plain"}, 415, "Content-Type: expected application/json"),
            ({"Content_Type": "application/json", "Host": "evil.example:9090"}, 403, "Host: expected 127.0.0.1"),
            ({"Content_Type": "application/json", "Content_Length": "99999999999"}, 413, "expected at most"),
            ({"Content_Type": "application/json", "Content_Length": "-1"}, 411, "Content-Length: expected"),
            ({"Content_Type": "application/json", "Transfer_Encoding": "chunked"}, 411, "Content-Length: expected"),
        ],
    )
    def test_headers(self, headers: Any, status: int, message: str, serve: Callable[..., Client]) -> None:
        client = serve(Host(ORIGIN))
        body = None if "Transfer_Encoding" in headers else b"{}"
        found, _, answer = client.send("POST", "/setup", body, **headers)
        assert found == status
        assert message in answer["error"]

    def test_others_may_ask_by_any_name_where_it_listens_to_them(self) -> None:
        looker = Looker([], LocalizerPolicy(center_box, TEMPLATE), TEMPLATE)
        backend = Backend(Host(ORIGIN), looker.asking_for, name="x")
        server = make_server(backend, host="0.0.0.0")
        with serving(server):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
            body = json.dumps({"project": "1", "schema": CONFIG})
            headers = {"Host": "labels.example", "Content-Type": "application/json; charset=utf-8"}
            connection.request("POST", "/setup", body, headers)
            assert json.loads(connection.getresponse().read()) == {"model_version": "x without boxes"}
            connection.close()

    def test_it_says_that_it_is_up_while_it_answers(self, photos: Path, serve: Callable[..., Client]) -> None:
        started, may_end = threading.Event(), threading.Event()

        def slow(question: Any, rng: Any) -> None:
            started.set()
            assert may_end.wait(20)

        client = serve(Host(ORIGIN, data_root=photos), slow)
        tasks = task(1, "0.png", drawn((8, 8))), task(2, "1.png")
        asking = threading.Thread(target=client.predict, args=tasks)
        asking.start()
        assert started.wait(20)
        assert client.send("GET", "/health")[::2] == (200, {"status": "UP"})
        client.webhook("ANNOTATION_CREATED", annotation=drawn((50, 30), number=2), task=task(2, "1.png"))
        may_end.set()
        asking.join(20)
        assert client.send("GET", "/elsewhere")[0] == 404

    def test_a_policy_that_fails_does_not_end_the_server(self, photos: Path, serve: Callable[..., Client]) -> None:
        client = serve(Host(ORIGIN, data_root=photos))
        client.backend._looker_of = lambda wanted: 1 / 0  # type: ignore[assignment,return-value]
        body = json.dumps({"tasks": [task(1, "0.png", drawn((8, 8)))], "project": "1", "label_config": CONFIG}).encode()
        status, reason, _ = client.send("POST", "/predict", body, Content_Type="application/json")
        assert (status, reason) == (500, "ZeroDivisionError: division by zero")
        assert "Traceback" in client.said[-1]
        assert client.send("GET", "/")[0] == 200

    def test_a_connection_that_says_nothing_is_given_up(
        self, serve: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server_file, "SECONDS", 0.2)
        client = serve(Host(ORIGIN))
        connection = http.client.HTTPConnection("127.0.0.1", client.server.server_port, timeout=20)
        connection.connect()
        assert connection.sock.recv(1) == b""
        connection.close()
