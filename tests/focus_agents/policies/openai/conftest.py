"""A local chat server, and no settings of an endpoint from outside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.focus_agents.policies.openai.chat_server import ChatServer, chat_server


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as running:
        yield running
