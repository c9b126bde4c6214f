"""Sizes of models that are timed: random weights in the shape of known models, made where they compute."""

from __future__ import annotations

from typing import Any, Literal

from benchmarks.step.setup import build_adapted, large_config
from focus_agents.models.loading import TINY, load_processor
from focus_agents.models.tiny import build_config

ShapeName = Literal["tiny", "2b", "7b"]


def shape_config(name: ShapeName) -> Any:
    """Return a configuration: of Qwen2-VL-2B, of Qwen2-VL-7B, or of the model of the tests; ids of its tokenizer."""
    tokenizer = load_processor(TINY).tokenizer
    if name == "tiny":
        return build_config(tokenizer)
    config = large_config(tokenizer)
    if name == "2b":
        text = config.text_config
        text.vocab_size, text.hidden_size, text.intermediate_size = 151936, 1536, 8960
        text.num_attention_heads, text.num_key_value_heads = 12, 2
        config.vision_config.hidden_size = text.hidden_size
        config.tie_word_embeddings = text.tie_word_embeddings = True
    return config


def shape_model(name: ShapeName, device: str) -> Any:
    """Return a model of that shape in bfloat16 under adapters."""
    return build_adapted(shape_config(name), device)
