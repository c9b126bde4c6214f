"""Tiny models of all types on disk; a small base and an adapter on it, as FOCUS publishes one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from focus_agents.models.processing import VLMProcessor
from focus_agents.runs.checkpoint import save_policy
from tests.focus_agents.models.cases import make_case
from tests.focus_agents.models.families import make_model
from tests.focus_agents.models.loading.adapters import FAMILY, load_base, write_adapter


@pytest.fixture(scope="package")
def saved(tmp_path_factory: pytest.TempPathFactory, processor: VLMProcessor) -> Callable[[str], Path]:
    """Saves a tiny model of a type, once."""
    found: dict[str, Path] = {}

    def save(model_type: str) -> Path:
        if model_type not in found:
            case = make_case(model_type, processor)
            found[model_type] = save_policy(tmp_path_factory.mktemp("saved") / "model", case.model, case.processor)
        return found[model_type]

    return save


@pytest.fixture
def copied(saved: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """The same, to be damaged."""
    return lambda model_type: Path(shutil.copytree(saved(model_type), tmp_path / "model"))


@pytest.fixture(scope="package")
def base(tmp_path_factory: pytest.TempPathFactory, processor: VLMProcessor) -> Path:
    return save_policy(tmp_path_factory.mktemp("bases") / "base", make_model(FAMILY, processor), processor)


@pytest.fixture(scope="package")
def published(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """An adapter on the language model's seven projections."""
    return write_adapter(tmp_path_factory.mktemp("adapters") / "adapter", load_base(base), str(base))


@pytest.fixture
def adapter(published: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    return Path(shutil.copytree(published, tmp_path / "adapter"))
