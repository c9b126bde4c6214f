"""A model for engines, and engines that are started on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from focus_agents.models.processing import VLMProcessor
from focus_agents.policies.vllm.engine import EngineOptions, VLLMEngine
from focus_env.env import observe
from focus_env.prompts import get_template
from focus_env.types import Message
from tests.fakes import make_episode
from tests.focus_agents.policies.vllm import stub
from tests.focus_agents.policies.vllm.checks import (
    ENGINES,
    Start,
)


@pytest.fixture(scope="module")
def folder(model: Any, processor: VLMProcessor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture(params=ENGINES)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "stand-in":
        stub.install(monkeypatch)
    return str(request.param)


@pytest.fixture
def start(kind: str, folder: Path) -> Iterator[Start]:
    engines: list[VLLMEngine] = []

    def make(**options: Any) -> VLLMEngine:
        engines.append(VLLMEngine(str(folder), EngineOptions(memory=0.3, **options)))
        return engines[-1]

    yield make
    engines.clear()


@pytest.fixture(scope="module")
def questions() -> list[list[Message]]:
    template = get_template("compact")
    return [template.render(observe(make_episode(index, shots=1 + index))) for index in range(2)]
