"""A run on this machine listens to this machine."""

from __future__ import annotations

import importlib
import os
import socket
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from focus_agents.processes.loopback import LOOPBACK, SETTINGS, is_loopback, listen_where_told, stay_on_loopback
from tests.sockets import is_local, open_sockets


@pytest.fixture
def rendezvous() -> Iterator[Any]:
    """Torch's module, as it was before a test at its end."""
    module = importlib.import_module("torch.distributed.rendezvous")
    found = module._create_c10d_store
    module._create_c10d_store = getattr(found, "__wrapped__", found)  # a training in this process has patched it
    yield module
    module._create_c10d_store = found


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def listening(rendezvous: Any, host: str) -> list[str]:
    """Where a store that this process serves listens."""
    port = free_port()
    store = rendezvous._create_c10d_store(host, port, 0, 1, timedelta(seconds=20))
    store.set("key", "value")
    assert store.get("key") == b"value"
    return [address for address in open_sockets(os.getpid()) if address.endswith(f":{port}")]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_rendezvous_listens_where_the_others_are_told(rendezvous: Any) -> None:
    (everywhere,) = listening(rendezvous, "127.0.0.1")
    assert not is_local(everywhere), "torch has an address of its own by now; the patch can go"
    for _ in range(2):  # a second call changes nothing
        listen_where_told()
        (address,) = listening(rendezvous, "127.0.0.1")
        assert is_local(address)
    (address,) = listening(rendezvous, "localhost")
    assert is_local(address)
    (everywhere,) = listening(rendezvous, socket.gethostbyname(socket.gethostname()) or "0.0.0.0")
    assert not is_local(everywhere) or is_loopback(socket.gethostbyname(socket.gethostname()))


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("10.0.0.7", False), ("vm", False)],
)
def test_addresses_of_this_machine_alone(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_all_that_a_run_starts_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth7")
    monkeypatch.setitem(sys.modules, "ray", None)  # type: ignore[arg-type]
    assert not stay_on_loopback()
    assert "GLOO_SOCKET_IFNAME" not in os.environ, "Ray is imported already, and would be of two minds"
    monkeypatch.delitem(sys.modules, "ray")
    assert stay_on_loopback()
    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert os.environ["NCCL_SOCKET_IFNAME"] == "eth7", "what a user has set stays"
    for name in SETTINGS:
        monkeypatch.delenv(name)
    assert stay_on_loopback()
    assert os.environ["NCCL_SOCKET_IFNAME"] == os.environ["GLOO_SOCKET_IFNAME"] == LOOPBACK
    if hasattr(socket, "if_nameindex"):
        assert LOOPBACK in [name for _, name in socket.if_nameindex()], "an interface that this system has"
    for name in SETTINGS:
        monkeypatch.delenv(name)
