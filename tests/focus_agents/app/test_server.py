"""Who may ask, and how much may be sent."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from focus_agents.app import server
from focus_agents.app.server import AppServer
from focus_agents.app.service import App
from tests.focus_agents.app.client import MOST_UPLOAD, Bright, Client

Serve = Callable[..., Client]


@pytest.mark.parametrize(
    ("headers", "status", "message"),
    [
        (
            {"X_Focus_Token": None},
            403,
            "expected the token of this server; open the address that focus app has printed",
        ),
        ({"X_Focus_Token": "guess"}, 403, "expected the token"),
        ({"X_Focus_Token": "gu\xe9ss"}, 403, "expected the token"),
        ({"Host": "evil.example"}, 403, "Host: expected 127.0.0.1, got 'evil.example'"),
        ({"Host": "[::1"}, 403, "Host: expected 127.0.0.1, got ''"),
        ({"Origin": "http://evil.example"}, 403, "Origin: expected http://127.0.0.1:"),
        ({"Origin": "null"}, 403, "Origin: expected http://127.0.0.1:"),
        ({"Content_Type": "text/plain"}, 415, "Content-Type: expected application/json"),
        ({"X_Focus_Session": "other"}, 410, "this session has ended"),
        ({"Content_Length": "99999999999"}, 413, "expected at most 1048576 bytes, got 99999999999"),
        ({"Content_Length": "-1"}, 411, "Content-Length: expected the number of bytes"),
        ({"Content_Length": "²"}, 411, "Content-Length: expected the number of bytes"),
    ],
)
def test_who_may_not_ask(headers: Any, status: int, message: str, serve: Serve, monkeypatch: Any) -> None:
    monkeypatch.setattr(server, "DRAIN_SECONDS", 0.1)
    client = serve()
    client.open()
    found, content, _ = client.send("/alive", b"{}", **headers)
    assert found == status
    assert message in json.loads(content)["error"]
    assert client.ask("/alive") == {}


def test_names_of_this_machine_may_be_called(serve: Serve) -> None:
    client = serve()
    for name in ("localhost", "127.0.0.1", "[::1]"):
        host = f"{name}:{client.server.server_port}"
        assert client.send("/session", Host=host, Origin=f"http://{host}")[0] == 200


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_refused(body: bytes, serve: Serve) -> None:
    client = serve()
    client.open()
    status, content, _ = client.send("/alive", body)
    assert status == 400
    assert "JSON" in json.loads(content)["error"]


def test_a_file_that_is_too_large_is_refused_to_who_still_sends(serve: Serve) -> None:
    client = serve()
    client.open()
    status, found = client.upload(bytes(8 * MOST_UPLOAD), "holiday.png")
    assert status == 413
    assert found["error"] == (
        "holiday.png: expected a file of at most 1 MB, got 8.0 MB; scale the picture or cut the video"
    )
    assert client.send("/alive")[0] == 200


def test_a_file_without_a_length_is_refused(serve: Serve) -> None:
    client = serve()
    client.open()
    with socket.create_connection(("127.0.0.1", client.server.server_port), timeout=20) as raw:
        head = f"X-Focus-Token: {client.server.token}\r\nX-Focus-Session: {client.session}\r\n"
        head += "Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\nHost: localhost\r\n\r\n"
        raw.sendall(f"POST /pictures HTTP/1.1\r\n{head}".encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 411 ")


def test_an_upload_that_is_cut_leaves_nothing(serve: Serve) -> None:
    client = serve()
    client.open()
    with socket.create_connection(("127.0.0.1", client.server.server_port), timeout=20) as raw:
        head = f"X-Focus-Token: {client.server.token}\r\nX-Focus-Session: {client.session}\r\n"
        head += "Content-Type: application/octet-stream\r\nContent-Length: 1000\r\nHost: localhost\r\n\r\n"
        raw.sendall(f"POST /pictures HTTP/1.1\r\n{head}half".encode())
        raw.shutdown(socket.SHUT_WR)
        assert raw.recv(100) == b""
    assert client.app.session(client.session).pictures == {}
    assert client.said == []


@pytest.mark.parametrize("path", ["/", "/page.css", "/page.js", "/stage.js"])
def test_the_page_names_no_other_place(path: str, serve: Serve) -> None:
    client = serve()
    status, content, headers = client.send(path, None, method="GET", X_Focus_Token=None)
    assert status == 200
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert client.server.token not in content.decode()
    assert set(re.findall(r"https?://[\w./]+", content.decode())) <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("path", ["/../server.py", "/server.py", "/page.css/", "/..%2fserver.py"])
def test_no_other_file_is_sent(path: str, serve: Serve) -> None:
    status, content, _ = serve().send(path, None, method="GET")
    assert status == 404
    assert b"import" not in content


def test_where_others_may_ask_the_token_alone_guards(serve: Serve) -> None:
    open_to_all = AppServer(App(Bright(), most_upload=1), host="0.0.0.0")
    open_to_all.server_close()
    client = serve()
    client.server.host = "0.0.0.0"
    assert client.send("/session", Host="my-laptop.lan:7860")[0] == 200
    assert client.send("/session", Host="my-laptop.lan:7860", X_Focus_Token="")[0] == 403
    assert len({AppServer(App(Bright(), most_upload=1)).token for _ in range(3)}) == 3


def test_a_page_that_is_gone_is_no_error(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client, failed = serve(), list[object]()
    monkeypatch.setattr(AppServer, "handle_error", lambda server, request, address: failed.append(address))

    def lose(handler: server.Handler, status: int, reply: object) -> None:
        answered.set()
        raise ConnectionResetError("the page was closed")

    answered = threading.Event()
    monkeypatch.setattr(server.Handler, "_send", lose)
    with socket.create_connection(("127.0.0.1", client.server.server_port), timeout=10) as page:
        page.sendall(b"POST /session HTTP/1.1\r\nHost: elsewhere\r\nContent-Length: 0\r\n\r\n")
        assert answered.wait(10)
        assert page.recv(1) == b""
    assert failed == []
