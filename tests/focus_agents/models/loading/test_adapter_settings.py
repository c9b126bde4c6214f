"""Patterns of an adapter that come to no end are refused, and those that people write go on working."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from focus_agents.errors import CheckpointError
from focus_agents.models.loading import adapter_settings, check_model
from focus_agents.models.loading.untrusted import pattern_fault
from tests.focus_agents.models.loading.adapters import LANGUAGE_ONLY, PROJECTIONS, change_settings

ENDLESS = "(([a-z_.0-9]+)+)+!"
NAMES = [f"model.language_model.layers.{layer}.self_attn.q_proj" for layer in range(80)]


def test_a_pattern_without_an_end(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_settings, "PATTERN_SECONDS", 1)
    change_settings(adapter, target_modules=ENDLESS)
    with pytest.raises(CheckpointError, match="its patterns for modules cannot be used: it does not end within 1 s of"):
        check_model(str(adapter))


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        ({"target_modules": ENDLESS}, ENDLESS),
        ({"exclude_modules": ENDLESS}, ENDLESS),
        ({"rank_pattern": {ENDLESS: 2}}, rf"(.*\.)?({ENDLESS})$"),
        ({"alpha_pattern": {"q_proj": 8, ENDLESS: 2}}, rf"(.*\.)?({ENDLESS})$"),
        ({"modules_to_save": [ENDLESS]}, rf"(^|.*\.){ENDLESS}($|\..*)"),
        ({"layers_pattern": [ENDLESS], "layers_to_transform": [0]}, rf"(?:^|.*?\.){ENDLESS}\.(?P<idx>\d+)\."),
        ({"layers_pattern": ENDLESS, "layers_to_transform": [0]}, rf"(?:^|.*?\.){ENDLESS}\.(?P<idx>\d+)\."),
        ({"target_modules": [*PROJECTIONS, ENDLESS]}, rf"(^|.*\.){ENDLESS}($|\..*)"),
    ],
    ids=str,
)
def test_each_pattern_is_tried_first(
    settings: dict[str, Any], pattern: str, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[str, str]] = []

    def refuse(patterns: list[tuple[str, str]], names: list[str], *, seconds: int) -> str:
        tried.extend(patterns)
        assert "model.language_model.layers.0.self_attn.q_proj" in names
        return "no"

    monkeypatch.setattr(adapter_settings, "pattern_fault", refuse)
    change_settings(adapter, **settings)
    with pytest.raises(CheckpointError, match=r"adapter_config.json: its patterns for modules cannot be used: no"):
        check_model(str(adapter))
    assert (ENDLESS, pattern) in tried


@pytest.mark.parametrize(
    "pattern", [r".*layers\.(0|1)\..*(q|v)_proj", LANGUAGE_ONLY, r"^(?!.*visual).*(?:q_proj|k_proj).*", "q_proj", ""]
)
def test_patterns_that_people_write(pattern: str) -> None:
    assert pattern_fault([(pattern, pattern)], NAMES) is None


def test_plain_names_need_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.run", None)
    assert pattern_fault([("layers.0.self_attn.q_proj", ENDLESS)], NAMES) is None
