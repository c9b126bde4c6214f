"""Adapters while a model answers: the same numbers, with less Python around them.

A step of decoding is a few hundred short kernels, and PEFT's own forward pass of an adapted layer looks up, checks and
casts before each. Merging adapters into the weights would spare even the kernels, but in bfloat16 the sum is another
policy than the one that is learned from.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.lora import Linear


@contextlib.contextmanager
def lean_adapters(model: Any) -> Iterator[None]:
    """Let adapted layers compute by the shortest way, to the bit what they compute otherwise.

    Layers with anything beyond one plain adapter are left as they are.

    Args:
        model: With adapters or without; as it was afterwards.
    """
    layers = [module for module in model.modules() if isinstance(module, Linear) and _is_plain(module)]
    for layer in layers:
        name = layer.active_adapters[0]
        parts = layer.base_layer, layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]
        layer.forward = functools.partial(_adapted, type(layer).forward, layer, *parts)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _is_plain(layer: Any) -> bool:
    """Whether a layer has one adapter, which is added to it as it is."""
    names = layer.active_adapters
    if layer.merged or layer.disable_adapters or len(names) != 1 or names[0] not in layer.lora_A:
        return False
    name = names[0]
    has_bias = layer.lora_A[name].bias is not None or layer.lora_B[name].bias is not None
    drops = not isinstance(layer.lora_dropout[name], torch.nn.Identity)
    return not (name in layer.lora_variant or has_bias or drops or "forward" in vars(layer))


def _adapted(
    whole: Any,
    layer: Any,
    base: torch.nn.Module,
    down: torch.Tensor,
    up: torch.Tensor,
    scaling: float,
    x: torch.Tensor,
    *args: Any,
    **kwargs: Any,
) -> torch.Tensor:
    """base(x) + scaling * (x down^T) up^T; in other types than autocast or the weights see to, the whole way."""
    if args or kwargs or not (x.dtype == down.dtype or torch.is_autocast_enabled(x.device.type)):
        result: torch.Tensor = whole(layer, x, *args, **kwargs)
        return result
    result = base(x)
    added = torch.nn.functional.linear(torch.nn.functional.linear(x, down), up) * scaling
    return (result + added).to(result.dtype)
