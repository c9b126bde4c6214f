"""Vision models that others trained, by the folder or the hub name of their weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoConfig

from focus_agents.errors import CheckpointError
from focus_agents.models.loading import LOADING_ERRORS, model_folder

T = TypeVar("T")


def load_vision_model(
    model_class: Any, name_or_path: str, *, model_types: Sequence[str], device: str | torch.device = "cpu"
) -> Any:
    """Load a model to compute with, not to train: in float32 and evaluation mode, without gradients.

    Args:
        model_class: Class of transformers, with `from_pretrained`.
        name_or_path: A folder written by `save_pretrained`, or a name on the hub. Only safetensors are read, and code
            from the hub is never run. With HF_HUB_OFFLINE=1 the hub is not asked.
        model_types: What `model_type` of its configuration may be.
        device: Where it computes.

    Raises:
        CheckpointError: If there is no such model, it is of another type, or it lacks weights.
    """
    config = load_part(AutoConfig.from_pretrained, name_or_path)
    if config.model_type not in model_types:
        raise CheckpointError(
            f"model {name_or_path!r}: expected one of type {' or '.join(model_types)}, got {config.model_type}; give "
            "the folder or the hub name of such a model"
        )
    model, info = load_part(
        model_class.from_pretrained, name_or_path, dtype=torch.float32, use_safetensors=True, output_loading_info=True
    )
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(_not_loaded(name_or_path, f"{len(missing)} weights are missing, e.g. {missing[0]}"))
    return model.to(device).requires_grad_(False)  # in evaluation mode, as from_pretrained leaves it


def load_part(load: Callable[..., T], name_or_path: str, **options: Any) -> T:
    """Call a loader of transformers with a folder or a hub name; what looks like a folder is not asked of the hub.

    Raises:
        CheckpointError: If there is nothing to load, or it cannot be read.
    """
    place = model_folder(name_or_path)
    looks_local = name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") != 1
    if looks_local and not Path(place).is_dir():
        raise CheckpointError(_not_loaded(name_or_path, "there is no such folder"))
    try:
        return load(place, **options)
    except LOADING_ERRORS as error:
        raise CheckpointError(_not_loaded(name_or_path, error)) from error


def _not_loaded(name_or_path: str, error: Exception | str) -> str:
    return (
        f"model {name_or_path!r} could not be loaded; expected a folder with its weights and the settings of its image "
        f"processor, or a hub name (with HF_HUB_OFFLINE=1: one that was downloaded before): {error}"
    )
