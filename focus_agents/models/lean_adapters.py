"""Adapters while a model answers: the same numbers, with less Python around them.

A step of decoding is a few hundred short kernels, and PEFT's own forward pass of an adapted layer looks up, checks and
casts before each. Merging adapters into the weights would spare even the kernels, but in a training the base's own bits
would have to come back afterwards, from a second copy of the weights.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch.nn import functional


@contextlib.contextmanager
def lean_adapters(model: Any) -> Iterator[None]:
    """Let adapted layers compute by the shortest way, to the bit what they compute otherwise, without gradient.

    Layers with anything beyond one plain adapter are left as they are.

    Args:
        model: With adapters or without; as it was afterwards. Their weights must not change meanwhile, nor autocast.
    """
    layers = [module for module in model.modules() if isinstance(module, Linear) and _is_plain(module)]
    for layer in layers:
        name = layer.active_adapters[0]
        down, up = layer.lora_A[name].weight.detach(), layer.lora_B[name].weight.detach()
        scaling = layer.scaling[name]
        if torch.is_autocast_enabled(down.device.type):
            narrow = torch.get_autocast_dtype(down.device.type)
            down, up = down.to(narrow), up.to(narrow)
        if math.frexp(scaling)[0] == 0.5:  # a power of two, as the default is: no product is rounded otherwise
            up, scaling = up * scaling, 1.0
        layer.forward = functools.partial(_adapted, layer, layer.base_layer, down, up, scaling)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _is_plain(layer: Any) -> bool:
    """Return whether a layer has one adapter, which is added to it as it is."""
    names = layer.active_adapters
    if layer.merged or layer.disable_adapters or len(names) != 1 or names[0] not in layer.lora_A:
        return False
    name = names[0]
    has_bias = layer.lora_A[name].bias is not None or layer.lora_B[name].bias is not None
    drops = not isinstance(layer.lora_dropout[name], torch.nn.Identity)
    return not (name in layer.lora_variant or has_bias or drops or "forward" in vars(layer))


def _adapted(
    layer: Any, base: torch.nn.Module, down: torch.Tensor, up: torch.Tensor, scaling: float, x: torch.Tensor
) -> torch.Tensor:
    """Return base(x) + scaling * (x down^T) up^T; for inputs of another type than the adapter's, PEFT's result."""
    if x.dtype != down.dtype:
        whole: torch.Tensor = type(layer).forward(layer, x)
        return whole
    result: torch.Tensor = base(x)
    added = functional.linear(functional.linear(x, down), up)
    total = result + (added if scaling == 1.0 else added * scaling)
    return total if total.dtype == result.dtype else total.to(result.dtype)
