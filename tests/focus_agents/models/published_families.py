"""Tiny random models of families beside Qwen's older ones, with the tokens and chat templates of the published ones."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from transformers import (
    Gemma2Config,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GemmaConfig,
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    Qwen2Config,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from focus_agents.models.gemma import PALIGEMMA
from focus_agents.models.loading import load_processor

TILE = 32
"""Side of a tile, or of the square that a picture becomes, in pixels."""
NUM_LAYERS = 4
TEXT = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.2,
}
MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2}
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


class Published(NamedTuple):
    """A tiny model, and what belongs to it."""

    model: Any
    image_processor: Any
    tokenizer: Any


CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}{% if part.type == 'image' %}IMAGE{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOL_CHAT = (
    "<|im_start|>{% for message in messages %}{{ message.role | capitalize }}"
    "{% if message.content[0].type == 'image' %}:{% else %}: {% endif %}"
    "{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% else %}<image>{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
GLM_CHAT = (
    "[gMASK]<sop>\n{% for message in messages %}<|{{ message.role }}|>\n"
    "{% for part in message.content %}{% if part.type == 'image' %}<|begin_of_image|><|image|><|end_of_image|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
GEMMA_CHAT = (
    "{{ '<bos>' }}{% for message in messages %}<start_of_turn>{{ 'model' if message.role == 'assistant' else "
    "message.role }}\n{% for part in message.content %}{% if part.type == 'image' %}{{ '<start_of_image>' }}"
    "{% else %}{{ part.text | trim }}{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def _tokenizer(tokenizer: Any, chat_template: str, *tokens: str) -> Any:
    own = copy.deepcopy(tokenizer)
    own.add_tokens(list(tokens), special_tokens=True)
    own.chat_template = chat_template
    return own


def _build(model_class: Any, config: Any) -> Any:
    """A random model in eval mode."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = model_class(config)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.3)
    return model.eval()


def build_qwen3_5(tokenizer: Any, *, is_mixture: bool = False) -> Published:
    token_id = tokenizer.convert_tokens_to_ids
    rope = {
        "rope_type": "default",
        "rope_theta": 30.0,
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
        "partial_rotary_factor": 0.5,
    }
    text = TEXT | {
        "head_dim": 16,
        "rope_parameters": rope,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
        # Recurrent layers and routers of wider weights make rounding large.
        "initializer_range": 0.1,
    }
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_heads": 4,
        "patch_size": 8,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 64,
        "num_position_embeddings": 64,
        "initializer_range": 0.2,
    }
    ids = {
        "image_token_id": token_id("<|image_pad|>"),
        "video_token_id": token_id("<|video_pad|>"),
        "vision_start_token_id": token_id("<|vision_start|>"),
        "vision_end_token_id": token_id("<|vision_end|>"),
    }
    if is_mixture:
        text |= {"moe_intermediate_size": 48, "shared_expert_intermediate_size": 48} | MIXTURE
        config = Qwen3_5MoeConfig(text_config=text, vision_config=vision, **ids)
        model = _build(Qwen3_5MoeForConditionalGeneration, config)
    else:
        model = _build(Qwen3_5ForConditionalGeneration, Qwen3_5Config(text_config=text, vision_config=vision, **ids))
    return Published(model, load_processor("tiny").image_processor, tokenizer)


def build_internvl(tokenizer: Any) -> Published:
    own = _tokenizer(
        tokenizer, CHATML.replace("IMAGE", "<IMG_CONTEXT>\n"), "<img>", "</img>", "<IMG_CONTEXT>", "<video>"
    )
    vision = InternVLVisionConfig(**VISION, image_size=[TILE, TILE], patch_size=[4, 4], initializer_range=0.2)
    config = InternVLConfig(
        vision_config=vision,
        text_config=Qwen2Config(**TEXT, pad_token_id=own.pad_token_id),
        image_token_id=own.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=16,
        tie_word_embeddings=False,
    )
    # As published, `crop_to_patches` is off: the model's processor turns it on.
    processor = GotOcr2ImageProcessorPil(size={"height": TILE, "width": TILE}, max_patches=6)
    return Published(_build(InternVLForConditionalGeneration, config), processor, own)


def build_llava_onevision(tokenizer: Any) -> Published:
    own = _tokenizer(tokenizer, CHATML.replace("IMAGE", "<image>\n"), "<image>", "<video>")
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**VISION, image_size=TILE, patch_size=8, vision_use_head=False),
        text_config=Qwen2Config(**TEXT, pad_token_id=own.pad_token_id),
        image_token_id=own.convert_tokens_to_ids("<image>"),
        video_token_id=own.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[TILE, TILE], [TILE, 2 * TILE], [2 * TILE, TILE], [2 * TILE, 2 * TILE]],
    )
    processor = LlavaOnevisionImageProcessorPil(
        size={"height": TILE, "width": TILE}, image_grid_pinpoints=config.image_grid_pinpoints
    )
    return Published(_build(LlavaOnevisionForConditionalGeneration, config), processor, own)


def build_glm4v(tokenizer: Any) -> Published:
    tokens = ("<|begin_of_image|>", "<|end_of_image|>", "<|image|>", "<|video|>", "<|user|>", "<|assistant|>")
    own = _tokenizer(tokenizer, GLM_CHAT, *tokens, "[gMASK]", "<sop>", "<|begin_of_video|>", "<|end_of_video|>")
    token_id = own.convert_tokens_to_ids
    text = TEXT | {
        "pad_token_id": own.pad_token_id,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 30.0,
            "mrope_section": [2, 3, 3],
            "partial_rotary_factor": 1.0,
        },
    }
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_heads": 4,
        "patch_size": 8,
        "image_size": 64,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 64,
        "initializer_range": 0.2,
    }
    config = Glm4vConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token_id("<|image|>"),
        video_token_id=token_id("<|video|>"),
        image_start_token_id=token_id("<|begin_of_image|>"),
        image_end_token_id=token_id("<|end_of_image|>"),
        video_start_token_id=token_id("<|begin_of_video|>"),
        video_end_token_id=token_id("<|end_of_video|>"),
    )
    processor = Glm4vImageProcessorPil(
        size={"shortest_edge": 2 * 1024, "longest_edge": 2 * 16384}, patch_size=8, merge_size=2, temporal_patch_size=2
    )
    return Published(_build(Glm4vForConditionalGeneration, config), processor, own)


def build_smolvlm(tokenizer: Any) -> Published:
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    tokens = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    own = _tokenizer(tokenizer, SMOL_CHAT, *tokens, *tiles)
    config = SmolVLMConfig(
        vision_config=VISION | {"image_size": TILE, "patch_size": 8},
        text_config=LlamaConfig(**TEXT, pad_token_id=own.pad_token_id).to_dict() | {"model_type": "llama"},
        scale_factor=2,
        image_token_id=own.convert_tokens_to_ids("<image>"),
        pad_token_id=own.pad_token_id,
    )
    processor = SmolVLMImageProcessorPil(size={"longest_edge": 4 * TILE}, max_image_size={"longest_edge": TILE})
    return Published(_build(SmolVLMForConditionalGeneration, config), processor, own)


def build_gemma3(tokenizer: Any) -> Published:
    tokens = ("<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>")
    own = _tokenizer(tokenizer, GEMMA_CHAT, *tokens)
    text = Gemma3TextConfig(
        **TEXT,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=24,  # less than a prompt
        layer_types=["sliding_attention", "full_attention"] * 2,
        pad_token_id=own.pad_token_id,
    )
    config = Gemma3Config(
        text_config=text,
        vision_config=SiglipVisionConfig(**VISION, image_size=TILE, patch_size=4, vision_use_head=False),
        mm_tokens_per_image=16,
        image_token_index=own.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_index=own.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=own.convert_tokens_to_ids("<end_of_image>"),
    )
    processor = Gemma3ImageProcessorPil(size={"height": TILE, "width": TILE})
    model = _build(Gemma3ForConditionalGeneration, config)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model.model.multi_modal_projector.mm_input_projection_weight.normal_(0, 0.2)  # new ones are zero
    return Published(model, processor, own)


def build_paligemma(tokenizer: Any, *, is_second: bool = False) -> Published:
    own = _tokenizer(tokenizer, PALIGEMMA.chat_template or "", "<image>", "<bos>")
    sizes = TEXT | {"head_dim": 16, "pad_token_id": own.pad_token_id}
    caps = {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 6.0}  # low, so that they matter
    second = {"query_pre_attn_scalar": 16, "sliding_window": 24} | caps
    config = PaliGemmaConfig(
        text_config=Gemma2Config(**sizes, **second) if is_second else GemmaConfig(**sizes),
        vision_config=SiglipVisionConfig(**VISION, image_size=TILE, patch_size=8, vision_use_head=False),
        image_token_index=own.convert_tokens_to_ids("<image>"),
        projection_dim=TEXT["hidden_size"],
    )
    processor = SiglipImageProcessorPil(size={"height": TILE, "width": TILE})
    return Published(_build(PaliGemmaForConditionalGeneration, config), processor, own)


PUBLISHED: dict[str, Callable[[Any], Published]] = {
    "qwen3_5": build_qwen3_5,
    "qwen3_5_moe": functools.partial(build_qwen3_5, is_mixture=True),
    "internvl": build_internvl,
    "llava_onevision": build_llava_onevision,
    "glm4v": build_glm4v,
    "smolvlm": build_smolvlm,
    "gemma3": build_gemma3,
    "paligemma": build_paligemma,
    "paligemma2": functools.partial(build_paligemma, is_second=True),
}
"""By model type, but for the second PaliGemma, whose type is the first's."""
