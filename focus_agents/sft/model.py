"""The model that stage 1 trains."""

from __future__ import annotations

from typing import Any

from focus_agents.models.adapters import model_parts
from focus_agents.models.loading import load_trainable_model
from focus_agents.processes.compiler_cache import keep_compiled
from focus_agents.sft.settings import SFTConfig


def build_model(name: str, config: SFTConfig) -> Any:
    """Load a model and make it ready to train; its layers are compiled if that is asked for.

    Args:
        name: For `load_model`.
        config: Settings.
    """
    model = load_trainable_model(
        name,
        seed=config.seed,
        precision=config.precision,
        lora_rank=config.lora_rank,
        lora_alpha=config.lora_alpha,
        freeze_vision=config.freeze_vision,
        attention=config.attention,
        quantization=config.quantization,
        gradient_checkpointing=config.gradient_checkpointing,
    )
    if config.compile:
        keep_compiled()
        # Layer by layer, since the whole model breaks into parts that are compiled anew for each shape of a batch.
        for layer in model_parts(model).layers:
            layer.compile(dynamic=True)
    return model
