"""Bases in 4 bits under adapters, by bitsandbytes through transformers.

The language model's linear layers are held in 4 bits; the vision tower, what joins it, and the head stay in bfloat16.
Nothing is ever merged into such a base: adapters are saved, and merged into the whole weights by `focus export`.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

from focus_agents.models.adapters import model_parts
from focus_agents.models.settings import Quantization
from focus_env.errors import MissingDependencyError


def check_quantization(quantization: Quantization, *, has_adapters: bool) -> None:
    """See that a base can be held in 4 bits.

    Args:
        quantization: As it is asked for.
        has_adapters: Whether adapters are trained on it, and nothing else.

    Raises:
        ValueError: If there are none, since rounded weights cannot be trained.
        MissingDependencyError: If bitsandbytes is not installed, or torch sees no CUDA device.
    """
    if quantization == "none":
        return
    if not has_adapters:
        raise ValueError(
            f"quantization: expected none where all parameters are trained, got {quantization!r}; set `lora_rank`"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingDependencyError(
            f"quantization {quantization!r} needs the package bitsandbytes, which is not installed; "
            'run: pip install "focus-localization[quantized]"'
        )
    if not torch.cuda.is_available():
        raise MissingDependencyError(
            f"quantization {quantization!r} needs a GPU, and torch sees no CUDA device; give the process that trains "
            "one, or leave it out"
        )


def loading_options(config: Any) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that hold a model in 4 bits.

    Args:
        config: The model's configuration, of transformers.
    """
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=whole_modules(config),  # of 4 bits, too, whatever its name says
    )
    device = {"": torch.cuda.current_device()} if torch.cuda.is_available() else None
    return {"quantization_config": settings, "dtype": torch.bfloat16, "device_map": device}


def whole_modules(config: Any) -> list[str]:
    """Return the modules that are not held in 4 bits: the vision tower, what joins it to the language model, the head.

    Args:
        config: The model's configuration, of transformers.
    """
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    kept = _whole_parts(model)
    return [name for name, module in model.named_modules() if any(module is part for part in kept)]


def narrow_modules(model: Any) -> list[torch.nn.Linear]:
    """Return the layers of a model in whole weights that 4 bits would hold; the experts of a mixture are no layers.

    Args:
        model: Of transformers.
    """
    parts = [part for part in _whole_parts(model) if isinstance(part, torch.nn.Module)]
    kept = {id(module) for part in parts for module in part.modules()}
    return [module for module in model.modules() if isinstance(module, torch.nn.Linear) and id(module) not in kept]


def _whole_parts(model: Any) -> list[Any]:
    parts = model_parts(model)
    return [parts.vision_tower, getattr(parts.head, "linear", parts.head), *parts.projections]


BLOCK, BLOCKS = 64, 256
"""Numbers of a weight that share a scale, and scales that share one of their own: bitsandbytes' own sizes."""
LEVELS = 4 * (16 + 256)
"""Bytes of the tables of levels, in float32, that a weight brings along for its numbers and for their scales."""


def bytes_in_4_bits(num_numbers: int) -> int:
    """Return the bytes of a weight in NF4 with double quantization, as `loading_options` asks for it.

    Half a byte a number; a byte for the scale of each block; for these scales' own four bytes a block, and four for
    their mean.

    >>> bytes_in_4_bits(64 * 256) - LEVELS
    8456
    """
    scales = -(-num_numbers // BLOCK)
    return -(-num_numbers // 2) + scales + 4 * -(-scales // BLOCKS) + 4 + LEVELS
