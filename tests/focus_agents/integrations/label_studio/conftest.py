"""Servers that are closed behind each test, and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from focus_agents.integrations.label_studio.host import Host
from tests.focus_agents.finding.scenes import write
from tests.focus_agents.integrations.label_studio.client import Client
from tests.focus_agents.integrations.label_studio.fake_host import serving


@pytest.fixture
def serve() -> Iterator[Callable[..., Client]]:
    opened = []

    def start(host: Host, localizer: Any = None, **options: Any) -> Client:
        client = Client(host, localizer, **options)
        running = serving(client.server)
        running.__enter__()
        opened.append(running)
        return client

    yield start
    for running in opened:
        running.__exit__(None, None, None)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name, corner in {"0.png": (8, 8), "1.png": (50, 30), "sub/2.png": (20, 40), "none.png": None}.items():
        write(tmp_path / "photos" / name, corner)
    return tmp_path / "photos"
