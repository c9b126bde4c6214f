"""Flash attention where it is installed, beside the package's own attention.

Rows with a shared prefix, and masks that are more than padding, stay with SDPA: flash attention knows neither. Measured
layers are computed by it all the same, since their masses are taken from queries and keys.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import is_flash_attn_2_available

from focus_agents.models.settings import Attention, Precision
from focus_env.errors import MissingDependencyError

FLASH = "flash_attention_2"
"""Transformers' name of it, under which its function, its masks and vision towers have it."""


def wants_flash(attention: Attention, precision: Precision) -> bool:
    """Return whether a model is to attend by flash attention.

    Args:
        attention: As it is asked for; "auto" takes it where it is installed, on CUDA, in bfloat16.
        precision: What is computed in.

    Raises:
        MissingDependencyError: If it is asked for and not installed, or there is no CUDA.
        ValueError: If it is asked for in float32, which it does not compute in.
    """
    is_there = is_flash_attn_2_available()
    if attention != "flash":
        return attention == "auto" and is_there and precision == "bf16"
    if precision != "bf16":
        raise ValueError(
            f"attention: expected auto or sdpa with precision {precision!r}, got 'flash', which computes in bfloat16; "
            "set `precision` to bf16"
        )
    if not is_there:
        reason = "the package flash-attn is not installed" if torch.cuda.is_available() else "torch sees no CUDA device"
        raise MissingDependencyError(
            f"attention 'flash' cannot be used, since {reason}; install the package flash-attn on a "
            "machine with a GPU that it supports, or set `attention` to auto"
        )
    return True


def can_flash(query: torch.Tensor) -> bool:
    """Return whether flash attention takes a layer's queries: on CUDA, in half precision or under its autocast."""
    half = (torch.bfloat16, torch.float16)
    autocast = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
    return query.device.type == "cuda" and (query.dtype in half or autocast in half)


def flash_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None,
    **kwargs: Any,
) -> torch.Tensor:
    """Return [B, N, A, D] by transformers' flash attention, or by SDPA where it does not apply.

    Args:
        module: The attention layer.
        query: [B, A, N, D], rotated.
        key: [B, H, K, D], rotated.
        value: [B, H, K, D].
        attention_mask: [B, K] of padding; None: there is none; or any of SDPA's, with four axes.
        scaling: Multiplies the scores; None: one over the root of D.
        kwargs: Of transformers' attention functions.
    """
    is_square = attention_mask is not None and attention_mask.ndim == 4
    if is_square or not can_flash(query):
        num_queries, num_keys = query.shape[2], key.shape[2]
        if attention_mask is not None and not is_square:
            attention_mask = square_mask(attention_mask, num_queries)
        elif attention_mask is None and 1 < num_queries < num_keys:  # SDPA would align the first query with the first
            attention_mask = square_mask(torch.ones(1, num_keys, device=query.device), num_queries)
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        return output
    if torch.is_autocast_enabled("cuda"):  # queries and keys may have been rotated in float32
        query, key, value = (part.to(torch.get_autocast_dtype("cuda")) for part in (query, key, value))
    # It reads off the layer under which name it was chosen; the layer has that of this package.
    named = SimpleNamespace(
        config=SimpleNamespace(_attn_implementation=FLASH),
        is_causal=getattr(module, "is_causal", True),
        layer_idx=getattr(module, "layer_idx", None),
    )
    # Without the positions: those of pictures jump, which it would take for the ends of packed sequences.
    known = ("dropout", "sliding_window", "softcap", "is_causal", "s_aux")
    options = {name: kwargs[name] for name in known if name in kwargs}
    output, _ = ALL_ATTENTION_FUNCTIONS[FLASH](named, query, key, value, attention_mask, scaling=scaling, **options)
    return output


def padding_mask(*, mask_function: Any, **kwargs: Any) -> torch.Tensor | None:
    """Return the mask of a batch: [B, K] or None where it is causal but for padding, as flash attention takes it.

    Others, of windows and of pictures that see all of themselves, are SDPA's, with four axes.
    """
    name = FLASH if mask_function is causal_mask_function else "sdpa"
    mask: torch.Tensor | None = ALL_MASK_ATTENTION_FUNCTIONS[name](mask_function=mask_function, **kwargs)
    return mask


def square_mask(padding: torch.Tensor, num_queries: int) -> torch.Tensor:
    """Return [B, 1, N, K] bool of causal attention over unpadded keys, [B, K]; the last query is at the last key.

    Args:
        padding: 0 or false at padding.
        num_queries: N.
    """
    num_keys = padding.shape[1]
    causal = torch.ones(num_queries, num_keys, dtype=torch.bool, device=padding.device).tril(num_keys - num_queries)
    return causal[None, None] & padding.bool()[:, None, None]
