"""One forward pass over prompts: positions, image inputs, the prefix that completions share, log-probabilities.

Axis letters: N prompts, P prompt tokens, V vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache

from focus_agents.models.adapters import base_model
from focus_agents.models.processing import PromptBatch
from focus_agents.models.shared_prefix import Prefix


def prompt_positions(model: Any, prompts: PromptBatch) -> torch.Tensor:
    """[3, N, P] M-RoPE positions of the prompts."""
    positions: torch.Tensor = base_model(model).model.get_rope_index(
        prompts.input_ids,
        mm_token_type_ids=prompts.mm_token_type_ids,
        image_grid_thw=prompts.image_grid_thw,
        attention_mask=prompts.attention_mask,
    )[0]
    return positions


def image_inputs(prompts: PromptBatch) -> dict[str, Any]:
    """The pictures as a model takes them: pixels, or what a frozen vision tower has made of them before."""
    if prompts.image_features is None:
        return {"pixel_values": prompts.pixel_values, "image_grid_thw": prompts.image_grid_thw}
    embeddings, *deepstack = prompts.image_features
    features = SimpleNamespace(pooler_output=[embeddings], deepstack_features=[[layer] for layer in deepstack])
    return {"mm_encoder_outputs": {"image": features}, "image_grid_thw": prompts.image_grid_thw}


@torch.no_grad()
def encode_images(model: Any, prompts: PromptBatch) -> tuple[torch.Tensor, ...]:
    """What the vision tower makes of the prompts' pictures: [image tokens, H], and the same for each deepstack layer.

    Given as `image_features` of the prompts, it takes the place of their pixels, which is right as long as the tower
    stays as it is.
    """
    features = base_model(model).model.get_image_features(prompts.pixel_values, prompts.image_grid_thw)
    deepstack = getattr(features, "deepstack_features", None) or []
    return tuple(torch.cat(tuple(part)) for part in (features.pooler_output, *deepstack))


def prefill(model: Any, prompts: PromptBatch, cache: Cache | None = None) -> Prefix:
    """Run the prompts through the model once: pictures and prompt tokens are encoded here and nowhere else.

    Args:
        model: A Qwen2-VL-like model of transformers.
        prompts: N prompts.
        cache: Empty, to be filled; None: one that keeps the gradient.

    Raises:
        ValueError: If the model fills no cache, as under gradient checkpointing in training mode.
    """
    base = base_model(model)
    cache = DynamicCache(config=base.config.get_text_config()) if cache is None else cache
    position_ids = prompt_positions(model, prompts)
    output = base.model(
        input_ids=prompts.input_ids,
        attention_mask=prompts.attention_mask,
        position_ids=position_ids,
        past_key_values=cache,
        use_cache=True,
        **image_inputs(prompts),
    )
    if cache.get_seq_length() != prompts.input_ids.shape[1]:
        raise ValueError(
            f"cache: expected keys of {prompts.input_ids.shape[1]} columns after the prompts, got "
            f"{cache.get_seq_length()}; under gradient checkpointing a model fills none in training mode"
        )
    return Prefix(cache, prompts.attention_mask, position_ids.amax(dim=(0, 2)) + 1, output.last_hidden_state[:, -1])


def token_logprobs(
    logits: torch.Tensor,
    temperature: float,
    banned_token_ids: Sequence[int],
    allowed: torch.Tensor | None = None,
) -> torch.Tensor:
    """[..., V] float32 log-probabilities at a temperature (0 counts as 1), -inf for tokens banned or not allowed."""
    logits = logits.float()
    if temperature not in (0.0, 1.0):
        logits = logits / temperature
    if banned_token_ids:
        logits = logits.index_fill(-1, torch.tensor(banned_token_ids, device=logits.device), -torch.inf)
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    return logits.log_softmax(-1)
