"""How much the query picture looks at the support boxes, measured where a language model computes its attention.

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

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from focus_agents.models.adapters import base_model
from focus_agents.shared_prefix import SharedPrefix, shared_prefix_attention

FOCUS_ATTENTION = "focus_sdpa"
MOST_WRITTEN_OUT = 1024
"""Keys up to which scores are written out where that is faster; beyond, their memory is not worth it."""
HIDDEN = -30_000.0
"""Added to the scores of keys that are not seen; finite, so that a row of padding, which sees none, is not NaN."""
ROWS_PER_BLOCK = 64
"""Rows whose scores are in memory at a time."""


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Rows whose scores are computed together, in all sequences.

    Attributes:
        rows: Which of the Q rows.
        first: The lowest position among them; a key up to here is hidden from none of them by causality.
        stop: One past their highest position; no key from here on is seen by any of them.
    """

    rows: slice
    first: int
    stop: int


@dataclass(slots=True)
class SupportProbe:
    """Which tokens look, at which tokens, in which layers; and what was measured.

    Attributes:
        rows: [B, Q] int64, positions of the query-image tokens in rising order, filled up by repeating the last.
        row_mask: [B, Q] bool, false where filled up.
        support: [B, K] bool, the support tokens.
        padding: [B, K] bool, the padding; None if there is none.
        blocks: The rows in portions.
        layers: The layers to measure, from 0.
        keeps_maps: Whether `maps` is filled, too; for a few rows only, as a row has a number for each key.
        maps: By layer, [B, Q, K] float32, the attention of each row to each key, averaged over heads. Without gradient.
        masses: By layer, [B, Q] float32 (float64 in a float64 model) in 0 to 1: the attention that a row pays to all
            support tokens together, averaged over heads. With gradient. Filled by a forward pass.
    """

    rows: torch.Tensor
    row_mask: torch.Tensor
    support: torch.Tensor
    padding: torch.Tensor | None
    blocks: tuple[RowBlock, ...]
    layers: frozenset[int]
    keeps_maps: bool = False
    maps: dict[int, torch.Tensor] = field(default_factory=dict)
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
        in_order = torch.argsort((~query_mask).int(), dim=1, stable=True)[:, : int(counts.max())]
        row_mask = torch.arange(in_order.shape[1], device=counts.device) < counts[:, None]
        rows = torch.where(row_mask, in_order, in_order.gather(1, counts[:, None] - 1))
        lowest, highest = rows.amin(0).tolist(), rows.amax(0).tolist()
        blocks = []
        for start in range(0, len(lowest), ROWS_PER_BLOCK):
            stop = min(start + ROWS_PER_BLOCK, len(lowest))
            blocks.append(RowBlock(slice(start, stop), lowest[start], highest[stop - 1] + 1))
        num_keys = blocks[-1].stop
        padding = ~attention_mask.bool()[:, :num_keys]
        return cls(
            rows=rows,
            row_mask=row_mask,
            support=support_mask[:, :num_keys] & ~padding,
            padding=padding if bool(padding.any()) else None,
            blocks=tuple(blocks),
            layers=layers,
        )

    def mean_mass(self) -> torch.Tensor:
        """[B, Q] the masses averaged over the layers, as the paper averages attention maps."""
        return torch.stack([self.masses[layer] for layer in sorted(self.masses)]).mean(0)


def set_focus_attention(model: Any) -> None:
    """Let the language model's layers understand `support_probe` and `shared_prefix`; vision towers stay as they are.

    Without these keywords the model computes what it computed before.

    Args:
        model: A model of transformers, or a PEFT or DDP one around it.
    """
    model = base_model(model)
    if model.config.get_text_config()._attn_implementation != FOCUS_ATTENTION:
        model.set_attn_implementation({"text_config": FOCUS_ATTENTION})


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
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """SDPA, on rows that hold a group if they do, and beside it the support masses if a probe asks for them.

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
    elif _suits_written_out(query, key, attention_mask, kwargs):
        output = written_out_attention(query, key, value, attention_mask, scaling=scaling)
    else:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if support_probe is not None and is_measured:
        mass = support_mass(query, key, support_probe, scaling=scaling or query.shape[-1] ** -0.5)
        # The pass that gradient checkpointing repeats in backward must not replace what the loss was made of.
        support_probe.masses.setdefault(int(module.layer_idx), mass)  # type: ignore[arg-type]
        if support_probe.keeps_maps:
            maps = attention_maps(query, key, support_probe, scaling=scaling or query.shape[-1] ** -0.5)
            support_probe.maps[int(module.layer_idx)] = maps  # type: ignore[arg-type]
    return output, None


def _suits_written_out(
    query: torch.Tensor, key: torch.Tensor, attention_mask: torch.Tensor | None, kwargs: Mapping[str, Any]
) -> bool:
    """Whether a layer is computed under bfloat16 autocast on a CPU, over few enough tokens, and is plain."""
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
    """softmax(scale * q k^T) v as it is written, in bfloat16: a CPU's matrix units are fast at it, SDPA's are not used.

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


def support_mass(query: torch.Tensor, key: torch.Tensor, probe: SupportProbe, *, scaling: float) -> torch.Tensor:
    """[B, Q] the attention that each row pays to the support tokens, averaged over heads.

    Args:
        query: [B, A, N, D], rotated.
        key: [B, H, N, D] with N >= K, rotated; A / H query heads share a key head.
        probe: Rows and support tokens.
        scaling: Multiplies the scores.
    """
    sequences = torch.arange(len(query), device=query.device)[:, None]
    # Not `gather`, which would keep all of the query for its backward pass.
    rows = query[sequences, :, probe.rows].transpose(1, 2)
    grouped = rows.reshape(len(rows), key.shape[1], -1, *rows.shape[2:])
    mass: torch.Tensor = _SupportMass.apply(grouped, key, probe, scaling)  # type: ignore[no-untyped-call]
    return mass.flatten(1, 2).mean(1)


@torch.no_grad()
def attention_maps(query: torch.Tensor, key: torch.Tensor, probe: SupportProbe, *, scaling: float) -> torch.Tensor:
    """[B, Q, K] the attention of each row to each key, averaged over heads; arguments as of `support_mass`."""
    with torch.autocast(query.device.type, enabled=False):
        sequences = torch.arange(len(query), device=query.device)[:, None]
        rows = _wide(query[sequences, :, probe.rows].transpose(1, 2)) * scaling
        grouped = rows.reshape(len(rows), key.shape[1], -1, *rows.shape[2:])
        keys = _wide(key[:, :, : probe.support.shape[1]])
        maps = keys.new_zeros(*probe.rows.shape, keys.shape[2])
        for block in probe.blocks:
            attention = _attention(grouped[:, :, :, block.rows], keys, probe, block)
            maps[:, block.rows, : block.stop] = attention.flatten(1, 2).mean(1)
    return maps


class _SupportMass(torch.autograd.Function):
    """S = softmax(scale * q k^T) m over visible keys, a block of rows at a time.

    With P the softmax, dS/dscore_j = P_j (m_j - S), so that backward needs P again but nothing else, and P is cheaper
    to compute again than to keep. Scores are float32 whatever the model's precision (float64 in a float64 model): in
    bfloat16 they would cost S three digits.
    """

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, probe: SupportProbe, scaling: float) -> torch.Tensor:
        """[B, H, A / H, Q] from query [B, H, A / H, Q, D] and key [B, H, N, D]."""
        with torch.autocast(query.device.type, enabled=False):
            keys = _wide(key[:, :, : probe.support.shape[1]])
            mass = keys.new_empty(query.shape[:-1])
            targets = probe.support.to(keys.dtype)[:, None, :, None]
            for block in probe.blocks:
                attention = _attention(_wide(query[:, :, :, block.rows]) * scaling, keys, probe, block)
                block_mass = attention.flatten(2, 3) @ targets[:, :, : block.stop]
                mass[:, :, :, block.rows] = block_mass.view(attention.shape[:-1])
        ctx.save_for_backward(query, key, mass)
        ctx.probe, ctx.scaling = probe, scaling
        return mass

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_mass: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, mass = ctx.saved_tensors
        probe: SupportProbe = ctx.probe
        with torch.autocast(query.device.type, enabled=False):
            keys = _wide(key[:, :, : probe.support.shape[1]])
            grad_query, grad_key = torch.empty_like(query), torch.zeros_like(key, dtype=keys.dtype)
            targets = probe.support.to(keys.dtype)[:, None, None, None]
            for block in probe.blocks:
                scaled = _wide(query[:, :, :, block.rows]) * ctx.scaling
                attention = _attention(scaled, keys, probe, block)
                grad_scores = attention.mul_(targets[..., : block.stop] - mass[:, :, :, block.rows, None])
                grad_scores = grad_scores.mul_(grad_mass[:, :, :, block.rows, None]).flatten(2, 3)
                grad_rows = (grad_scores @ keys[:, :, : block.stop]).mul_(ctx.scaling)
                grad_query[:, :, :, block.rows] = grad_rows.view(scaled.shape)
                grad_key[:, :, : block.stop] += grad_scores.transpose(2, 3) @ scaled.flatten(2, 3)
        return grad_query, grad_key.to(key.dtype), None, None


def _attention(scaled: torch.Tensor, keys: torch.Tensor, probe: SupportProbe, block: RowBlock) -> torch.Tensor:
    """[B, H, A / H, q, block.stop] attention of q scaled rows."""
    scores = (scaled.flatten(2, 3) @ keys[:, :, : block.stop].transpose(2, 3)).view(*scaled.shape[:-1], block.stop)
    later = torch.arange(block.first + 1, block.stop, device=keys.device)
    hidden = later > probe.rows[:, block.rows, None]
    scores[..., block.first + 1 :].masked_fill_(hidden[:, None, None], -torch.inf)
    if probe.padding is not None:
        scores.masked_fill_(probe.padding[:, None, None, None, : block.stop], -torch.inf)
    return scores.softmax(-1)


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


ALL_ATTENTION_FUNCTIONS.register(FOCUS_ATTENTION, focus_attention_forward)
# Without a mask function of its own name, transformers makes no mask at all and padding is looked at.
ALL_MASK_ATTENTION_FUNCTIONS.register(FOCUS_ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
