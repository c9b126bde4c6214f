"""Check by name that the fields of `config.json` and `preprocessor_config.json` can make a model.

The libraries take most of them as they are, and stumble over them once gigabytes are read, or in the first forward
pass. Fields that are not named here are left to the libraries, and so is null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from focus_agents.models.qwen import LEAST_IMAGE_TOKENS


class Rule(NamedTuple):
    """The values that a field may hold."""

    expected: str
    is_good: Callable[[Any], bool]


def _is_whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _all(value: Any, is_good: Callable[[Any], bool]) -> bool:
    """Return whether a value is good, or all of those in a list or by the names of sides, as sizes are written, too."""
    parts = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
    return len(parts) > 0 and all(map(is_good, parts))


def _sizes(most: int, *names: str, least: int = 1) -> dict[str, Rule]:
    rule = Rule(
        f"a whole number from {least} to {most:,}", lambda value: _all(value, lambda part: _is_whole(part, least, most))
    )
    return dict.fromkeys(names, rule)


def _numbers(expected: str, is_good: Callable[[float], bool], *names: str) -> dict[str, Rule]:
    return dict.fromkeys(names, Rule(expected, lambda value: _is_number(value) and is_good(value)))


def _channels(expected: str, is_good: Callable[[float], bool], name: str) -> dict[str, Rule]:
    def are_good(value: Any) -> bool:
        return (not isinstance(value, list) or len(value) in (1, 3)) and _all(
            value, lambda part: _is_number(part) and is_good(part)
        )

    return {name: Rule(expected, are_good)}


def _is_dtype(value: Any) -> bool:
    if isinstance(value, dict) or value == "auto":
        return True
    found = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else None
    return isinstance(found, torch.dtype) and found.is_floating_point


_OBJECT = Rule("an object in braces", lambda value: isinstance(value, dict))
_DTYPE = Rule('the name of a floating type of torch, such as "bfloat16"', _is_dtype)
_POSITIVE = ("a finite number above 0", lambda value: value > 0)
_SHARE = ("a number above 0 and at most 1", lambda value: 0 < value <= 1)

CONFIG: Mapping[str, Rule] = {
    **dict.fromkeys(
        ("text_config", "vision_config", "quantization_config", "rope_parameters", "rope_scaling"), _OBJECT
    ),
    **dict.fromkeys(("dtype", "torch_dtype"), _DTYPE),
    "return_dict": Rule("true, since outputs are read by name", lambda value: value is True),
    **_sizes(1 << 20, "hidden_size", "intermediate_size", "embed_dim", "out_hidden_size", "moe_intermediate_size"),
    **_sizes(1 << 20, "projection_dim", "linear_key_head_dim", "linear_value_head_dim"),
    **_sizes(1 << 10, "num_hidden_layers", "depth"),
    **_sizes(1 << 16, "num_attention_heads", "num_heads", "num_key_value_heads", "head_dim", "image_size"),
    **_sizes(1 << 16, "linear_num_key_heads", "linear_num_value_heads", "mm_tokens_per_image", "image_seq_length"),
    **_sizes(1 << 16, "num_experts", "num_local_experts", "num_experts_per_tok", least=0),
    **_sizes(1 << 16, "window_size"),
    **_sizes(1 << 24, "vocab_size", "num_position_embeddings"),
    **_sizes(1 << 31, "max_position_embeddings"),
    **_sizes(1 << 12, "patch_size", "spatial_merge_size", "temporal_patch_size", "scale_factor"),
    **_sizes(1 << 12, "in_channels", "in_chans", "num_channels"),
    **_numbers(*_POSITIVE, "rms_norm_eps", "layer_norm_eps", "rope_theta", "mlp_ratio", "query_pre_attn_scalar"),
    **_numbers(*_SHARE, "partial_rotary_factor", "downsample_ratio"),
    **_numbers("a number from 0 to below 1", lambda value: 0 <= value < 1, "attention_dropout", "hidden_dropout_prob"),
}
"""Of `config.json`, at any depth."""

PREPROCESSOR: Mapping[str, Rule] = {
    **_sizes(1 << 12, "patch_size", "merge_size", "temporal_patch_size"),
    **_sizes(1 << 40, "height", "width", "shortest_edge", "longest_edge", "min_pixels", "max_pixels"),
    **_sizes(1 << 9, "min_patches", "max_patches"),
    **_channels("three finite numbers", lambda value: True, "image_mean"),
    **_channels("three finite numbers above 0", lambda value: value > 0, "image_std"),
    **_numbers(*_POSITIVE, "rescale_factor"),
}
"""Of `preprocessor_config.json`, at any depth."""
_PAIRS = (("shortest_edge", "longest_edge"), ("min_pixels", "max_pixels"), ("min_patches", "max_patches"))
"""The first must not be the larger one."""


def field_fault(settings: Mapping[str, Any], rules: Mapping[str, Rule]) -> str | None:
    """Return which field of a file cannot be used, what was expected and what came; None: none that can be seen.

    Args:
        settings: What the file holds.
        rules: `CONFIG` or `PREPROCESSOR`.
    """
    return next(_faults(settings, rules, ""), None)


def _faults(settings: Mapping[str, Any], rules: Mapping[str, Rule], path: str) -> Iterator[str]:
    for name, value in settings.items():
        rule = rules.get(name)
        if rule is not None and value is not None and not rule.is_good(value):
            yield f"{path}{name}: expected {rule.expected}, got {json.dumps(value)[:100]}"
        elif isinstance(value, dict):
            yield from _faults(value, rules, f"{path}{name}.")
    for low, high in _PAIRS:
        least, most = settings.get(low), settings.get(high)
        if low not in rules or not (isinstance(least, int) and isinstance(most, int)):
            continue
        if least > most:
            yield f"{path}{low}: expected at most {high}, {most}, got {least}"


def size_fault(image_processor: Any) -> str | None:
    """Return what is wrong with the limits of a picture's size, wherever a file has them; None: nothing.

    Args:
        image_processor: Of transformers, which puts `min_pixels` and `max_pixels` in the place of edges.
    """
    least, most = (getattr(image_processor.size, name, None) for name in _PAIRS[0])
    if not (isinstance(least, int) and isinstance(most, int)):
        return None
    patch, merge = (getattr(image_processor, name, None) for name in ("patch_size", "merge_size"))
    if least <= most and isinstance(patch, int) and isinstance(merge, int):
        # Such processors count a picture's pixels, which edges of a few hundred pixels are mistaken for.
        needed = LEAST_IMAGE_TOKENS * (patch * merge) ** 2
        if most >= needed:
            return None
        return (
            f"max_pixels or size.longest_edge: expected at least {needed:,}, the pixels of {LEAST_IMAGE_TOKENS} "
            f"tokens, got {most:,}; it counts all pixels of a picture, not those of an edge"
        )
    if least <= most:
        return None
    return (
        f"min_pixels or size.shortest_edge: expected at most max_pixels or size.longest_edge, {most:,}, got {least:,}"
    )


def config_fault(config: Any) -> str | None:
    """Return which fields of a configuration contradict each other; None: none that can be seen.

    Args:
        config: Of transformers, whose fields are good each for itself.
    """
    text, vision = config.get_text_config(), getattr(config, "vision_config", None)
    heads, key_heads = getattr(text, "num_attention_heads", None), getattr(text, "num_key_value_heads", None)
    if (fault := _heads_fault(text, "hidden_size", "num_attention_heads")) is not None:
        return f"text_config.{fault}"
    if isinstance(heads, int) and isinstance(key_heads, int) and heads % key_heads:
        return f"text_config.num_key_value_heads: expected a divisor of num_attention_heads, {heads}, got {key_heads}"
    width = "embed_dim" if hasattr(vision, "embed_dim") else "hidden_size"
    if fault := _heads_fault(vision, width, "num_heads" if hasattr(vision, "num_heads") else "num_attention_heads"):
        return f"vision_config.{fault}"
    found = (check(config, text, vision) for check in _CROSS_CHECKS)
    return _patches_fault(vision) or _positions_fault(text) or next((fault for fault in found if fault), None)


def _heads_fault(config: Any, width: str, number: str) -> str | None:
    size, heads = getattr(config, width, None), getattr(config, number, None)
    if getattr(config, "head_dim", None) is not None or not (isinstance(size, int) and isinstance(heads, int)):
        return None
    return f"{number}: expected a divisor of {width}, {size}, got {heads}" if size % heads else None


def _patches_fault(vision: Any) -> str | None:
    """Check towers that take pictures of one size."""
    sides, patches = (_pair(getattr(vision, name, None)) for name in ("image_size", "patch_size"))
    if sides is not None and patches is not None and any(a < b for a, b in zip(sides, patches, strict=True)):
        return f"vision_config.patch_size: expected at most image_size, {list(sides)}, got {list(patches)}"
    return None


def _pair(value: Any) -> tuple[int, int] | None:
    if isinstance(value, int):
        return value, value
    is_pair = isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(side, int) for side in value)
    return (value[0], value[1]) if is_pair else None


def _positions_fault(text: Any) -> str | None:
    """Check M-RoPE: time, row and column share the halves of a head's rotated numbers."""
    rope = getattr(text, "rope_parameters", None)
    if not isinstance(rope, dict):
        return None
    said = rope.get("mrope_section")
    section = _PUBLISHED_SECTIONS.get(getattr(text, "model_type", "")) if said is None else said
    if section is None:
        return None
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    wanted = int(head * (rope.get("partial_rotary_factor") or getattr(text, "partial_rotary_factor", None) or 1)) // 2
    is_list = isinstance(section, list | tuple) and len(section) == 3 and all(_is_whole(n, 0, wanted) for n in section)
    if is_list and sum(section) == wanted:
        return None
    place = (
        "text_config.rope_parameters: expected an mrope_section of"
        if said is None
        else "text_config.mrope_section: expected"
    )
    return (
        f"{place} three whole numbers that add up to {wanted}, half of what is rotated of a head, got "
        f"{json.dumps(said, default=str)[:100]}"
    )


def _window_fault(config: Any, text: Any, vision: Any) -> str | None:
    """Check towers whose layers look at windows, and decoder layers that look back at a window."""
    window, blocks = getattr(vision, "window_size", None), getattr(vision, "fullatt_block_indexes", None)
    if isinstance(window, int) and blocks is not None:
        token = vision.patch_size * vision.spatial_merge_size
        if window < token:
            return f"vision_config.window_size: expected at least {token}, a token's pixels along a side, got {window}"
        if not blocks:
            return "vision_config.fullatt_block_indexes: expected the layers that see a whole picture, got []"
    kinds, width = getattr(text, "layer_types", None) or (), getattr(text, "sliding_window", None)
    if "sliding_attention" in kinds and not (isinstance(width, int) and width > 0):
        return f"text_config.sliding_window: expected a whole number from 1, as layer_types has it, got {width}"
    return None


def _layers_fault(config: Any, text: Any, vision: Any) -> str | None:
    """Check the lists of a tower's layers, and the layer whose output is the picture."""
    depth = getattr(vision, "depth", None) or getattr(vision, "num_hidden_layers", None)
    if not isinstance(depth, int):
        return None
    for name in ("fullatt_block_indexes", "deepstack_visual_indexes"):
        listed = getattr(vision, name, None)
        if listed is None:
            continue
        if len({*listed}) < len(listed) or not all(_is_whole(index, 0, depth - 1) for index in listed):
            expected = f"different whole numbers from 0 to {depth - 1}, one a layer"
            return f"vision_config.{name}: expected {expected}, got {json.dumps(listed, default=str)[:100]}"
    chosen = getattr(config, "vision_feature_layer", None)
    for layer in chosen if isinstance(chosen, list | tuple) else [chosen]:
        if layer is not None and not (_is_whole(layer, -depth - 1, depth) and layer):
            expected = f"a whole number from 1 to {depth}, or from -{depth + 1} to -1"
            return f"vision_feature_layer: expected {expected}, got {json.dumps(layer, default=str)[:100]}"
    return None


def _experts_fault(config: Any, text: Any, vision: Any) -> str | None:
    """Check mixtures of experts."""
    experts, chosen = getattr(text, "num_experts", None), getattr(text, "num_experts_per_tok", None)
    if isinstance(experts, int) and experts and isinstance(chosen, int) and not 1 <= chosen <= experts:
        return f"text_config.num_experts_per_tok: expected 1 to num_experts, {experts}, got {chosen}"
    return None


def _tokens_fault(config: Any, text: Any, vision: Any) -> str | None:
    """Check pictures whose patches are joined to a square of tokens, and the tower's outputs that are taken."""
    tokens = getattr(config, "mm_tokens_per_image", None)
    if isinstance(tokens, int):
        side, patches = math.isqrt(tokens), vision.image_size // vision.patch_size
        if side * side != tokens or side > patches or patches % side:
            expected = f"the square of a divisor of {patches}, the patches along a side"
            return f"mm_tokens_per_image: expected {expected}, got {tokens}"
    wanted = _FEATURES.get(config.model_type)
    strategy = getattr(config, "vision_feature_select_strategy", wanted)
    if wanted is not None and strategy != wanted:
        return f'vision_feature_select_strategy: expected "{wanted}", got {json.dumps(strategy, default=str)[:100]}'
    return None


_PUBLISHED_SECTIONS = {"qwen2_vl_text": (16, 24, 24), "qwen2_5_vl_text": (16, 24, 24)}
"""The `mrope_section` of transformers where `rope_parameters` have none."""
_CROSS_CHECKS = (_window_fault, _layers_fault, _experts_fault, _tokens_fault)
_FEATURES = {"internvl": "default", "llava_onevision": "full"}
"""The choice among a tower's outputs: the only one whose number is that of a picture's tokens."""
