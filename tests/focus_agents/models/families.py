"""Small random models of three families, a ragged batch for them, and what their gradients are compared by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from focus_agents.models.inputs import PromptBatch
from focus_agents.models.processing import VLMProcessor
from focus_agents.sft.data import SFTBatch, SFTExamples
from focus_agents.sft.settings import AttentionTarget
from focus_env.prompts import get_template
from focus_env.types import Box
from tests.fakes import make_episode

FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
NUM_LAYERS = 3
MERGE_SIZE = 2
"""Patches of the tiny models' pictures along a side of what becomes a token."""
ALL_LAYERS = frozenset(range(NUM_LAYERS))
EXACT_EAGER = "eager_with_softmax_in_the_dtype_of_its_input"
Gradients = Mapping[str, torch.Tensor | None]


def exact_eager_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention with its map. Transformers' eager one takes the softmax in float32 whatever the model's precision."""
    groups = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(groups, 1).transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1)
    return (weights @ value.repeat_interleave(groups, 1)).transpose(1, 2).contiguous(), weights


ALL_ATTENTION_FUNCTIONS.register(EXACT_EAGER, exact_eager_forward)
ALL_MASK_ATTENTION_FUNCTIONS.register(EXACT_EAGER, ALL_MASK_ATTENTION_FUNCTIONS["eager"])


def make_model(family: str, processor: VLMProcessor, **text: Any) -> Any:
    """A random model in eval mode whose heads look at few tokens each; two query heads share a key head."""
    token_id = processor.tokenizer.convert_tokens_to_ids
    ids = {
        "image_token_id": token_id("<|image_pad|>"),
        "video_token_id": token_id("<|video_pad|>"),
        "vision_start_token_id": token_id("<|vision_start|>"),
        "vision_end_token_id": token_id("<|vision_end|>"),
    }
    rope = {"rope_type": "default", "rope_theta": 30.0, "mrope_section": [2, 3, 3]}
    text = {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_parameters": rope,
        "pad_token_id": processor.pad_token_id,
        "initializer_range": 0.2,
    } | text
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "num_heads": 4,
        "patch_size": 8,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "in_channels": 3,
        "initializer_range": 0.2,
    }
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        if family == "qwen2_vl":
            text |= {"bos_token_id": processor.pad_token_id, "eos_token_id": processor.eos_token_id}
            vision |= {"embed_dim": 64, "mlp_ratio": 2, "hidden_size": text["hidden_size"]}
            model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **ids))
        elif family == "qwen2_5_vl":
            text |= {"bos_token_id": processor.pad_token_id, "eos_token_id": processor.eos_token_id}
            # Windows of 2 x 2 tokens in the first block; a picture has several.
            vision |= {"intermediate_size": 96, "window_size": 32, "fullatt_block_indexes": [1]}
            vision["out_hidden_size"] = text["hidden_size"]
            model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids))
        else:
            is_mixture = family == "qwen3_vl_moe"
            text |= {"head_dim": 16, "rope_parameters": rope | {"mrope_interleaved": True}}
            vision |= {
                "intermediate_size": 96,
                "out_hidden_size": text["hidden_size"],
                "num_position_embeddings": 64,
                "deepstack_visual_indexes": [0, 1],
            }
            if is_mixture:
                text |= {"moe_intermediate_size": 48, "num_experts": 4, "num_experts_per_tok": 2}
            kind, config = (
                (Qwen3VLMoeForConditionalGeneration, Qwen3VLMoeConfig)
                if is_mixture
                else (Qwen3VLForConditionalGeneration, Qwen3VLConfig)
            )
            model = kind(config(text_config=text, vision_config=vision, **ids))
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.3)
            elif name.endswith(("q_norm.weight", "k_norm.weight")):
                parameter.fill_(1.6)
    return model.eval()


def make_batch(
    processor: VLMProcessor, which: Sequence[int] = (0, 1, 2), *, target: AttentionTarget = "both"
) -> SFTBatch:
    """Examples with one, three and two supports, whose prompts, query pictures and answers all differ in length."""
    episodes = [
        make_episode(0, shots=1),
        make_episode(1, shots=3, query_wh=(48, 96), target_box=Box(2, 3, 44, 90)),
        make_episode(2, shots=2, query_wh=(33, 70), target_box=None),
    ]
    examples = SFTExamples(episodes, get_template("compact"), processor, target=target)
    return examples.collate([examples[index] for index in which])


def patch_grid(grids: Any) -> torch.Tensor:
    """[K, 3] int64, transformers' `image_grid_thw`, of pictures with [K, 2] tokens."""
    return torch.tensor([[1, MERGE_SIZE * int(rows), MERGE_SIZE * int(columns)] for rows, columns in grids])


def picture_inputs(prompts: PromptBatch, num_answer: int = 0) -> dict[str, Any]:
    """The pictures of a batch as keywords of a model, with answers of some tokens behind the prompts."""
    return {
        "mm_token_type_ids": torch.nn.functional.pad(prompts.image_mask.int(), (0, num_answer)),
        "pixel_values": prompts.images["pixel_values"],
        "image_grid_thw": patch_grid(prompts.grids),
    }


def model_inputs(batch: SFTBatch) -> dict[str, Any]:
    """Prompts and answers in one sequence each, as keywords of a model."""
    prompts = batch.prompts
    num_answer = batch.answer_ids.shape[1]
    return {
        "input_ids": torch.cat([prompts.input_ids, batch.answer_ids], 1),
        "attention_mask": torch.cat([prompts.attention_mask, batch.answer_mask.long()], 1),
        **picture_inputs(prompts, num_answer),
        "use_cache": False,
    }


def assert_same_gradients(ours: Gradients, expected: Gradients, tolerance: float) -> None:
    """Parameter by parameter: the largest difference over the largest entry that is expected."""
    assert ours.keys() == expected.keys()
    assert any(gradient is not None for gradient in expected.values())
    for name, right in expected.items():
        given = ours[name]
        if right is None or not right.any():
            assert given is None or not given.any(), name
        else:
            assert given is not None, name
            assert ((given - right).abs().max() / right.abs().max()).item() <= tolerance, name


def enable_checkpointing(model: Any) -> None:
    """As a training run does, under the method's name of today."""
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
