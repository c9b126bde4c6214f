"""A run that stays on this machine is reached from this machine alone: every socket of it binds the loopback.

Ray, torch and the libraries below torch each choose an address to listen at, and all of them choose every one that the
machine has unless they are told.
"""

from __future__ import annotations

import functools
import importlib
import ipaddress
import os
import socket
import sys
from datetime import timedelta
from typing import Any

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
"""The system's name for the interface."""
SETTINGS = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray then takes 127.0.0.1 for the address of this node, on Linux too
    "GLOO_SOCKET_IFNAME": LOOPBACK,
    "NCCL_SOCKET_IFNAME": LOOPBACK,
}
"""Variables of the environment that all processes of a run inherit."""


def stay_on_loopback() -> bool:
    """Let a Ray that this process starts, and what trains on it, listen on the loopback only.

    Ray reads its setting when it is imported, so this has an effect before that only. What a user has set stays.

    Returns:
        Whether it has: False where Ray is imported already.
    """
    if "ray" in sys.modules:
        return False
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    return True


def listen_where_told() -> None:
    """Let torch's rendezvous in this process listen at the address that the others are told, where that is a loopback.

    Torch would listen on all interfaces, and has no setting for it but a socket that is bound already.
    """
    rendezvous: Any = importlib.import_module("torch.distributed.rendezvous")  # a function has the same name
    original = rendezvous._create_c10d_store
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def create(
        hostname: str, port: int, rank: int, world_size: int, timeout: timedelta, *args: Any, **options: Any
    ) -> Any:
        if rank != 0 or not is_loopback(hostname) or rendezvous._torchelastic_use_agent_store():
            return original(hostname, port, rank, world_size, timeout, *args, **options)
        return bound_store(hostname, port, world_size, timeout)

    rendezvous._create_c10d_store = create


def bound_store(hostname: str, port: int, world_size: int, timeout: timedelta) -> Any:
    """Return torch's store for a rendezvous, served by this process at one address.

    Args:
        hostname: The address.
        port: The port.
        world_size: Processes that meet.
        timeout: So long they wait for each other.
    """
    import torch.distributed

    family, kind, protocol, _, address = socket.getaddrinfo(hostname, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(address)
        return torch.distributed.TCPStore(  # type: ignore[attr-defined]
            hostname,
            port,
            world_size,
            is_master=True,
            timeout=timeout,
            multi_tenant=True,
            master_listen_fd=server.detach(),  # the store closes it
        )


def is_loopback(hostname: str) -> bool:
    """Tell whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(hostname).is_loopback
    except ValueError:
        return hostname == "localhost"
