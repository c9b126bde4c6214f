"""One forward pass over prompts: positions, image inputs, the prefix that completions share, log-probabilities.

Axis letters: N prompts, P prompt tokens, V vocabulary, H hidden size.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache

from focus_agents.models.adapters import base_model, family_of, model_parts
from focus_agents.models.inputs import PromptBatch
from focus_agents.models.shared_prefix import Prefix


def prompt_positions(model: Any, prompts: PromptBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the positions of the prompts' tokens, [..., N, P], and those at which their answers start, [N]."""
    return family_of(model).prompt_positions(base_model(model), prompts)


def answer_positions(model: Any, starts: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Return the positions of answers' tokens.

    Args:
        model: The model that will be called.
        starts: [N] int64, where the answers to each prompt start.
        offsets: [N, C] int64, or a shape that broadcasts to it, each token's place in its answer.

    Returns:
        [..., N, C] int64.
    """
    return family_of(model).text_positions(starts[:, None] + offsets)


def prompt_reach(model: Any, prompts: PromptBatch) -> torch.Tensor | None:
    """Return the last column that each token of a prompt sees, [N, P]; None: its own, as in causal attention."""
    return family_of(model).prompt_reach(prompts)


def image_inputs(model: Any, prompts: PromptBatch, num_answer_tokens: int = 0) -> dict[str, Any]:
    """Return the keyword arguments that hand pictures to a model: the pictures, or features of a frozen vision tower.

    Args:
        model: The model that will be called.
        prompts: N prompts.
        num_answer_tokens: Tokens that follow behind the prompts in the same rows.
    """
    return family_of(model).image_inputs(base_model(model), prompts, num_answer_tokens)


@torch.no_grad()
def encode_images(model: Any, prompts: PromptBatch) -> tuple[torch.Tensor, ...]:
    """Run the vision tower over the prompts' pictures.

    Given as `image_features` of the prompts, its outputs take the place of the pictures, which is right as long as the
    tower stays as it is.

    Returns:
        [image tokens, ...] each; how many there are depends on the model.
    """
    return family_of(model).image_features(base_model(model), prompts)


def cache_input(backbone: Any, cache: Cache) -> dict[str, Cache]:
    """Return the keyword argument that hands a cache to a model; transformers renames it, one family at a time."""
    return {_name_of_cache(type(backbone).forward): cache}


@functools.cache
def _name_of_cache(forward: Any) -> str:
    return "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"


def prefill(model: Any, prompts: PromptBatch, cache: Cache | None = None) -> Prefix:
    """Run the prompts through the model once: pictures and prompt tokens are encoded here and nowhere else.

    Args:
        model: A model of a known family.
        prompts: N prompts.
        cache: Empty, to be filled; None: one that keeps the gradient.

    Raises:
        ValueError: If the model fills no cache, as under gradient checkpointing in training mode.
    """
    cache = DynamicCache(config=base_model(model).config.get_text_config()) if cache is None else cache
    positions, next_position = prompt_positions(model, prompts)
    backbone = model_parts(model).backbone
    output = backbone(
        input_ids=prompts.input_ids,
        attention_mask=prompts.attention_mask,
        position_ids=positions,
        use_cache=True,
        **cache_input(backbone, cache),
        **image_inputs(model, prompts),
    )
    if cache.get_seq_length() != prompts.input_ids.shape[1]:
        raise ValueError(
            f"cache: expected keys of {prompts.input_ids.shape[1]} columns after the prompts, got "
            f"{cache.get_seq_length()}; under gradient checkpointing a model fills none in training mode"
        )
    return Prefix(cache, prompts.attention_mask, next_position, output.last_hidden_state[:, -1])


def token_logprobs(
    logits: torch.Tensor,
    temperature: float,
    banned_token_ids: Sequence[int],
    allowed: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return [..., V] float32 log-probabilities at a temperature (0 counts as 1), -inf for banned tokens or others."""
    logits = logits.float()
    if temperature not in (0.0, 1.0):
        logits = logits / temperature
    if banned_token_ids:
        logits = logits.index_fill(-1, torch.tensor(banned_token_ids, device=logits.device), -torch.inf)
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    return logits.log_softmax(-1)
