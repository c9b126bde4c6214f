"""A real HTTP server that speaks the chat protocol and answers, or misbehaves, by a script."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image


@dataclass
class Reply:
    """What the server sends: a JSON value, or bytes as they are."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def says(content: Any, *, finish_reason: str = "stop", tokens: tuple[int, int] | None = (100, 10)) -> Reply:
    """An answer in the protocol; `tokens` of prompt and completion."""
    message = {"role": "assistant", "content": content}
    body: dict[str, Any] = {"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]}
    if tokens is not None:
        body["usage"] = dict(zip(("prompt_tokens", "completion_tokens"), tokens, strict=True))
    return Reply(body)


def fails(status: int, message: str = "out of order", **headers: str) -> Reply:
    """An error as servers word it, to be tried again at once unless the headers say otherwise."""
    body = {"error": {"message": message, "type": "error", "code": status}}
    return Reply(body, status, {"retry-after-ms": "1"} | {key.replace("_", "-"): v for key, v in headers.items()})


def question_of(request: dict[str, Any]) -> str:
    """The text parts of a request's only message."""
    (message,) = request["messages"]
    return "".join(part["text"] for part in message["content"] if part["type"] == "text")


def images_of(request: dict[str, Any]) -> list[npt.NDArray[np.uint8]]:
    """Its pictures, decoded."""
    (message,) = request["messages"]
    urls = [part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url"]
    assert all(url.startswith("data:image/png;base64,") for url in urls)
    return [np.array(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2], validate=True)))) for url in urls]


class ChatServer(ThreadingHTTPServer):
    """Calls `script` with each request, on the request's own thread.

    Attributes:
        script: From a request's JSON and the number of requests before it to a reply; None: the connection is cut.
        requests: Their JSON, in the order in which they came.
        authorizations: Their headers of that name.
        is_closing: Set at the end of the test; what hangs may wait for it.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: Callable[[dict[str, Any], int], Reply | None] = lambda request, number: says(question_of(request))
        self.requests: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.is_closing = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hung up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.requests)
            self.server.requests.append(request)
            self.server.authorizations.append(self.headers.get("Authorization"))
        reply = self.server.script(request, number) if self.path == "/v1/chat/completions" else fails(404)
        if reply is None:
            self.close_connection = True
            return
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for key, value in (
            {"Content-Type": "application/json", "Content-Length": str(len(body))} | reply.headers
        ).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""


@contextmanager
def chat_server() -> Iterator[ChatServer]:
    """A server on a free port of this machine."""
    server = ChatServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.is_closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
