"""The sizes of a model that decide what it costs, from its configuration alone: no weights are read.

Parameters are counted on the model's own modules, made without memory, so that any family is counted as it is.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from focus_agents.models.quantization import narrow_modules
from focus_agents.models.registry import find_family


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Sizes of a model.

    Attributes:
        num_layers: Decoder layers.
        hidden: Width of the decoder.
        intermediate: Width of its MLPs; of a mixture, of the experts of a token together.
        query_width: Query heads times their size.
        key_value_width: Key-value heads times their size.
        normalizes_heads: Whether queries and keys are normalized, as in Qwen3-VL.
        vocabulary: Tokens that the head tells apart.
        context: Most tokens of a prompt and its answer.
        vision_layers: Layers of the vision tower.
        vision_width: Its width.
        vision_intermediate: Width of its MLPs.
        values_per_patch: Numbers of a picture that become one of its patches.
        vision_parameters: Its parameters.
        language_parameters: All others.
        layer_parameters: Those of the decoder layers among them.
        adapter_width: Inputs and outputs of all modules that get adapters, added up: times the rank, their parameters.
        adapted_weights: Numbers in the weights of these modules.
        linear_weights: Numbers in each weight that a base in 4 bits holds in these.
    """

    num_layers: int
    hidden: int
    intermediate: int
    query_width: int
    key_value_width: int
    normalizes_heads: bool
    vocabulary: int
    context: int
    vision_layers: int
    vision_width: int
    vision_intermediate: int
    values_per_patch: int
    vision_parameters: int
    language_parameters: int
    layer_parameters: int
    adapter_width: int
    adapted_weights: int
    linear_weights: tuple[int, ...]

    @property
    def parameters(self) -> int:
        """All parameters, without adapters."""
        return self.vision_parameters + self.language_parameters


def shape_of(config: Any) -> ModelShape:
    """Return the sizes of a model.

    Args:
        config: Its configuration, as `focus_agents.models.loading.load_config` returns it.

    Raises:
        CheckpointError: If no family has its model type.
    """
    family = find_family(config.model_type)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    parts = family.parts(model)
    text, vision = config.get_text_config(), config.vision_config
    head_size = _first(text, "head_dim") or text.hidden_size // text.num_attention_heads
    tower = {id(parameter) for parameter in parts.vision_tower.parameters()}
    vision_width = _first(vision, "embed_dim", "hidden_size", default=text.hidden_size)
    experts = _first(text, "num_experts_per_tok", "num_experts_per_token", default=1)
    intermediate = _first(text, "moe_intermediate_size", "intermediate_size", default=4 * text.hidden_size) * experts
    adapted = [
        (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and re.fullmatch(family.lora_targets, name)
    ]
    return ModelShape(
        num_layers=len(parts.layers),
        hidden=text.hidden_size,
        intermediate=intermediate,
        query_width=text.num_attention_heads * head_size,
        key_value_width=_first(text, "num_key_value_heads", default=text.num_attention_heads) * head_size,
        normalizes_heads=any(name.endswith("q_norm") for name, _ in parts.layers[-1].named_modules()),
        vocabulary=text.vocab_size,
        context=text.max_position_embeddings,
        vision_layers=_first(vision, "depth", "num_hidden_layers", default=1),
        vision_width=vision_width,
        vision_intermediate=_first(vision, "intermediate_size")
        or int(vision_width * _first(vision, "mlp_ratio", default=4)),
        values_per_patch=_values_per_patch(vision),
        vision_parameters=sum(p.numel() for p in parts.vision_tower.parameters()),
        language_parameters=sum(p.numel() for p in model.parameters() if id(p) not in tower),
        layer_parameters=sum(p.numel() for layer in parts.layers for p in layer.parameters()),
        adapter_width=sum(map(sum, adapted)),
        adapted_weights=sum(map(math.prod, adapted)),
        linear_weights=tuple(module.weight.numel() for module in narrow_modules(model)),
    )


def _values_per_patch(vision: Any) -> int:
    side = _first(vision, "patch_size", default=14)
    sides = side if isinstance(side, (list, tuple)) else (side, side)
    channels = _first(vision, "in_channels", "num_channels", default=3)
    return int(math.prod(sides) * channels * _first(vision, "temporal_patch_size", default=1))


def _first(config: Any, *names: str, default: Any = None) -> Any:
    """Return the first of these fields that a configuration has."""
    return next((value for name in names if (value := getattr(config, name, None)) is not None), default)
