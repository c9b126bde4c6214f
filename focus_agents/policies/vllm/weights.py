"""Weights in the files that vLLM loads: the model's own, adapters, and new weights of the model itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModelForImageTextToText
from transformers.core_model_loading import revert_weight_conversion

from focus_agents.errors import CheckpointError
from focus_agents.models.adapters import ADAPTER, merge_adapters
from focus_agents.models.loading import NEW_MODELS, load_config, load_family, load_model, load_processor
from focus_agents.models.loading.adapter_settings import read_settings
from focus_agents.models.loading.forms import check_mergeable
from focus_agents.models.loading.saved_adapters import adapter_weights
from focus_agents.models.loading.sources import ADAPTER_CONFIG, ADAPTER_WEIGHTS, find_source
from focus_agents.models.processing import VLMProcessor

WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True)
class EngineFiles:
    """The files of a model that vLLM loads as it starts.

    Attributes:
        model: A folder with whole weights in transformers' format, or a name on the hub.
        revision: On the hub; None for a folder.
        adapter: Folder of the adapter on them, in PEFT's format; None: there is none.
        lora: Its settings.
    """

    model: str
    revision: str | None = None
    adapter: Path | None = None
    lora: LoraConfig | None = None


def engine_files(name_or_path: str, directory: Path, *, seed: int = 0, is_whole: bool = False) -> EngineFiles:
    """Return what vLLM loads of a model.

    Args:
        name_or_path: As for `load_model`.
        directory: Where a model is written that lies in no folder.
        seed: Of new weights.
        is_whole: Whether an adapter is to be merged into the weights.

    Raises:
        CheckpointError: If there is no such model, or vLLM cannot take its adapter.
    """
    source = find_source(name_or_path)
    if source.place in NEW_MODELS or (source.adapter is not None and is_whole):
        check_mergeable(source)
        merge_adapters(load_model(name_or_path, seed=seed)).save_pretrained(directory)
        load_processor(name_or_path).save_pretrained(directory)
        return EngineFiles(str(directory))
    if source.adapter is None:
        return EngineFiles(source.files.place, source.files.revision)
    lora = read_settings(source.adapter)
    has_biases = lora.bias != "none" or lora.lora_bias
    if lora.rank_pattern or lora.alpha_pattern or lora.use_dora or lora.modules_to_save or has_biases:
        raise CheckpointError(
            f"model {name_or_path!r}: its adapter has ranks by layer, DoRA, biases or whole modules, which vLLM does "
            "not load; make one model of it by `focus export`, or set `engine` to transformers"
        )
    path = source.adapter.files.path(source.adapter.name_of(ADAPTER_CONFIG))
    adapter_weights(source.adapter)  # on this machine, beside it
    return EngineFiles(source.files.place, source.files.revision, path.parent, lora)


def new_adapter(name_or_path: str, *, rank: int, alpha: float | None) -> LoraConfig:
    """Return the settings of new adapters, as `add_adapters` makes them.

    Args:
        name_or_path: Of the model, as for `load_model`.
        rank: As for `add_adapters`.
        alpha: Likewise.
    """
    targets = load_family(name_or_path).lora_targets
    return LoraConfig(r=rank, lora_alpha=alpha or 2 * rank, target_modules=targets, task_type="CAUSAL_LM")


def processor_options(files: EngineFiles, processor: VLMProcessor) -> dict[str, Any]:
    """Return the settings in which an image processor differs from the one that vLLM loads with the model.

    They are vLLM's `mm_processor_kwargs`, by which its own becomes the same.

    Args:
        files: The model's.
        processor: Encodes the prompts, perhaps with fewer tokens a picture.
    """
    own = AutoImageProcessor.from_pretrained(files.model, revision=files.revision).to_dict()
    changed = processor.image_processor.to_dict()
    return {key: _plain(value) for key, value in changed.items() if value != own.get(key)}


def write_adapter(directory: Path, state: Mapping[str, torch.Tensor], lora: LoraConfig) -> None:
    """Write an adapter in PEFT's format.

    Args:
        directory: Is made.
        state: The adapter's weights, named as in PEFT's model.
        lora: Its settings.
    """
    directory.mkdir(parents=True)
    lora.save_pretrained(str(directory))
    named = {name.replace(f".{ADAPTER}.", "."): tensor.contiguous() for name, tensor in state.items()}
    save_file(named, directory / ADAPTER_WEIGHTS, metadata={"format": "pt"})


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
    """Return a setting as plain data, which travels to vLLM's processes."""
    return dict(value) if isinstance(value, Mapping) else value
