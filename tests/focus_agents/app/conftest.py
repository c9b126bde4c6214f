"""Servers that are closed behind each test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.focus_agents.app.client import Client


@pytest.fixture
def serve() -> Iterator[Callable[..., Client]]:
    running: list[tuple[Client, threading.Thread]] = []

    def start(*arguments: Any, **options: Any) -> Client:
        client = Client(*arguments, **options)
        thread = threading.Thread(target=client.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        running.append((client, thread))
        return client

    yield start
    for client, thread in running:
        client.server.shutdown()
        client.server.server_close()
        thread.join()
