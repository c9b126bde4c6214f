"""Check an adapter's `adapter_config.json` by field, since PEFT takes it as it is and stumbles later."""

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
LARGEST_RANK, LARGEST_SCALE = 65_536, 1_000_000
"""Of `r` and of `lora_alpha`: far beyond what anybody trains, and within what float32 computes with."""


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
    _check_kind(adapter, settings)
    settings.pop("runtime_config", None)  # how PEFT computed then, nothing of the weights
    settings = {name: value for name, value in settings.items() if value is not None}  # PEFT's own values stand there
    with quiet_peft():
        try:
            return LoraConfig.from_peft_type(**settings)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
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
    """Check each setting that is given, by its name."""
    for name, expected, is_good, may_be_null in _FIELDS:
        value = settings.get(name)
        is_of_experts_alone = name == "target_modules" and settings.get("target_parameters")
        if name not in settings or is_good(value) or is_of_experts_alone or (value is None and may_be_null):
            continue
        raise CheckpointError(
            adapter_fault(adapter, f"{ADAPTER_CONFIG}: expected {expected} for {name}, got {json.dumps(value)[:200]}")
        )


def _check_kind(adapter: SavedAdapter, settings: Mapping[str, Any]) -> None:
    """Refuse kinds of LoRA whose answers are not those of weights with something added to them."""
    for name, kind in _OTHER_KINDS.items():
        if settings.get(name) is not None:
            reason = (
                f"{ADAPTER_CONFIG}: expected null for {name}, got {json.dumps(settings[name])[:200]}; {kind}, which is "
                "not computed here; ask it by the program that it was made for"
            )
            raise CheckpointError(adapter_fault(adapter, reason))


def _is_rank(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_finite_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_moderate(value: Any) -> bool:
    return abs(value) <= LARGEST_SCALE


def _is_share(value: Any) -> bool:
    return _is_finite_number(value) and 0 <= value <= 1


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


def _are_tokens(value: Any) -> bool:
    return _are_numbers(value) or (isinstance(value, dict) and all(map(_are_numbers, value.values())))


def _are_ranges(value: Any) -> bool:
    return isinstance(value, list) and all(_are_numbers(pair) and len(pair) == 2 for pair in value)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _are_targets(value: Any) -> bool:
    return isinstance(value, str) or _are_names(value)


def _are_layers(value: Any) -> bool:
    return type(value) is int or (isinstance(value, list) and all(type(number) is int for number in value))


def _by_pattern(is_good: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(is_good, value.values()))


_FLAGS = ("use_rslora", "use_dora", "use_qalora", "lora_bias", "fan_in_fan_out", "ensure_weight_tying")
_OBJECTS = (
    *("runtime_config", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "megatron_config"),
    *("velora_config", "kasa_config", "auto_mapping"),
)
_FIELDS: tuple[tuple[str, str, Callable[[Any], bool], bool], ...] = (
    ("r", "a whole number from 1", _is_rank, False),
    ("r", f"at most {LARGEST_RANK:,}", lambda value: value <= LARGEST_RANK, False),
    ("lora_alpha", "a finite number", _is_finite_number, False),
    ("lora_alpha", f"at most {LARGEST_SCALE:,}", _is_moderate, False),
    ("lora_dropout", "a share from 0 to 1", _is_share, True),
    ("bias", "none, all or lora_only", lambda value: value in ("none", "all", "lora_only"), True),
    ("init_lora_weights", "true, false or a name", lambda value: isinstance(value, bool | str), True),
    ("target_modules", "a pattern, or a list of names", _are_targets, False),
    ("exclude_modules", "a pattern, or a list of names", _are_targets, True),
    ("modules_to_save", "a list of names", _are_names, True),
    ("target_parameters", "a list of names", _are_names, True),
    ("trainable_token_indices", "whole numbers from 0, or lists of them by module", _are_tokens, True),
    ("layers_to_transform", "whole numbers", _are_layers, True),
    ("layers_pattern", "a pattern, or a list of them", _are_targets, True),
    ("layer_replication", "pairs of whole numbers from 0", _are_ranges, True),
    ("rank_pattern", "whole numbers from 1 by pattern", _by_pattern(_is_rank), True),
    ("rank_pattern", f"at most {LARGEST_RANK:,}", _by_pattern(lambda value: value <= LARGEST_RANK), True),
    ("alpha_pattern", "finite numbers by pattern", _by_pattern(_is_finite_number), True),
    ("alpha_pattern", f"at most {LARGEST_SCALE:,}", _by_pattern(_is_moderate), True),
    ("qalora_group_size", "a whole number from 1", _is_rank, True),
    ("revision", "a text", lambda value: isinstance(value, str), True),
    *((name, "true or false", _is_flag, True) for name in _FLAGS),
    *((name, "an object", _is_object, True) for name in _OBJECTS),
)
"""Name, what is expected, whether a value is that, and whether null may stand there."""
_OTHER_KINDS = {
    "alora_invocation_tokens": "an activated LoRA counts from these tokens on only",
    "arrow_config": "Arrow chooses among several adapters by token",
    "monteclora_config": "MonteCLoRA draws its weights at random",
}
"""Settings of adapters that are more than a sum, with a description for the message."""
