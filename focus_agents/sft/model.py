"""The model that stage 1 trains."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from focus_agents.models.adapters import model_parts
from focus_agents.models.loading import load_trainable_model
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
        # Layer by layer, since the whole model breaks into parts that are compiled anew for each shape of a batch.
        for layer in model_parts(model).layers:
            layer.compile(dynamic=True)
    return model


@contextlib.contextmanager
def memory_advice() -> Iterator[None]:
    """Name the settings that help where memory runs out."""
    try:
        yield
    except RuntimeError as error:
        is_cpu_allocator = "not enough memory" in str(error) or "can't allocate memory" in str(error)
        if not (isinstance(error, torch.OutOfMemoryError) or is_cpu_allocator):
            raise
        raise MemoryError(
            f"out of memory: {error}. Lower `micro_batch_size` or `max_image_tokens`, or set `gradient_checkpointing`, "
            "`lora_rank` 8 or `precision` bf16"
        ) from error
