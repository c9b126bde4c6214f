"""Measure the attention of the query picture to the support boxes, where a language model computes its attention.

    set_focus_attention(model)                      once
    probe = SupportProbe.build(...)                 per batch: which rows look, and at what
    model(**inputs, support_probe=probe)
    probe.masses                                    {layer: [B, Q] share of each row's attention on support tokens}

The keyword travels down transformers' layers, those of PEFT's models and of checkpointed ones included, to the
attention function that is registered here. That function leaves the layer's output to SDPA and computes the shares
beside it, for the query picture's rows only; no attention map outlives a block of rows, so memory stays linear in the
tokens. The same function runs rows that hold a group, under the keyword `shared_prefix` (see `shared_prefix.py`).

Axis letters: B sequences, N tokens, Q query-image tokens (rows), K tokens up to the last row, A heads, H key-value
heads, D head size.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from focus_agents.models.adapters import base_model, model_parts
from focus_agents.models.flash import FLASH, flash_attention, padding_mask, square_mask, wants_flash
from focus_agents.models.settings import Attention, Precision
from focus_agents.models.shared_prefix import SharedPrefix, shared_prefix_attention
from focus_agents.models.support_mass import SupportProbe, attention_maps, cap_scores, head_masses, support_mass
from focus_env.plain_numbers import is_plain

FOCUS_ATTENTION = "focus_attention"
"""Not named "sdpa": transformers would refuse it for models that SDPA cannot compute, as Gemma 2."""
FOCUS_FLASH = "focus_fa2"
"""The same with flash attention where it applies. Not named "flash": transformers would take it for that itself."""
MOST_WRITTEN_OUT = 1024
"""Keys up to which scores are written out where that is faster; beyond, their memory is not worth it."""
HIDDEN = -30_000.0
"""Added to the scores of keys that are not seen; finite, so that a row of padding, which sees none, is not NaN."""


def set_focus_attention(model: Any) -> None:
    """Let the language model's layers understand `support_probe` and `shared_prefix`; vision towers stay as they are.

    Without these keywords the model computes what it computed before.

    Args:
        model: A model of transformers, or a PEFT or DDP one around it.
    """
    model = base_model(model)
    if model.config.get_text_config()._attn_implementation not in (FOCUS_ATTENTION, FOCUS_FLASH):
        model.set_attn_implementation({"text_config": FOCUS_ATTENTION})


def choose_attention(model: Any, attention: Attention, precision: Precision) -> None:
    """Do as `set_focus_attention` does, by flash attention where it is to be used.

    Args:
        model: A model of transformers, or a PEFT or DDP one around it.
        attention: "auto" lets the language model use flash attention where it is installed; a layer that is not on
            CUDA, or not in half precision, is left to SDPA. "flash" takes it for the vision tower, too.
        precision: What is computed in.

    Raises:
        MissingDependencyError: If it is asked for and not installed, or there is no CUDA.
        ValueError: If it is asked for in float32.
    """
    model = base_model(model)
    if not wants_flash(attention, precision):
        set_focus_attention(model)
        return
    implementations = {"text_config": FOCUS_FLASH}
    tower = model_parts(model).vision_tower
    if attention == "flash" and getattr(tower, "_supports_flash_attn", False):
        names = [name for name in model.config.sub_configs if getattr(model.config, name) is tower.config]
        implementations |= dict.fromkeys(names, FLASH)
    model.set_attn_implementation(implementations)


def full_attention_layers(config: Any) -> frozenset[int]:
    """Return the layers, from 0, in which a token attends to all tokens before it.

    The others of a hybrid model have a sliding window, or no attention weights at all, as Qwen3.5's linear ones.

    Args:
        config: The model's configuration, of transformers.
    """
    text = config.get_text_config()
    layers = range(text.num_hidden_layers)
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * len(layers)
    return frozenset(layer for layer in layers if kinds[layer] == "full_attention")


def can_share_prefix(config: Any) -> bool:
    """Return whether answers may stand behind one prompt in a row: all layers have full attention.

    Args:
        config: The model's configuration, of transformers.
    """
    return len(full_attention_layers(config)) == config.get_text_config().num_hidden_layers


def measured_layers(spec: str, config: Any) -> frozenset[int]:
    """Return the layers of a choice whose attention can be measured: those with full attention.

    Args:
        spec: As for `select_layers`. A range leaves out layers without full attention.
        config: The model's configuration, of transformers.

    Raises:
        ValueError: As `select_layers`; or if the choice names a layer without full attention, or has no other.
    """
    full = full_attention_layers(config)
    chosen = select_layers(spec, config.get_text_config().num_hidden_layers)
    is_range = spec == "all" or ":" in spec
    if not chosen & full or not (is_range or chosen <= full):
        raise ValueError(
            f"attention layers {spec!r}: expected some of {', '.join(map(str, sorted(full)))}, the model's layers with "
            f"full attention, got {', '.join(map(str, sorted(chosen - full)))}, which have none to measure"
        )
    return chosen & full


def select_layers(spec: str, num_layers: int) -> frozenset[int]:
    """Read a choice of layers.

    Args:
        spec: `"all"`, `"first:5"`, `"last:5"` (all, if there are fewer), or numbers from 0 such as `"3,7"`.
        num_layers: How many the model has.

    Raises:
        ValueError: If the spec is none of these, or names a layer that the model does not have.

    >>> sorted(select_layers("last:2", 4))
    [2, 3]
    """
    which, _, count = spec.partition(":") if is_plain(spec) else ("", "", "")
    if spec == "all":
        return frozenset(range(num_layers))
    if which in ("first", "last") and count.isdecimal() and int(count) > 0:
        size = min(int(count), num_layers)
        return frozenset(range(size) if which == "first" else range(num_layers - size, num_layers))
    names = [name.strip() for name in spec.split(",")]
    if is_plain(spec) and all(name.isdecimal() for name in names):
        if too_high := sorted(int(name) for name in names if int(name) >= num_layers):
            raise ValueError(
                f"attention layers {spec!r}: expected numbers from 0 to {num_layers - 1}, the model's layers, "
                f"got {too_high[0]}"
            )
        return frozenset(int(name) for name in names)
    raise ValueError(f"attention layers: expected 'all', 'first:5', 'last:5' or numbers like '3,7', got {spec!r}")


def focus_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    support_probe: SupportProbe | None = None,
    shared_prefix: SharedPrefix | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    by_flash: bool = False,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """SDPA, or flash attention, and beside it the support masses if a probe asks for them. Rows may hold a group.

    Capped scores, which SDPA does not know, are written out.

    The signature is that of transformers' attention functions: `query` [B, A, N, D] and `key` [B, H, N, D] come
    rotated; the result is ([B, N, A, D], None).
    """
    is_measured = support_probe is not None and module.layer_idx in support_probe.layers
    if (is_measured or shared_prefix is not None) and kwargs.get("sliding_window") is not None:
        what = "support attention" if is_measured else "shared prefix"
        raise NotImplementedError(f"{what}: layer {module.layer_idx} has a sliding window")
    if shared_prefix is not None and attention_mask is not None:
        grouped = shared_prefix_attention(query, key, value, attention_mask, shared_prefix, scaling=scaling)
        output = grouped.transpose(1, 2).contiguous()
    elif softcap is not None:
        if attention_mask is not None and attention_mask.ndim == 2:  # made for flash attention, which caps no scores
            attention_mask = square_mask(attention_mask, query.shape[2])
        dropout = float(kwargs.get("dropout") or 0.0)
        output = capped_attention(query, key, value, attention_mask, scaling=scaling, softcap=softcap, dropout=dropout)
    elif by_flash:
        output = flash_attention(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    elif _suits_written_out(query, key, attention_mask, kwargs):
        output = written_out_attention(query, key, value, attention_mask, scaling=scaling)
    else:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if support_probe is not None and is_measured:
        options = {"scaling": scaling or query.shape[-1] ** -0.5} | ({} if softcap is None else {"softcap": softcap})
        mass = _mass(module, query, key, support_probe, options)
        # The pass that gradient checkpointing repeats in backward must not replace what the loss was made of.
        support_probe.masses.setdefault(int(module.layer_idx), mass)  # type: ignore[arg-type]
        if support_probe.contrast is not None:
            other = dataclasses.replace(support_probe, support=support_probe.contrast, keeps_heads=False)
            contrast = _mass(module, query, key, other, options)
            support_probe.contrast_masses.setdefault(int(module.layer_idx), contrast)  # type: ignore[arg-type]
        if support_probe.keeps_maps:
            maps = attention_maps(query, key, support_probe, **options)
            support_probe.maps[int(module.layer_idx)] = maps  # type: ignore[arg-type]
    return output, None


def _mass(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    probe: SupportProbe,
    options: Mapping[str, float],
) -> torch.Tensor:
    """Return [B, Q] what rows pay to the support tokens, averaged over all heads of a layer or over chosen ones."""
    if probe.heads is None and not probe.keeps_heads:
        return support_mass(query, key, probe, **options)
    layer, masses = int(module.layer_idx), head_masses(query, key, probe, **options)  # type: ignore[arg-type]
    if probe.keeps_heads:
        probe.head_masses[layer] = masses.detach()
    return masses.mean(1) if probe.heads is None else masses[:, list(probe.heads[layer])].mean(1)


def _suits_written_out(
    query: torch.Tensor, key: torch.Tensor, attention_mask: torch.Tensor | None, kwargs: Mapping[str, Any]
) -> bool:
    """Return whether a layer is computed under bfloat16 autocast on a CPU, over few enough tokens, and is plain."""
    if query.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return False
    is_plain = not kwargs.get("dropout") and kwargs.get("is_causal") is not False
    is_square = attention_mask is not None or query.shape[2] == key.shape[2]
    is_small = key.shape[2] <= MOST_WRITTEN_OUT
    return is_plain and is_square and is_small and torch.get_autocast_dtype("cpu") is torch.bfloat16


def written_out_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None,
) -> torch.Tensor:
    """Compute softmax(scale * q k^T) v as it is written, in bfloat16: a CPU's matrix units are fast at it, unlike SDPA.

    Args:
        query: [B, A, N, D], rotated.
        key: [B, H, K, D], rotated; A / H query heads share a key head.
        value: [B, H, K, D].
        attention_mask: Broadcasts to [B, A, N, K]; bool, true where a key is seen, or added to scores; None: causal.
        scaling: Multiplies the scores; None: one over the root of D.

    Returns:
        [B, N, A, D] bfloat16.
    """
    query, key, value = (part.to(torch.bfloat16) for part in (query, key, value))
    num_shared = query.shape[1] // key.shape[1]
    if num_shared > 1:
        key, value = key.repeat_interleave(num_shared, 1), value.repeat_interleave(num_shared, 1)
    scores = (query * (scaling or query.shape[-1] ** -0.5)) @ key.mT
    if attention_mask is None:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        attention_mask = torch.zeros(seen.shape, dtype=scores.dtype).masked_fill(~seen, HIDDEN)
    elif attention_mask.dtype == torch.bool:
        attention_mask = torch.zeros(attention_mask.shape, dtype=scores.dtype).masked_fill(~attention_mask, HIDDEN)
    attended = (scores + attention_mask.to(scores.dtype).clamp(min=HIDDEN)).softmax(-1) @ value
    return attended.transpose(1, 2).contiguous()


def capped_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None,
    softcap: float,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Compute softmax(cap(scale * q k^T)) v with scores that a hyperbolic tangent holds below a cap, as Gemma 2 does.

    Args:
        query: As of `written_out_attention`, like the others but for the last two.
        key: [B, H, K, D].
        value: [B, H, K, D].
        attention_mask: As there.
        scaling: As there.
        softcap: The cap.
        dropout: Share of the weights that become 0.

    Returns:
        [B, N, A, D].
    """
    num_shared = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(num_shared, 1), value.repeat_interleave(num_shared, 1)
    scores = cap_scores((query @ key.mT).float() * (scaling or query.shape[-1] ** -0.5), softcap)
    if attention_mask is None:
        size = scores.shape[-2:]
        attention_mask = torch.ones(size, dtype=torch.bool, device=query.device).tril(size[1] - size[0])
    if attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, HIDDEN)
    else:
        scores = scores + attention_mask.clamp(min=HIDDEN)
    weights = torch.nn.functional.dropout(scores.softmax(-1).to(value.dtype), dropout)
    return (weights @ value).transpose(1, 2).contiguous()


ALL_ATTENTION_FUNCTIONS.register(FOCUS_ATTENTION, focus_attention_forward)
ALL_ATTENTION_FUNCTIONS.register(FOCUS_FLASH, functools.partial(focus_attention_forward, by_flash=True))
# Without a mask function of its own name, transformers makes no mask at all and padding is looked at.
ALL_MASK_ATTENTION_FUNCTIONS.register(FOCUS_ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
ALL_MASK_ATTENTION_FUNCTIONS.register(FOCUS_FLASH, padding_mask)
