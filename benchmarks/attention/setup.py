"""A model and one example, and a step of each variant."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Qwen2VLForConditionalGeneration

from benchmarks.attention.eager import take_eager_step
from benchmarks.measuring import NUM_LAYERS, NUM_PICTURES, small_config
from focus_agents.models.attention import select_layers, set_focus_attention
from focus_agents.models.inputs import PromptBatch
from focus_agents.models.loading import TINY, load_processor
from focus_agents.models.tiny import MERGE_SIZE
from focus_agents.models.views import View, box_tokens
from focus_agents.sft.data import SFTBatch
from focus_agents.sft.settings import SFTConfig
from focus_agents.sft.step import accumulate_gradients
from focus_env.types import Box

MAPS_KEPT = "eager that keeps its maps"
"""A fourth variant, of which memory alone is measured; the rest is eager's."""

QUESTION_TOKENS, ANSWER_TOKENS = 30, 24
LEAST_TEXT_TOKENS = 178
"""Of a prompt and its answer, what is not a cell of a picture: markers, four boxes, question, answer."""

SEED = 0


@dataclass(frozen=True)
class Setup:
    """A model, and what it is trained on.

    Attributes:
        model: In training mode.
        batch: One example.
        config: Of a step with attention loss.
        layers: All of the model's.
    """

    model: Qwen2VLForConditionalGeneration
    batch: SFTBatch
    config: SFTConfig
    layers: frozenset[int]

    @classmethod
    def build(cls, num_tokens: int, *, is_checkpointed: bool, dtype: str = "float32", device: str = "cpu") -> Setup:
        """Random weights, token ids and pixels, functions of a seed."""
        model_config = small_config(load_processor(TINY).tokenizer)
        torch.manual_seed(SEED)
        model = Qwen2VLForConditionalGeneration(model_config).train()
        batch = build_batch(num_tokens, model_config)
        config = SFTConfig(
            attention_layers="all",
            precision="bf16" if dtype == "bfloat16" else "fp32",
            gradient_checkpointing=is_checkpointed,
        )
        if is_checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": False})
        return cls(model.to(device), batch.to(device), config, select_layers(config.attention_layers, NUM_LAYERS))

    def prepare(self, variant: str) -> Callable[[], dict[str, float]]:
        """Return a step of a variant, which leaves its gradients and returns its losses; older gradients are gone."""
        self.model.zero_grad(set_to_none=True)
        if variant in ("eager", MAPS_KEPT):
            self.model.set_attn_implementation({"text_config": "eager"})
            return lambda: take_eager_step(self.model, self.batch, self.config, keeps_maps=variant == MAPS_KEPT)
        if variant == "plain":
            self.model.set_attn_implementation({"text_config": "sdpa"})
            config = dataclasses.replace(self.config, beta=0.0)
        else:
            set_focus_attention(self.model)
            config = self.config
        return lambda: accumulate_gradients(self.model, [self.batch], config, self.layers)


def picture_side(num_tokens: int) -> int:
    """Return tokens along a side of each picture of a prompt with answer of `num_tokens`."""
    return math.isqrt((num_tokens - LEAST_TEXT_TOKENS) // NUM_PICTURES)


def build_batch(num_tokens: int, model_config: Any) -> SFTBatch:
    """Return one example: five square pictures, as large as fit, between text; the support boxes cover the middles."""
    side = picture_side(num_tokens)
    num_cells = side**2
    num_text = num_tokens - NUM_PICTURES * (num_cells + 2) - QUESTION_TOKENS - ANSWER_TOKENS
    generator = torch.Generator().manual_seed(SEED)
    # Ids below 256 are plain bytes.
    text = torch.randint(256, (num_tokens,), generator=generator).tolist()
    ids: list[int] = []
    starts = []
    for picture in range(NUM_PICTURES):
        before = num_text // NUM_PICTURES + (num_text % NUM_PICTURES if picture == 0 else 0)
        ids += [*text[len(ids) : len(ids) + before], model_config.vision_start_token_id]
        starts.append(len(ids))
        ids += [*[model_config.image_token_id] * num_cells, model_config.vision_end_token_id]
    ids += text[len(ids) : len(ids) + QUESTION_TOKENS]

    prompt = torch.tensor([ids])
    query, support = torch.zeros_like(prompt, dtype=torch.bool), torch.zeros_like(prompt, dtype=torch.bool)
    query[0, starts[-1] : starts[-1] + num_cells] = True
    cells = box_tokens(Box(side / 4, side / 4, 3 * side / 4, 3 * side / 4), (side, side), [View(side, side)])
    for start in starts[:-1]:
        support[0, start + torch.from_numpy(cells)] = True
    vision = model_config.vision_config
    patch_values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    patches = torch.randn(NUM_PICTURES * num_cells * MERGE_SIZE**2, patch_values, generator=generator)
    prompts = PromptBatch(
        prompt,
        torch.ones_like(prompt),
        prompt == model_config.image_token_id,
        torch.tensor([[side, side]] * NUM_PICTURES),
        num_images=(NUM_PICTURES,),
        images={"pixel_values": patches},
        image_rows={"pixel_values": (len(patches),)},
    )
    answer = torch.tensor([text[-ANSWER_TOKENS:]])
    return SFTBatch(prompts, answer, torch.ones_like(answer, dtype=torch.bool), query, support)
