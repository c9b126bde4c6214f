"""Vision attention over equal pictures as one batch.

Under SDPA transformers runs a picture after the other, a call for each in each layer; with pictures of a few hundred
patches the calls cost more than the work. Flash attention has no such loop, but wants a GPU.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

MOST_PATCHES = 1024
"""Patches of a picture up to which a call costs more than its work; on a CPU, whose scores are written out, beyond this
their memory would count."""


def batch_pictures(model: Any) -> None:
    """Let the vision tower attend within many pictures at once where they have equally many patches.

    What is computed stays the same, but for rounding. Windows of Qwen2.5-VL count as pictures here.

    Args:
        model: A model of the Qwen-VL families. A tower that is not on SDPA, or whose attention is not theirs, is left
            as it is.
    """
    tower = model.model.visual
    if tower.config._attn_implementation != "sdpa":
        return
    for block in tower.blocks:
        if {"qkv", "proj", "num_heads", "scaling"} <= set(dir(block.attn)):
            # Not a method, which is pickled by a name that the class lacks.
            block.attn.forward = functools.partial(_attend, block.attn)


def _attend(
    self: Any,
    hidden_states: torch.Tensor,
    cu_seqlens: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    **kwargs: Any,
) -> torch.Tensor:
    """Return [patches, size] from the same, patches of picture after picture; the pictures end at `cu_seqlens`."""
    lengths = cu_seqlens.diff()
    are_equal = len(lengths) > 1 and bool((lengths == lengths[0]).all())
    if not are_equal or lengths[0] > MOST_PATCHES:
        result: torch.Tensor = type(self).forward(self, hidden_states, cu_seqlens, position_embeddings, **kwargs)
        return result
    num_patches = len(hidden_states)
    qkv = self.qkv(hidden_states)
    query, key, value = qkv.reshape(num_patches, 3, self.num_heads, -1).unbind(1)
    query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
    query, key, value = (
        part.to(qkv.dtype).reshape(len(lengths), -1, *part.shape[1:]).transpose(1, 2) for part in (query, key, value)
    )
    # Written out on a CPU, whose fused kernel is slow backward, the more so in bfloat16.
    if query.device.type == "cpu":
        attended = ((query * self.scaling) @ key.mT).softmax(-1) @ value
    else:
        attended = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=self.scaling)
    output: torch.Tensor = self.proj(attended.transpose(1, 2).reshape(num_patches, -1))
    return output
