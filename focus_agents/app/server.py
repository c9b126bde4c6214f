"""The page over HTTP, for who has its address: a token in it says that they were given it.

No other page can ask: browsers let a page send the headers that are asked for here to its own server only.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import socket
import traceback
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import unquote, urlsplit

from focus_agents.app.service import App, Reply
from focus_agents.reports.markup import BASE_STYLE
from focus_agents.serving import SECONDS, RefusedError, body_length, check_called
from focus_env.errors import FocusError

LARGEST_REQUEST = 2**20
"""Bytes of a request that is no picture."""
DRAINED, DRAIN_SECONDS, PART = 512 * 2**20, 5.0, 2**16
"""Bytes of a refused request that are read all the same, for who is still sending does not hear why it is refused; and
for how long nothing may come."""
FILES: Mapping[str, str] = {
    "/": "text/html",
    "/page.css": "text/css",
    "/page.js": "text/javascript",
    "/stage.js": "text/javascript",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Rules by which browsers hold the page to its own server."""


def page_file(path: str) -> bytes:
    """Return a file of the page."""
    own = resources.files(__package__).joinpath("page.html" if path == "/" else path[1:]).read_text(encoding="utf-8")
    return (BASE_STYLE + own if path == "/page.css" else own).encode()


class AppServer(ThreadingHTTPServer):
    """A server that listens already; `serve_forever` answers.

    Args:
        app: Answers.
        host: Address to listen at.
        port: Port; 0: any free one.

    Attributes:
        token: What a page's address has behind `#token=`.

    Raises:
        OSError: If it cannot listen there.
    """

    def __init__(self, app: App, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.app, self.host, self.token = app, host, secrets.token_urlsafe(16)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Handler)

    def service_actions(self) -> None:
        """End the sessions whose pages are gone, between requests."""
        self.app.sweep()


class Handler(BaseHTTPRequestHandler):
    """Answers requests one by one, each connection in a thread of its own."""

    server: AppServer
    protocol_version = "HTTP/1.1"
    timeout = SECONDS

    def do_GET(self) -> None:
        """Send the page itself, which holds nothing of anybody."""
        path = urlsplit(self.path).path
        try:
            check_called(self.server.host, self.headers)
            if path not in FILES:
                raise RefusedError(f"path: expected one of {', '.join(FILES)}, got {path:.80}", 404)
            self._send(200, Reply(page_file(path), f"{FILES[path]}; charset=utf-8"))
        except RefusedError as error:
            self._refuse(error.status, str(error))

    def do_POST(self) -> None:
        """Answer a page."""
        self._unread = True
        try:
            self._send(200, self._reply(urlsplit(self.path).path))
        except RefusedError as error:
            self._refuse(error.status, str(error))
        except FocusError as error:
            self.server.app.say(f"error: {error}")
            self._refuse(500, str(error))
        except ConnectionError:  # the page is gone
            self.close_connection = True
        except Exception as error:  # whatever a policy raises: the next question may go well
            self.server.app.say(traceback.format_exc())
            self._refuse(500, f"{type(error).__name__}: {error}")

    def _reply(self, path: str) -> Reply:
        app, headers = self.server.app, self.headers
        check_called(self.server.host, headers)
        own = f"http://{headers.get('Host', '')}"
        if (origin := headers.get("Origin", own)) not in (own, own.replace("http:", "https:", 1)):
            raise RefusedError(f"Origin: expected {own}, got {origin:.80}", 403)
        if not hmac.compare_digest(headers.get("X-Focus-Token", "").encode(), self.server.token.encode()):
            raise RefusedError("expected the token of this server; open the address that focus app has printed", 403)
        if path == "/session":
            self._body(LARGEST_REQUEST)
            return app.begin()
        session = app.session(headers.get("X-Focus-Session", ""))
        if path == "/pictures":
            if headers.get_content_type() != "application/octet-stream":
                raise RefusedError("Content-Type: expected application/octet-stream", 415)
            name = unquote(headers.get("X-Focus-Name", ""), errors="replace")
            try:
                return app.add(session, self._body(app.most_upload), name)
            except RefusedError as error:
                if error.status == 413 and self._unread:
                    raise RefusedError(
                        _too_large(name, headers.get("Content-Length", ""), app.most_upload), 413
                    ) from error
                raise
        if path not in app.asked:
            raise RefusedError(f"path: expected /session, /pictures, {', '.join(app.asked)}, got {path:.80}", 404)
        if headers.get_content_type() != "application/json":
            raise RefusedError("Content-Type: expected application/json", 415)
        try:
            found = json.loads(self._body(LARGEST_REQUEST) or b"{}")
        except (ValueError, RecursionError) as error:
            raise RefusedError(f"expected JSON, got something else: {error}") from error
        if not isinstance(found, dict):
            raise RefusedError(f"expected an object of JSON, got {found!r:.80}")
        return app.asked[path](session, found)

    def _body(self, limit: int) -> bytes:
        length = body_length(self.headers, limit)
        content = self.rfile.read(length)
        self._unread = False
        if len(content) < length:
            raise ConnectionError("the request was cut")
        return content

    def _refuse(self, status: int, message: str) -> None:
        """Say why a request is not answered."""
        self._send(status, Reply({"error": message}))

    def _send(self, status: int, reply: Reply) -> None:
        is_file = isinstance(reply.content, bytes)
        content = reply.content if isinstance(reply.content, bytes) else json.dumps(reply.content).encode()
        is_cut = status >= 400
        self.send_response(status)
        self.send_header("Content-Type", reply.kind if is_file else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        if reply.name:
            self.send_header("X-Focus-Name", reply.name)
        if is_cut:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)
        if is_cut and getattr(self, "_unread", False):
            self._drain()

    def _drain(self) -> None:
        """Read what is left of a request that was refused."""
        length = self.headers.get("Content-Length", "")
        left = min(int(length), DRAINED) if length.isascii() and length.isdecimal() else 0
        self.wfile.flush()
        self.connection.settimeout(DRAIN_SECONDS)
        try:
            while left > 0 and (part := self.rfile.read(min(left, PART))):
                left -= len(part)
        except OSError:  # nothing comes any more
            return

    def handle(self) -> None:
        """Answer until the page is gone, also while an answer is under way."""
        with contextlib.suppress(ConnectionError):
            super().handle()

    def version_string(self) -> str:
        """Return a name that says nothing about this machine."""
        return "focus"

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


def _too_large(name: str, length: str, limit: int) -> str:
    return (
        f"{name:.80}: expected a file of at most {limit / 2**20:.0f} MB, got {int(length) / 2**20:.1f} MB; "
        "scale the picture or cut the video"
    )
