"""The backend over HTTP, for who may reach it: this machine alone unless it is told otherwise."""

from __future__ import annotations

import json
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from focus_agents.integrations.label_studio.backend import Backend, Task
from focus_agents.serving import SECONDS, RefusedError, body_length, check_called
from focus_env.errors import FocusError

LARGEST_BODY = 32 * 2**20
"""Bytes of a request."""


def make_server(backend: Backend, *, host: str = "127.0.0.1", port: int = 0) -> ThreadingHTTPServer:
    """Return a server that listens already; `serve_forever` answers.

    Raises:
        OSError: If it cannot listen there.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = SECONDS

        def do_GET(self) -> None:
            is_known = urlsplit(self.path).path in ("/", "/health")
            self._send(200, {"status": "UP"}) if is_known else self._send(404, {"error": "path: expected /health"})

        def do_POST(self) -> None:
            try:
                self._send(200, backend.answer(urlsplit(self.path).path.rstrip("/"), self._request()))
            except RefusedError as error:
                self._send(error.status, {"error": str(error)})
            except FocusError as error:
                backend.say(f"error: {error}")
                self._send(500, {"error": str(error)})
            except Exception as error:  # whatever a policy raises: the next question may go well
                backend.say(traceback.format_exc())
                self._send(500, {"error": f"{type(error).__name__}: {error}"})

        def _request(self) -> Task:
            check_called(host, self.headers)
            if self.headers.get_content_type() != "application/json":  # no page of elsewhere can send that unasked
                raise RefusedError("Content-Type: expected application/json", 415)
            length = body_length(self.headers, LARGEST_BODY)
            try:
                found = json.loads(self.rfile.read(length))
            except (ValueError, RecursionError) as error:
                raise RefusedError(f"expected JSON, got something else: {error}") from error
            if not isinstance(found, dict):
                raise RefusedError(f"expected an object of JSON, got {found!r:.80}")
            return found

        def _send(self, status: int, body: Task) -> None:
            # Label Studio shows people the reason of a status, and not its body.
            reason = body.get("error", "OK").encode("ascii", "replace").decode().replace("\n", " ")[:400]
            content = json.dumps(body).encode()
            self.send_response(status, reason)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            if status >= 400:  # what it has sent was not read to its end
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing; the backend says what it has done."""

    return ThreadingHTTPServer((host, port), Handler)
