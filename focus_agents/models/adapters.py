"""LoRA adapters on a language model, and the model inside them and other wrappers."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from focus_agents.models.family import ModelFamily, ModelParts
from focus_agents.models.registry import find_family


def add_adapters(model: Any, *, rank: int, alpha: float | None = None, seed: int = 0) -> Any:
    """Freeze a model and add trainable adapters, which at first change nothing.

    Args:
        model: A model of transformers; changed in place.
        rank: r.
        alpha: Scale of the adapters times r; None: 2 * r, the paper's ratio.
        seed: For the adapters' weights; the global random state is left as it was.

    Returns:
        The PEFT model around it.
    """
    targets = family_of(model).lora_targets
    lora = LoraConfig(r=rank, lora_alpha=alpha or 2 * rank, target_modules=targets, task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # Peft asks a model by a name that transformers has given up; nothing here can ask otherwise.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        torch.manual_seed(seed)
        return get_peft_model(model, lora)


def merge_adapters(model: Any) -> Any:
    """The model with its adapters added to its weights, if it has any; the adapters are used up."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def base_model(model: Any) -> Any:
    """The transformers model inside DDP and PEFT, as far as it is wrapped."""
    model = model.module if isinstance(model, torch.nn.parallel.DistributedDataParallel) else model
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def family_of(model: Any) -> ModelFamily:
    """Return the family of a model, wrapped or not.

    Raises:
        CheckpointError: If no family has its model type.
    """
    config = base_model(model).config
    return find_family(config.model_type).for_config(config)


def model_parts(model: Any) -> ModelParts:
    """Return the modules of a model, wrapped or not, adapters included."""
    return family_of(model).parts(base_model(model))
