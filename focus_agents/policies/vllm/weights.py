"""Weights in the files that vLLM loads: the model's folder, adapters, and new weights of the model itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText
from transformers.core_model_loading import revert_weight_conversion

from focus_agents.models.loading import NEW_MODELS, load_config, load_model, load_processor, model_folder
from focus_agents.models.processing import VLMProcessor

ADAPTER_FILE, WEIGHTS_FILE = "adapter_model.safetensors", "model.safetensors"


def engine_folder(name_or_path: str, directory: Path, *, seed: int = 0) -> str:
    """Return where vLLM finds a model.

    Args:
        name_or_path: As for `load_model`.
        directory: Where a model with new weights is written.
        seed: Of new weights.

    Returns:
        The model's own folder or its name on the hub, or `directory`.

    Raises:
        CheckpointError: If there is no such model.
    """
    if name_or_path not in NEW_MODELS:
        return model_folder(name_or_path)
    load_model(name_or_path, seed=seed).save_pretrained(directory)
    load_processor(name_or_path).save_pretrained(directory)
    return str(directory)


def processor_options(name_or_path: str, processor: VLMProcessor) -> dict[str, Any]:
    """Return the settings in which an image processor differs from the one in the model's folder.

    They are vLLM's `mm_processor_kwargs`, by which its processor becomes the same.

    Args:
        name_or_path: As for `load_model`.
        processor: The model's, perhaps with fewer tokens a picture.
    """
    own = load_processor(name_or_path).image_processor.to_dict()
    changed = processor.image_processor.to_dict()
    return {key: _plain(value) for key, value in changed.items() if value != own.get(key)}


def write_adapter(
    directory: Path, state: Mapping[str, torch.Tensor], *, rank: int, alpha: float | None, targets: str
) -> None:
    """Write adapters in PEFT's format.

    Args:
        directory: Is made.
        state: The adapters' weights, named as in PEFT's model.
        rank: As for `add_adapters`.
        alpha: Likewise.
        targets: The modules that have adapters, as a regular expression.
    """
    directory.mkdir(parents=True)
    config = LoraConfig(r=rank, lora_alpha=alpha or 2 * rank, target_modules=targets, task_type="CAUSAL_LM")
    config.save_pretrained(str(directory))
    named = {name.replace(".default.", "."): tensor.contiguous() for name, tensor in state.items()}
    save_file(named, directory / ADAPTER_FILE, metadata={"format": "pt"})


def write_weights(directory: Path, state: Mapping[str, torch.Tensor], name_or_path: str) -> None:
    """Write weights under the names that the model's own files have, which are not those of its modules.

    Args:
        directory: Is made.
        state: Some of the model's weights, all of a layer or none, named as its parameters.
        name_or_path: Of the model, as for `load_model`.
    """
    directory.mkdir(parents=True)
    with torch.device("meta"):  # no weights: the class alone knows the names
        model = AutoModelForImageTextToText.from_config(load_config(name_or_path))
    named = revert_weight_conversion(model, dict(state))
    save_file({name: tensor.contiguous() for name, tensor in named.items()}, directory / WEIGHTS_FILE, {"format": "pt"})


def _plain(value: Any) -> Any:
    """A setting as plain data, which travels to vLLM's processes."""
    return dict(value) if isinstance(value, Mapping) else value
