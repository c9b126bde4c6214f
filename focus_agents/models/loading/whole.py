"""Whole models with their weights: to answer, to train, and to compute features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from focus_agents.errors import CheckpointError
from focus_agents.models.adapters import add_adapters, family_of, model_parts
from focus_agents.models.attention import set_focus_attention
from focus_agents.models.loading.parts import load_family, load_processor
from focus_agents.models.loading.places import (
    LANGUAGE_MODELS,
    NEW_MODELS,
    VISION_MODELS,
    load_part,
    model_folder,
    not_loaded,
)
from focus_agents.models.settings import Precision
from focus_agents.models.shipped import model_name
from focus_agents.models.weights import bad_weights, files_folder


def load_model(name_or_path: str | Path, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """Load a model onto the CPU.

    Args:
        name_or_path: `"focus-small"` or one of `SHIPPED_MODELS`; `"tiny"` or `"small"` for a model with new weights; a
            folder written by `save_pretrained`; or a name on the hub, e.g. `"Qwen/Qwen2-VL-7B-Instruct"`. Code from the
            hub is never run.
        seed: For new weights.
        dtype: Of the weights.

    Raises:
        CheckpointError: If there is no such model, or no family has its model type.
    """
    name_or_path = model_name(name_or_path)
    if name_or_path in NEW_MODELS:
        return NEW_MODELS[name_or_path].build_model(load_processor(name_or_path).tokenizer, seed=seed).to(dtype)
    load_family(name_or_path)  # a type without a family is refused before gigabytes are read
    return load_whole(AutoModelForImageTextToText, name_or_path, dtype=dtype)


def load_trainable_model(
    name_or_path: str,
    *,
    seed: int = 0,
    precision: Precision = "fp32",
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    freeze_vision: bool = False,
    gradient_checkpointing: bool = False,
) -> Any:
    """Load a model and make it ready to train, in training mode.

    Weights that are trained are in float32, since an update is often smaller than bfloat16 can resolve.

    Args:
        name_or_path: As for `load_model`.
        seed: For new weights.
        precision: "bf16" holds the frozen base under adapters in bfloat16; the caller computes under autocast.
        lora_rank: Rank of LoRA adapters on the language model; None trains all parameters.
        lora_alpha: Their scale times their rank; None: twice the rank.
        freeze_vision: Whether the vision tower stays as it is. Under adapters it does anyway.
        gradient_checkpointing: Compute activations again in the backward pass instead of keeping them.

    Raises:
        CheckpointError: If there is no such model.
    """
    is_narrow = lora_rank is not None and precision == "bf16"
    model = load_model(name_or_path, seed=seed, dtype=torch.bfloat16 if is_narrow else torch.float32)
    set_focus_attention(model)
    family_of(model).batch_pictures(model)
    if gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if freeze_vision:
        model_parts(model).vision_tower.requires_grad_(False)
    if lora_rank is not None:
        model = add_adapters(model, rank=lora_rank, alpha=lora_alpha, seed=seed)
    return model.train()


def has_frozen_vision(model: Any) -> bool:
    """Whether the vision tower stays as it is, so that what it makes of a picture can be kept."""
    return not any(parameter.requires_grad for parameter in model_parts(model).vision_tower.parameters())


def load_vision_model(
    model_class: Any, name_or_path: str, *, model_types: Sequence[str], device: str | torch.device = "cpu"
) -> Any:
    """Load a model that answers no prompts, to compute with: float32, in evaluation mode, without gradients.

    Args:
        model_class: Class of transformers, with `from_pretrained`.
        name_or_path: A folder written by `save_pretrained`, or a name on the hub. Only safetensors are read, and code
            from the hub is never run. With HF_HUB_OFFLINE=1 the hub is not asked.
        model_types: Which `model_type` its configuration may have.
        device: Where it computes.

    Raises:
        CheckpointError: If there is no such model, it is of another type, or it lacks weights.
    """
    config = load_part(AutoConfig.from_pretrained, name_or_path, expected=VISION_MODELS)
    if config.model_type not in model_types:
        raise CheckpointError(
            f"model {name_or_path!r}: expected one of type {' or '.join(model_types)}, got {config.model_type}; give "
            "the folder or the hub name of such a model"
        )
    model = load_whole(model_class, name_or_path, expected=VISION_MODELS, dtype=torch.float32, use_safetensors=True)
    return model.to(device).requires_grad_(False)  # in evaluation mode, as from_pretrained leaves it


def load_whole(model_class: Any, name_or_path: str, *, expected: str = LANGUAGE_MODELS, **options: Any) -> Any:
    """A model that has all its weights; transformers would make up those that are missing."""
    options["output_loading_info"] = True
    model, info = load_part(model_class.from_pretrained, name_or_path, expected=expected, **options)
    missing = sorted(info["missing_keys"])
    lack = f"{len(missing)} weights are missing, e.g. {missing[0]}" if missing else None
    if fault := lack or bad_weights(model, files_folder(model_folder(name_or_path))):
        raise CheckpointError(not_loaded(name_or_path, fault, expected))
    return model
