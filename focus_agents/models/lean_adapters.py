"""Adapters while a model answers: nearly the same numbers in fewer and shorter steps.

A step of decoding is a few hundred short kernels, and PEFT's own forward pass of an adapted layer looks up, checks and
casts before each. A copy of the layer's weight with the adapter added spares even the adapter's kernels. The base keeps
its own bits for learning, so nothing has to be put back, and the copies are gone before activations need the memory.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch.nn import functional

from focus_agents.models.budget import copies_fit
from focus_agents.models.devices import device_of


@contextlib.contextmanager
def lean_adapters(model: Any, *, copies: bool | None = None) -> Iterator[None]:
    """Let adapted layers compute by the shortest way there is memory for, without gradient.

    With merged copies of their weights, layers compute what PEFT computes, but for the rounding of a sum in the
    precision of the computation. Without, they add their adapters and leave out PEFT's checks, to the bit what PEFT
    computes. Layers with anything beyond one plain adapter are left as they are.

    Args:
        model: With adapters or without; as it was afterwards. Their weights must not change meanwhile, nor autocast.
        copies: Whether to make merged copies; None: where there is memory for them (`copies_fit`).
    """
    layers = [module for module in model.modules() if isinstance(module, Linear) and _is_plain(module)]
    copies = _have_room(layers) if copies is None else copies
    for layer in layers:
        layer.forward = _merged(layer) if copies and type(layer.base_layer) is torch.nn.Linear else _apart(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _have_room(layers: Sequence[Any]) -> bool:
    if not layers:
        return False
    weights = [layer.base_layer.weight for layer in layers]
    num_bytes = sum(weight.numel() * _computed_in(weight).itemsize for weight in weights)
    return copies_fit(num_bytes, device_of(str(weights[0].device), is_own=False).total)


def _computed_in(weight: torch.Tensor) -> torch.dtype:
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def _merged(layer: Any) -> functools.partial[torch.Tensor]:
    """Return the forward pass with a copy of the weight to which the adapter is added, summed in float32."""
    base = layer.base_layer
    dtype = _computed_in(base.weight)
    with torch.no_grad(), torch.autocast(base.weight.device.type, enabled=False):
        added = layer.get_delta_weight(layer.active_adapters[0])
        copy = (base.weight.float() + added.float()).to(dtype)
    return functools.partial(functional.linear, weight=copy, bias=base.bias)


def _apart(layer: Any) -> functools.partial[torch.Tensor]:
    """Return the forward pass that adds the adapter to what the base computes."""
    name = layer.active_adapters[0]
    down, up = layer.lora_A[name].weight.detach(), layer.lora_B[name].weight.detach()
    scaling = layer.scaling[name]
    narrow = _computed_in(down)
    down, up = down.to(narrow), up.to(narrow)
    if math.frexp(scaling)[0] == 0.5:  # a power of two, as the default is: no product is rounded otherwise
        up, scaling = up * scaling, 1.0
    return functools.partial(_adapted, layer, layer.base_layer, down, up, scaling)


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
