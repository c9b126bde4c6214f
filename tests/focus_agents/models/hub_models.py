"""Models of the hub by their sizes, from their configurations written down here; nothing is downloaded."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from transformers import Qwen2VLConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from focus_agents.models.budget import PromptSize
from focus_agents.models.loading import load_processor
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.qwen import QWEN2_VL
from focus_agents.models.shape import ModelShape, shape_of
from focus_env.prompts import get_template


def qwen2_vl_config(size: str, **text: Any) -> Qwen2VLConfig:
    """The configuration of Qwen2-VL-2B or 7B, with ids of the tiny tokenizer."""
    tokenizer = load_processor("tiny").tokenizer
    token_id = tokenizer.convert_tokens_to_ids
    widths = {
        "2B": {"hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2},
        "7B": {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4},
    }[size]
    is_tied = size == "2B"
    return Qwen2VLConfig(
        text_config={
            "vocab_size": 151936 if is_tied else 152064,
            "num_hidden_layers": 28,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            "bos_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": is_tied,
            **widths,
            **text,
        },
        vision_config={
            "depth": 32,
            "embed_dim": 1280,
            "hidden_size": widths["hidden_size"],
            "num_heads": 16,
            "mlp_ratio": 4,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "in_channels": 3,
        },
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=is_tied,
    )


@functools.cache
def qwen2_vl_7b() -> ModelShape:
    return shape_of(qwen2_vl_config("7B"))


def hub_image_processor() -> Qwen2VLImageProcessorPil:
    """Qwen2-VL's, with the limits of its folder on the hub."""
    return Qwen2VLImageProcessorPil(patch_size=14, merge_size=2, size={"shortest_edge": 3136, "longest_edge": 12845056})


@functools.cache
def hub_prompt(image_wh: tuple[int, int], shots: int, max_image_tokens: int | None) -> PromptSize:
    """A prompt of Qwen2-VL in full sentences, its words as the tiny tokenizer cuts them."""
    image_processor = hub_image_processor()
    if max_image_tokens is not None:
        QWEN2_VL.limit_image_tokens(image_processor, max_image_tokens)
    picture = np.zeros((image_wh[1], image_wh[0], 3), dtype=np.uint8)
    boxes = np.array([[100.0, 80.0, 640.0, 500.0]] * shots)
    question = {"support_images": (picture,) * shots, "support_boxes": boxes, "query_image": picture}
    processor = VLMProcessor(load_processor("tiny").tokenizer, image_processor, QWEN2_VL)
    prompt = processor.encode(get_template("default").render(question))  # type: ignore[arg-type]
    return PromptSize.of(prompt, qwen2_vl_7b(), image_token_id=processor.image_token_id)
