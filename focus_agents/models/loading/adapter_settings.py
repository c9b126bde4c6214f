"""What an adapter's `adapter_config.json` says: checked by field, since PEFT takes it as it is and stumbles later."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from peft import LoraConfig

from focus_agents.errors import CheckpointError
from focus_agents.models.adapters import quiet_peft
from focus_agents.models.loading.places import not_loaded
from focus_agents.models.loading.sources import ADAPTER_CONFIG, SavedAdapter
from focus_agents.models.loading.untrusted import SECONDS, pattern_fault

PATTERN_SECONDS = SECONDS
"""Of computing, for all patterns of an adapter."""


def adapter_fault(adapter: SavedAdapter, reason: str) -> str:
    """Return the message for an adapter that could not be loaded."""
    return not_loaded(adapter.text, f"its adapter: {reason}")


def read_settings(adapter: SavedAdapter) -> LoraConfig:
    """Return what an adapter's `adapter_config.json` says, as PEFT has it.

    Raises:
        CheckpointError: If it is no LoRA adapter, or PEFT does not know its settings.
    """
    settings = dict(adapter.settings)
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            adapter_fault(
                adapter, f"expected peft_type LORA in {ADAPTER_CONFIG}, got {json.dumps(kind)}; merge it by PEFT"
            )
        )
    _check_fields(adapter, settings)
    settings |= {name: {} for name in ("rank_pattern", "alpha_pattern") if settings.get(name) is None}
    with quiet_peft():
        try:
            return LoraConfig.from_peft_type(**settings)
        except (TypeError, ValueError, KeyError) as error:
            raise CheckpointError(adapter_fault(adapter, f"PEFT cannot read its {ADAPTER_CONFIG} ({error})")) from error


def check_patterns(adapter: SavedAdapter, config: LoraConfig, names: Iterable[str]) -> None:
    """Check that the regular expressions of an adapter come to an end on the modules of its base.

    Args:
        adapter: For messages.
        config: Its settings; each expression as PEFT puts it together.
        names: Of all modules that PEFT will compare with them.

    Raises:
        CheckpointError: If one is no regular expression, or they take longer than any that are meant to end.
    """
    as_they_are = [(said, said) for said in (config.target_modules, config.exclude_modules) if isinstance(said, str)]
    ends = [(said, rf"(.*\.)?({said})$") for said in (*(config.rank_pattern or {}), *(config.alpha_pattern or {}))]
    listed = [] if isinstance(config.target_modules, str) else sorted(config.target_modules or ())
    parts = [(said, rf"(^|.*\.){said}($|\..*)") for said in (*(config.modules_to_save or ()), *listed)]
    layers = [config.layers_pattern] if isinstance(config.layers_pattern, str) else config.layers_pattern or []
    numbered = [(said, rf"(?:^|.*?\.){said}\.(?P<idx>\d+)\.") for said in layers]
    if fault := pattern_fault([*as_they_are, *ends, *parts, *numbered], sorted(names), seconds=PATTERN_SECONDS):
        reason = f"{ADAPTER_CONFIG}: its patterns for modules cannot be used: {fault}; write them as plain names"
        raise CheckpointError(adapter_fault(adapter, reason))


def _check_fields(adapter: SavedAdapter, settings: Mapping[str, Any]) -> None:
    """Check rank, scale, targets and patterns where they are given."""
    for name, expected, is_good, may_be_null in _FIELDS:
        value = settings.get(name)
        is_of_experts_alone = name == "target_modules" and settings.get("target_parameters")
        if name not in settings or is_good(value) or is_of_experts_alone or (value is None and may_be_null):
            continue
        raise CheckpointError(
            adapter_fault(adapter, f"{ADAPTER_CONFIG}: expected {expected} for {name}, got {json.dumps(value)[:200]}")
        )


def _is_rank(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_finite_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _are_targets(value: Any) -> bool:
    return isinstance(value, str) or _are_names(value)


def _are_layers(value: Any) -> bool:
    return type(value) is int or (isinstance(value, list) and all(type(number) is int for number in value))


def _by_pattern(is_good: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(is_good, value.values()))


_FIELDS: tuple[tuple[str, str, Callable[[Any], bool], bool], ...] = (
    ("r", "a whole number from 1", _is_rank, False),
    ("lora_alpha", "a finite number", _is_finite_number, False),
    ("target_modules", "a pattern, or a list of names", _are_targets, False),
    ("exclude_modules", "a pattern, or a list of names", _are_targets, True),
    ("modules_to_save", "a list of names", _are_names, True),
    ("layers_to_transform", "whole numbers", _are_layers, True),
    ("layers_pattern", "a pattern, or a list of them", _are_targets, True),
    ("rank_pattern", "whole numbers from 1 by pattern", _by_pattern(_is_rank), True),
    ("alpha_pattern", "finite numbers by pattern", _by_pattern(_is_finite_number), True),
)
"""Name, what is expected, whether a value is that, and whether null may stand there."""
