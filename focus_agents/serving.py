"""Checks of requests to our small servers: who calls, and how much is sent."""

from __future__ import annotations

from email.message import Message
from urllib.parse import urlsplit

from focus_agents.processes.loopback import is_loopback
from focus_env.errors import FocusError

SECONDS = 60.0
"""Silence after which a connection is given up."""


class RefusedError(FocusError):
    """A request that cannot be answered.

    Args:
        message: Why.
        status: Of HTTP, 400 to 499.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def check_called(host: str, headers: Message) -> None:
    """Refuse a page of elsewhere, whose name leads here, to a server that listens on this machine alone.

    Args:
        host: Where the server listens.
        headers: Of the request.

    Raises:
        RefusedError: If it calls the server by a name that is not of this machine.
    """
    try:
        called = urlsplit(f"//{headers.get('Host', '')}").hostname or ""
    except ValueError:
        called = ""
    if is_loopback(host) and not is_loopback(called):
        raise RefusedError(f"Host: expected {host}, got {called!r:.80}", 403)


def body_length(headers: Message, limit: int) -> int:
    """Return how many bytes a request has.

    Raises:
        RefusedError: If it does not say, or has more than `limit`.
    """
    length = headers.get("Content-Length", "")
    if not (length.isascii() and length.isdecimal()):
        raise RefusedError("Content-Length: expected the number of bytes", 411)
    if int(length) > limit:
        raise RefusedError(f"expected at most {limit} bytes, got {length}", 413)
    return int(length)
