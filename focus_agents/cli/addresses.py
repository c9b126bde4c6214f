"""Check the address of a Ray cluster: its form, and whether a cluster answers. Ray itself would wait silently."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

ANSWER_SECONDS = 5.0
"""How long a cluster may take to answer at its address."""
AUTO = "auto"
"""The address of the cluster on this machine, whichever it is."""


def host_and_port(address: str) -> tuple[str, int]:
    """Return the two parts of a cluster's address.

    Raises:
        ValueError: If it is none. That of Ray's client is none either: the run's driver would be a process of which the
            cluster knows no job, and which reaches neither its metrics nor the names of its actors.
    """
    form = f"ray_address: expected {AUTO} or HOST:PORT"
    if address.lower().startswith("ray://"):
        raise ValueError(
            f"{form}, got {address!r}, the address of Ray's client, by which a run has neither its names nor its "
            "metrics on the cluster; start the command on a machine of the cluster with that of its head (port 6379, "
            "where `ray start` was given no other), or send it there: ray job submit -- focus ... --ray-address auto"
        )
    try:
        parts = urlsplit(f"ray-head://{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or parts.netloc != address or "@" in address:
        raise ValueError(f"{form}, got {address!r}")
    return host, port


def check_answer(address: str, expected: str, advice: str) -> None:
    """See that something answers at an address as Ray's head does.

    Raises:
        ValueError: If nothing does within `ANSWER_SECONDS`.
    """
    host, port = host_and_port(address)
    try:
        socket.create_connection((host, port), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        raise ValueError(f"{expected}, got: {error}; {advice}") from error
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return  # such a head answers only whom it knows
    import grpc

    with grpc.insecure_channel(f"{host}:{port}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=ANSWER_SECONDS)
        except grpc.FutureTimeoutError:
            raise ValueError(f"{expected}, got: something else listens there; {advice}") from None
