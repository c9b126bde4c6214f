"""What the package's own code holds in memory, counted on narrow models while it runs.

On a CPU small pictures and short prompts are attended to with their scores written out; here they take the way of long
ones, which a GPU takes for all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2VLForConditionalGeneration

from focus_agents.engine.forward import encode_images
from focus_agents.engine.generation import sample_completions
from focus_agents.engine.scoring import score_completions
from focus_agents.models import attention, vision
from focus_agents.models.adapters import add_adapters, family_of, model_parts
from focus_agents.models.attention import set_focus_attention
from focus_agents.models.inputs import EncodedPrompt
from focus_agents.models.lean_adapters import lean_adapters
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.settings import FinetuningSettings, Precision
from focus_agents.rollout.records import Sampling
from tests.focus_agents.models.families import make_model
from tests.live_tensors import LiveTensors

SIDE = 4
"""Tokens along a side of the picture."""
VALUES_PER_PATCH = 3 * 2 * 8 * 8


@contextlib.contextmanager
def long_ways() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "MOST_WRITTEN_OUT", 0)
        patch.setattr(vision, "MOST_PATCHES", 0)
        yield


def narrow_model(
    processor: VLMProcessor, family: str = "qwen2_vl", *, hidden: int, intermediate: int, heads: int = 4, kv: int = 2,
    layers: int = 3, **more: Any,
) -> Any:  # fmt: skip
    pairs = hidden // heads // 2
    side = pairs * 3 // 8
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 30.0, "mrope_section": [pairs - 2 * side, side, side]}
    if family == "qwen3_vl":
        more |= {"head_dim": hidden // heads}
        rope["mrope_interleaved"] = True
    return make_model(
        family, processor, hidden_size=hidden, intermediate_size=intermediate, num_attention_heads=heads,
        num_key_value_heads=kv, num_hidden_layers=layers, rope_parameters=rope, **more,
    )  # fmt: skip


def make_prompt(processor: VLMProcessor, num_tokens: int, *, side: int = SIDE) -> EncodedPrompt:
    """A picture of side x side tokens, and other tokens to make up the number."""
    rng = np.random.default_rng(0)
    visual = [processor.image_token_id] * side**2
    ids = np.array([5, 6, 7, *visual, *rng.integers(10, 200, num_tokens - 3 - len(visual))])
    pixels = rng.normal(size=(4 * side**2, VALUES_PER_PATCH)).astype(np.float32)
    return EncodedPrompt(ids, np.array([[side, side]]), {"pixel_values": pixels})


def learning_peak(
    processor: VLMProcessor, settings: FinetuningSettings, *, num_tokens: int, num_answer: int = 2, **sizes: Any
) -> int:
    """The most bytes while a group of one answer is learned from, beside weights; its picture comes as features."""
    has_adapters, is_narrow = settings.lora_rank is not None, settings.precision == "bf16"
    model = narrow_model(processor, **sizes).to(torch.bfloat16 if has_adapters and is_narrow else torch.float32)
    set_focus_attention(model)
    if settings.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    model_parts(model).vision_tower.requires_grad_(False)
    if settings.lora_rank is not None:
        model = add_adapters(model, rank=settings.lora_rank)
    model.train()
    prompt = make_prompt(processor, num_tokens - num_answer)
    token_ids, lengths = torch.full((1, 1, num_answer), 11), torch.tensor([[num_answer]])
    with long_ways(), torch.autocast("cpu", torch.bfloat16, enabled=is_narrow):
        features = encode_images(model, processor.collate([prompt]))
        batch = processor.collate(processor.replace_pixels([prompt], features))
    with long_ways(), LiveTensors([*model.parameters(), *model.buffers()]) as live:
        with torch.autocast("cpu", torch.bfloat16, enabled=is_narrow):
            logprobs, _ = score_completions(model, batch, token_ids, lengths)
        logprobs.sum().backward()
    return live.peak


def answering_peak(
    processor: VLMProcessor,
    precision: Precision,
    *,
    num_tokens: int,
    num_prompts: int = 1,
    rank: int | None = None,
    copies: bool = False,
    **sizes: Any,
) -> int:
    """The most bytes while prompts are answered, beside weights; their pictures come as features."""
    model = narrow_model(processor, **sizes).to(torch.bfloat16 if precision == "bf16" else torch.float32)
    set_focus_attention(model)
    model = model.requires_grad_(False) if rank is None else add_adapters(model, rank=rank)
    prompts = [make_prompt(processor, num_tokens)] * num_prompts
    with long_ways(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        features = encode_images(model, processor.collate(prompts))
        batch = processor.collate(processor.replace_pixels(prompts, features))
        with LiveTensors([*model.parameters(), *model.buffers()]) as live, lean_adapters(model, copies=copies):
            sample_completions(
                model, batch, num_completions=1, sampling=Sampling(0.0, 2), seeds=[0] * num_prompts, eos_token_id=-1,
                pad_token_id=0,
            )  # fmt: skip
    return live.peak


def vision_peak(
    processor: VLMProcessor,
    precision: Precision,
    *,
    side: int,
    width: int,
    ratio: int,
    depth: int,
    trains: bool = False,
) -> int:
    """The most bytes while a picture of side x side tokens is encoded, or what is kept of it for a backward pass."""
    config = narrow_model(processor, hidden=64, intermediate=96).config
    config.vision_config.embed_dim, config.vision_config.mlp_ratio, config.vision_config.depth = width, ratio, depth
    model: Any = Qwen2VLForConditionalGeneration(config)
    model = model.to(torch.float32 if trains or precision == "fp32" else torch.bfloat16).requires_grad_(trains)
    batch = processor.collate([make_prompt(processor, side**2 + 3, side=side)])
    narrow = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    live = LiveTensors([*model.parameters(), *model.buffers()])
    with long_ways(), torch.set_grad_enabled(trains), narrow, live:
        features = family_of(model).image_features(model, batch)
        kept = live.measure()
        del features
    return kept if trains else live.peak
