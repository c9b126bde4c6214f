"""Prompts that begin alike: their beginning is encoded once, and each prompt continues from its keys and values.

    layers = encode_start(model, start)                      once for all prompts
    prefix = prefill_behind(model, layers, whole, rest)      each prompt's own tokens and pictures alone
    sample_completions(..., prefix=prefix)

The result is that of `prefill` of the whole prompts, but for rounding: a token sees nothing behind it, so the keys and
values of a beginning do not depend on what follows.

Axis letters: N prompts, S tokens of the beginning, R tokens of the longest rest, H key-value heads, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from focus_agents.engine.forward import cache_input, image_inputs, prefill, prompt_positions, prompt_reach
from focus_agents.models.adapters import base_model, model_parts
from focus_agents.models.attention import can_share_prefix, set_focus_attention
from focus_agents.models.inputs import PromptBatch
from focus_agents.models.shared_prefix import Prefix, SharedPrefix, additive

KeysValues = tuple[tuple[torch.Tensor, torch.Tensor], ...]
"""Of each layer, [1, H, S, D] keys and [1, H, S, D] values."""


def can_start_once(model: Any, prompts: PromptBatch) -> bool:
    """Return whether prompts may go on behind a beginning that is encoded alone.

    All layers must have full attention, and no token may see one that stands behind it.

    Args:
        model: A model of a known family.
        prompts: Any of the prompts.
    """
    return can_share_prefix(base_model(model).config) and prompt_reach(model, prompts) is None


@torch.no_grad()
def encode_start(model: Any, start: PromptBatch) -> KeysValues:
    """Encode the beginning of prompts.

    Args:
        model: A model of a known family, in eval mode, for which `can_start_once` is true.
        start: One prompt, without padding, that holds whole pictures.
    """
    set_focus_attention(model)
    return tuple((layer.keys, layer.values) for layer in prefill(model, start).cache.layers)


@torch.no_grad()
def prefill_behind(model: Any, layers: KeysValues, whole: PromptBatch, rest: PromptBatch) -> tuple[PromptBatch, Prefix]:
    """Run what follows the beginning through the model.

    Args:
        model: As for `encode_start`.
        layers: What that returned; cut to fewer tokens, it is the beginning of less. It stays as it is.
        whole: The N whole prompts, of whose pictures the grids alone are needed.
        rest: What follows the beginning in each of them, with its pictures.

    Returns:
        (The prompts with padding between beginning and rest, what completions of them go on from), as
        `focus_agents.engine.generation.sample_completions` takes both.
    """
    set_focus_attention(model)
    num_prompts, num_rest = rest.input_ids.shape
    num_start = layers[0][0].shape[2]
    positions, next_position = prompt_positions(model, whole)
    cache = DynamicCache(
        [(keys.expand(num_prompts, -1, -1, -1), values.expand(num_prompts, -1, -1, -1)) for keys, values in layers]
    )
    start_mask = rest.attention_mask.new_ones(num_prompts, num_start)
    attention_mask = torch.cat([start_mask, rest.attention_mask], dim=1)
    columns = torch.arange(num_rest, device=rest.input_ids.device)
    own = rest.attention_mask.bool()[:, None, :] & (columns <= columns[:, None])
    seen = torch.cat([start_mask.bool()[:, None, :].expand(-1, num_rest, -1), own], dim=2)[:, None]
    backbone = model_parts(model).backbone
    # As for answers behind a cached prompt: the mask travels in transformers' 4-D form, with rows of the rest alone.
    output = backbone(
        input_ids=rest.input_ids,
        attention_mask=additive(seen, backbone.dtype),
        position_ids=positions[..., -num_rest:],
        use_cache=True,
        shared_prefix=SharedPrefix(0),
        **cache_input(backbone, cache),
        **image_inputs(model, rest),
    )
    start_ids = whole.input_ids[:, :0].new_zeros(num_prompts, num_start)  # their columns are counted, not read
    padded = PromptBatch(
        input_ids=torch.cat([start_ids, rest.input_ids], dim=1),
        attention_mask=attention_mask,
        image_mask=torch.cat([torch.zeros_like(start_mask, dtype=torch.bool), rest.image_mask], dim=1),
        grids=rest.grids,
        num_images=rest.num_images,
        images=rest.images,
        image_rows=rest.image_rows,
    )
    return padded, Prefix(cache, attention_mask, next_position, output.last_hidden_state[:, -1])
