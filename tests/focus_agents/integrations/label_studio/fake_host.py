"""A small Label Studio: pictures, a project's export, and tokens of both kinds."""

from __future__ import annotations

import contextlib
import io
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

PERSONAL = "head.claims.sign"


class FakeHost(ThreadingHTTPServer):
    """Answers what is in `content` by path; `log` has each request's method, path and token."""

    daemon_threads = True

    def __init__(self, *, token: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.token = token
        self.log: list[tuple[str, str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, path: str, picture: Image.Image, **options: Any) -> None:
        stream = io.BytesIO()
        picture.save(stream, "PNG", **options)
        self.content[path] = stream.getvalue()

    def export(self, project: int, tasks: list[Mapping[str, Any]]) -> None:
        self.content[f"/api/projects/{project}/export?exportType=JSON"] = json.dumps(tasks).encode()


class Handler(BaseHTTPRequestHandler):
    server: FakeHost

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        sent = self.headers.get("Authorization", "")
        self.server.log.append(("GET", self.path, sent))
        if self.server.token and sent != self.server.token:
            self.answer(401)
        elif self.path in self.server.redirects:
            self.answer(302, Location=self.server.redirects[self.path])
        elif self.path in self.server.content:
            self.answer(200, self.server.content[self.path])
        else:
            self.answer(404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.log.append(("POST", self.path, body["refresh"]))
        is_known = self.path == "/api/token/refresh" and body == {"refresh": PERSONAL}
        self.answer(200, b'{"access": "for-minutes"}') if is_known else self.answer(401)


@contextlib.contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[None]:
    """A server that answers in a thread meanwhile."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
