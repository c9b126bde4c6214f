"""How much the query picture looks at the support boxes, measured where a language model computes its attention.

    set_support_attention(model)                    once
    probe = SupportProbe.build(...)                 per batch: which rows look, and at what
    model(**inputs, support_probe=probe)
    probe.masses                                    {layer: [B, Q] share of each row's attention on support tokens}

The keyword travels down transformers' layers, those of PEFT's models and of checkpointed ones included, to the
attention function that is registered here. That function leaves the layer's output to SDPA and computes the shares
beside it, for the query picture's rows only; no attention map outlives a block of rows, so memory stays linear in the
tokens.

Axis letters: B sequences, N tokens, Q query-image tokens (rows), K tokens up to the last row, A heads, H key-value
heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from focus_agents.models.adapters import base_model

SUPPORT_ATTENTION = "sdpa_with_support_probe"
ROWS_PER_BLOCK = 128
"""Rows whose scores are in memory at a time."""


@dataclass(slots=True)
class SupportProbe:
    """Which tokens look, at which tokens, in which layers; and what was measured.

    Attributes:
        rows: [B, Q] int64, positions of the query-image tokens, filled up by repeating one of them.
        row_mask: [B, Q] bool, false where filled up.
        support: [B, K] bool, the support tokens.
        visible: [B, K] bool, false at padding.
        layers: The layers to measure, from 0.
        masses: By layer, [B, Q] float32 (float64 in a float64 model) in 0 to 1: the attention that a row pays to all
            support tokens together, averaged over heads. With gradient. Filled by a forward pass.
    """

    rows: torch.Tensor
    row_mask: torch.Tensor
    support: torch.Tensor
    visible: torch.Tensor
    layers: frozenset[int]
    masses: dict[int, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        query_mask: torch.Tensor,
        support_mask: torch.Tensor,
        attention_mask: torch.Tensor,
        layers: frozenset[int],
    ) -> SupportProbe:
        """A probe for one batch.

        Args:
            query_mask: [B, N] bool, the query image's tokens; at least one in each sequence.
            support_mask: [B, N] bool, the support tokens.
            attention_mask: [B, N], 0 at padding, on either side.
            layers: The layers to measure.
        """
        counts = query_mask.sum(1)
        first = torch.argsort((~query_mask).int(), dim=1, stable=True)[:, : int(counts.max())]
        row_mask = torch.arange(first.shape[1], device=counts.device) < counts[:, None]
        rows = torch.where(row_mask, first, first[:, :1])
        num_keys = int(rows.max()) + 1
        visible = attention_mask.bool()
        return cls(rows, row_mask, (support_mask & visible)[:, :num_keys], visible[:, :num_keys], layers)

    def mean_mass(self) -> torch.Tensor:
        """[B, Q] the masses averaged over the layers, as the paper averages attention maps."""
        return torch.stack([self.masses[layer] for layer in sorted(self.masses)]).mean(0)


def set_support_attention(model: Any) -> None:
    """Let the language model's layers measure support attention when a probe is passed; vision towers stay as they are.

    Without a probe the model computes what it computed before.

    Args:
        model: A model of transformers, or a PEFT one around it.
    """
    base_model(model).set_attn_implementation({"text_config": SUPPORT_ATTENTION})


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
    which, _, count = spec.partition(":")
    if spec == "all":
        return frozenset(range(num_layers))
    if which in ("first", "last") and count.isdecimal() and int(count) > 0:
        size = min(int(count), num_layers)
        return frozenset(range(size) if which == "first" else range(num_layers - size, num_layers))
    names = [name.strip() for name in spec.split(",")]
    if all(name.isdecimal() for name in names):
        if too_high := sorted(int(name) for name in names if int(name) >= num_layers):
            raise ValueError(
                f"attention layers {spec!r}: expected numbers from 0 to {num_layers - 1}, the model's layers, "
                f"got {too_high[0]}"
            )
        return frozenset(int(name) for name in names)
    raise ValueError(f"attention layers: expected 'all', 'first:5', 'last:5' or numbers like '3,7', got {spec!r}")


def support_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    support_probe: SupportProbe | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """SDPA, and beside it the support masses of this layer, if a probe asks for them.

    The signature is that of transformers' attention functions: `query` [B, A, N, D] and `key` [B, H, N, D] come
    rotated; the result is ([B, N, A, D], None).
    """
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if support_probe is not None and module.layer_idx in support_probe.layers:
        if kwargs.get("sliding_window") is not None:
            raise NotImplementedError(f"support attention: layer {module.layer_idx} has a sliding window")
        mass = support_mass(query, key, support_probe, scaling=scaling or query.shape[-1] ** -0.5)
        # The pass that gradient checkpointing repeats in backward must not replace what the loss was made of.
        support_probe.masses.setdefault(int(module.layer_idx), mass)
    return output, None


def support_mass(query: torch.Tensor, key: torch.Tensor, probe: SupportProbe, *, scaling: float) -> torch.Tensor:
    """[B, Q] the attention that each row pays to the support tokens, averaged over heads.

    Args:
        query: [B, A, N, D], rotated.
        key: [B, H, N, D] with N >= K, rotated; A / H query heads share a key head.
        probe: Rows and support tokens.
        scaling: Multiplies the scores.
    """
    num_heads, size = query.shape[1], query.shape[3]
    rows = query.gather(2, probe.rows[:, None, :, None].expand(-1, num_heads, -1, size))
    keys = key[:, :, : probe.support.shape[1]]
    grouped = rows.view(len(rows), key.shape[1], -1, *rows.shape[2:])
    mass: torch.Tensor = _SupportMass.apply(  # type: ignore[no-untyped-call]
        grouped, keys, probe.rows, probe.visible, probe.support, scaling
    )
    return mass.flatten(1, 2).mean(1)


class _SupportMass(torch.autograd.Function):
    """S = softmax(scale * q k^T) m over visible keys, a block of rows at a time.

    With P the softmax, dS/dscore_j = P_j (m_j - S), so that backward needs P again but nothing else, and P is cheaper
    to compute again than to keep. Scores are float32 whatever the model's precision (float64 in a float64 model): in
    bfloat16 they would cost S three digits.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        rows: torch.Tensor,
        visible: torch.Tensor,
        support: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        """[B, H, A / H, Q] from query [B, H, A / H, Q, D], key [B, H, K, D], rows [B, Q], visible, support [B, K]."""
        with torch.autocast(query.device.type, enabled=False):
            keys = key.to(_score_dtype(query))
            mass = keys.new_empty(query.shape[:-1])
            targets = support.to(keys.dtype)[:, None, :, None]
            for block in _blocks(query.shape[3]):
                attention = _attention(query[:, :, :, block], keys, rows[:, block], visible, scaling)
                mass[:, :, :, block] = (attention.flatten(2, 3) @ targets).view_as(mass[:, :, :, block])
        ctx.save_for_backward(query, key, rows, visible, support, mass)
        ctx.scaling = scaling
        return mass

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_mass: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, rows, visible, support, mass = ctx.saved_tensors
        with torch.autocast(query.device.type, enabled=False):
            keys = key.to(_score_dtype(query))
            grad_query, grad_key = torch.empty_like(query), torch.zeros_like(keys)
            targets = support.to(keys.dtype)[:, None, None, None]
            for block in _blocks(query.shape[3]):
                rows_in = query[:, :, :, block]
                attention = _attention(rows_in, keys, rows[:, block], visible, ctx.scaling)
                grad_scores = attention.mul_(targets - mass[:, :, :, block, None])
                grad_scores = grad_scores.mul_(ctx.scaling * grad_mass[:, :, :, block, None]).flatten(2, 3)
                grad_query[:, :, :, block] = (grad_scores @ keys).view_as(rows_in)
                grad_key += grad_scores.transpose(2, 3) @ rows_in.flatten(2, 3).to(keys.dtype)
        return grad_query, grad_key.to(key.dtype), None, None, None, None


def _attention(
    query: torch.Tensor, keys: torch.Tensor, rows: torch.Tensor, visible: torch.Tensor, scaling: float
) -> torch.Tensor:
    """[B, H, A / H, q, K] attention of q rows."""
    scores = (query.flatten(2, 3).to(keys.dtype) @ keys.transpose(2, 3)).mul_(scaling)
    positions = torch.arange(keys.shape[2], device=keys.device)
    hidden = (positions > rows[:, :, None]) | ~visible[:, None]
    return scores.view(*query.shape[:-1], -1).masked_fill_(hidden[:, None, None], -torch.inf).softmax(-1)


def _blocks(num_rows: int) -> Sequence[slice]:
    return [slice(start, start + ROWS_PER_BLOCK) for start in range(0, num_rows, ROWS_PER_BLOCK)]


def _score_dtype(query: torch.Tensor) -> torch.dtype:
    return torch.promote_types(query.dtype, torch.float32)


ALL_ATTENTION_FUNCTIONS.register(SUPPORT_ATTENTION, support_attention_forward)
# Without a mask function of its own name, transformers makes no mask at all and padding is looked at.
ALL_MASK_ATTENTION_FUNCTIONS.register(SUPPORT_ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
