"""A family as another package would add it: LLaVA, which has nothing of Qwen's.

Each picture is a square of 4 x 4 tokens whatever its size, positions are plain numbers, and a CLIP tower hands over one
tensor of features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from focus_agents.models.family import ImageSize, ModelFamily, ModelParts, PreprocessedImages
from focus_agents.models.inputs import PromptBatch
from focus_env.boxes import CoordinateFrame
from focus_env.types import ImageArray

SIDE, PATCH = 32, 8
GRID = SIDE // PATCH
NUM_LAYERS = 2


class LlavaFamily(ModelFamily):
    """All pictures are squeezed into one square."""

    def preprocess(self, image_processor: Any, images: Sequence[ImageArray]) -> PreprocessedImages:
        squares = image_processor(images=images, input_data_format="channels_last", return_tensors="np")
        return PreprocessedImages(np.full((len(images), 2), GRID, dtype=np.int64), {"squares": squares["pixel_values"]})

    def limit_image_tokens(self, image_processor: Any, max_image_tokens: int) -> None:
        if max_image_tokens < GRID**2:
            raise ValueError(f"max_image_tokens: expected at least {GRID**2}, got {max_image_tokens}")

    def image_to_input_wh(self, image_processor: Any) -> Callable[[ImageSize], ImageSize]:
        return square

    def parts(self, model: Any) -> ModelParts:
        return ModelParts(model.model.vision_tower, model.model, model.model.language_model.layers, model.lm_head)

    def prompt_positions(self, model: Any, prompts: PromptBatch) -> tuple[torch.Tensor, torch.Tensor]:
        return (prompts.attention_mask.cumsum(1) - 1).clamp(min=0), prompts.attention_mask.sum(1)

    def text_positions(self, positions: torch.Tensor) -> torch.Tensor:
        return positions

    def image_inputs(self, model: Any, prompts: PromptBatch, num_answer_tokens: int = 0) -> dict[str, Any]:
        if prompts.image_features is None:
            return {"pixel_values": prompts.images["squares"]}
        return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=prompts.image_features)}}

    def image_features(self, model: Any, prompts: PromptBatch) -> tuple[torch.Tensor, ...]:
        return (torch.cat(model.model.get_image_features(prompts.images["squares"]).pooler_output),)


def square(image_wh: ImageSize) -> ImageSize:
    return SIDE, SIDE


LLAVA = LlavaFamily(
    name="llava",
    model_types=("llava",),
    frame=CoordinateFrame.NORM_1,
    image_token="<|image_pad|>",
    never_sampled=("<|image_pad|>",),
    lora_targets=r".*language_model.*\.(q|v)_proj",
    end_token="<|endoftext|>",
)


def build_image_processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"height": SIDE, "width": SIDE}, do_center_crop=False)


def build_model(tokenizer: Any) -> LlavaForConditionalGeneration:
    """A random model in eval mode for the tiny models' tokenizer."""
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=PATCH,
        ),
        text_config=LlamaConfig(
            vocab_size=512,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=NUM_LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.2,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlavaForConditionalGeneration(config).eval()
