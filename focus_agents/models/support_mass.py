"""Measure the attention of rows of a sequence to support tokens, with gradient, in memory linear in the tokens.

Axis letters: B sequences, N tokens, P prompt tokens, Q query-image tokens (rows), K tokens up to the last that a row
sees, A heads, H key-value heads, D head size.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

ROWS_PER_BLOCK = 64
"""Rows whose scores are in memory at a time."""


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Rows whose scores are computed together, in all sequences.

    Attributes:
        rows: Which of the Q rows.
        first: The lowest position to which one of them sees; a key up to here is hidden from none of them.
        stop: One past the highest; no key from here on is seen by any of them.
    """

    rows: slice
    first: int
    stop: int


class Masses(UserDict[int, torch.Tensor]):
    """Masses by layer. No `dict`, since FSDP gives each layer a copy of one that holds tensors with gradients."""


@dataclass(slots=True)
class SupportProbe:
    """The tokens that look, the tokens that they look at, and the layers; with the measured attention.

    Attributes:
        rows: [B, Q] int64, positions of the query-image tokens in rising order, filled up by repeating the last.
        last_seen: [B, Q] int64, the position to which each row sees; its own in causal attention.
        row_mask: [B, Q] bool, false where filled up.
        support: [B, K] bool, the support tokens.
        padding: [B, K] bool, the padding; None if there is none.
        blocks: The rows in portions.
        layers: The layers to measure, from 0.
        keeps_maps: Whether `maps` is filled, too; for a few rows only, as a row has a number for each key.
        maps: By layer, [B, Q, K] float32, the attention of each row to each key, averaged over heads. Without gradient.
        masses: By layer, [B, Q] float32 (float64 in a float64 model) in 0 to 1: the attention that a row pays to all
            support tokens together, averaged over heads. With gradient. Filled by a forward pass.
        heads: By layer, the heads that masses are averaged over; None: all.
        keeps_heads: Whether `head_masses` is filled, too.
        head_masses: By layer, [B, A, Q], the masses of all heads. Without gradient.
        contrast: [B, K] bool, tokens whose masses are measured beside those of the support tokens; None: none are.
        contrast_masses: By layer, [B, Q], as `masses`, of these.
    """

    rows: torch.Tensor
    last_seen: torch.Tensor
    row_mask: torch.Tensor
    support: torch.Tensor
    padding: torch.Tensor | None
    blocks: tuple[RowBlock, ...]
    layers: frozenset[int]
    keeps_maps: bool = False
    maps: dict[int, torch.Tensor] = field(default_factory=dict)
    masses: Masses = field(default_factory=Masses)
    heads: Mapping[int, tuple[int, ...]] | None = None
    keeps_heads: bool = False
    head_masses: dict[int, torch.Tensor] = field(default_factory=dict)
    contrast: torch.Tensor | None = None
    contrast_masses: Masses = field(default_factory=Masses)

    @classmethod
    def build(
        cls,
        query_mask: torch.Tensor,
        support_mask: torch.Tensor,
        attention_mask: torch.Tensor,
        layers: frozenset[int],
        *,
        reach: torch.Tensor | None = None,
        heads: Mapping[int, tuple[int, ...]] | None = None,
        contrast_mask: torch.Tensor | None = None,
    ) -> SupportProbe:
        """Return a probe for one batch.

        Args:
            query_mask: [B, N] bool, the query image's tokens; at least one in each sequence.
            support_mask: [B, N] bool, the support tokens.
            attention_mask: [B, N], 0 at padding, on either side.
            layers: The layers to measure.
            reach: [B, P] int64, the last position that each of the first P tokens sees, as `ModelFamily.prompt_reach`
                has it; the others see themselves and what stands before them. None: so do all.
            heads: For each of them, the heads to average over; None: all.
            contrast_mask: [B, N] bool, other tokens to measure beside the support tokens; None: none.
        """
        counts = query_mask.sum(1)
        # Examples differ in their query tokens. Positions of true come first in a stable sort of the negated mask, in
        # rising order; shorter lists are filled up with their last row, whose mass `row_mask` later leaves out.
        in_order = torch.argsort((~query_mask).int(), dim=1, stable=True)[:, : int(counts.max())]
        row_mask = torch.arange(in_order.shape[1], device=counts.device) < counts[:, None]
        rows = torch.where(row_mask, in_order, in_order.gather(1, counts[:, None] - 1))
        last_seen = rows
        if reach is not None:
            own = torch.arange(reach.shape[1], query_mask.shape[1], device=reach.device).expand(len(reach), -1)
            last_seen = torch.cat([reach, own], dim=1).gather(1, rows)
        # Scores of all rows at once would be [B, A, Q, K], the map that is to be avoided; a block has at most
        # `ROWS_PER_BLOCK` of the Q rows. Rows rise, and what they see with them, so a block of neighbours needs no key
        # behind the highest that its last row sees, where `stop` is. Up to the last key of its first row, `first`, none
        # is hidden from any of its rows, so that the mask is applied to the narrow strip between the two alone.
        lowest, highest = last_seen.amin(0).tolist(), last_seen.amax(0).tolist()
        blocks = []
        for start in range(0, len(lowest), ROWS_PER_BLOCK):
            stop = min(start + ROWS_PER_BLOCK, len(lowest))
            blocks.append(RowBlock(slice(start, stop), lowest[start], highest[stop - 1] + 1))
        num_keys = blocks[-1].stop
        padding = ~attention_mask.bool()[:, :num_keys]
        return cls(
            rows=rows,
            last_seen=last_seen,
            row_mask=row_mask,
            support=support_mask[:, :num_keys] & ~padding,
            padding=padding if bool(padding.any()) else None,
            blocks=tuple(blocks),
            layers=layers,
            heads=heads,
            contrast=None if contrast_mask is None else contrast_mask[:, :num_keys] & ~padding,
        )

    def mean_mass(self) -> torch.Tensor:
        """Return [B, Q] the masses averaged over the layers, as the paper averages attention maps; or chosen heads."""
        return self._mean(self.masses)

    def mean_contrast(self) -> torch.Tensor:
        """Return [B, Q] likewise, of the tokens to compare with."""
        return self._mean(self.contrast_masses)

    def _mean(self, masses: Mapping[int, torch.Tensor]) -> torch.Tensor:
        layers = sorted(masses)
        if self.heads is None:
            return torch.stack([masses[layer] for layer in layers]).mean(0)
        num_heads = sum(len(self.heads[layer]) for layer in layers)  # each head counts alike, wherever it is
        return torch.stack([masses[layer] * (len(self.heads[layer]) / num_heads) for layer in layers]).sum(0)


def support_mass(
    query: torch.Tensor, key: torch.Tensor, probe: SupportProbe, *, scaling: float, softcap: float | None = None
) -> torch.Tensor:
    """Return [B, Q] the attention that each row pays to the support tokens, averaged over heads.

    Args:
        query: [B, A, N, D], rotated.
        key: [B, H, N, D] with N >= K, rotated; A / H query heads share a key head.
        probe: Rows and support tokens.
        scaling: Multiplies the scores.
        softcap: Below which a hyperbolic tangent then holds them, see `cap_scores`; None: nothing does.
    """
    return head_masses(query, key, probe, scaling=scaling, softcap=softcap).mean(1)


def head_masses(
    query: torch.Tensor, key: torch.Tensor, probe: SupportProbe, *, scaling: float, softcap: float | None = None
) -> torch.Tensor:
    """Return [B, A, Q] the attention that each row pays to the support tokens in each head; see `support_mass`."""
    sequences = torch.arange(len(query), device=query.device)[:, None]
    # Not `gather`, which would keep all of the query for its backward pass.
    rows = query[sequences, :, probe.rows].transpose(1, 2)
    grouped = rows.reshape(len(rows), key.shape[1], -1, *rows.shape[2:])
    mass: torch.Tensor = _SupportMass.apply(grouped, key, probe, scaling, softcap)  # type: ignore[no-untyped-call]
    return mass.flatten(1, 2)


@torch.no_grad()
def attention_maps(
    query: torch.Tensor, key: torch.Tensor, probe: SupportProbe, *, scaling: float, softcap: float | None = None
) -> torch.Tensor:
    """Return [B, Q, K] the attention of each row to each key, averaged over heads; arguments as of `support_mass`."""
    with torch.autocast(query.device.type, enabled=False):
        sequences = torch.arange(len(query), device=query.device)[:, None]
        rows = _wide(query[sequences, :, probe.rows].transpose(1, 2)) * scaling
        grouped = rows.reshape(len(rows), key.shape[1], -1, *rows.shape[2:])
        keys = _wide(key[:, :, : probe.support.shape[1]])
        maps = keys.new_zeros(*probe.rows.shape, keys.shape[2])
        for block in probe.blocks:
            attention = _see(_scores(grouped[:, :, :, block.rows], keys, block, softcap), probe, block)
            maps[:, block.rows, : block.stop] = attention.flatten(1, 2).mean(1)
    return maps


class _SupportMass(torch.autograd.Function):
    """S = softmax(scale * q k^T) m over visible keys, a block of rows at a time.

    With P the softmax, dS/dscore_j = P_j (m_j - S), so that backward needs P again but nothing else, and P is cheaper
    to compute again than to keep. Scores are float32 whatever the model's precision (float64 in a float64 model): in
    bfloat16 they would cost S three digits.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, probe: SupportProbe, scaling: float, softcap: float | None
    ) -> torch.Tensor:
        """Return [B, H, A / H, Q] from query [B, H, A / H, Q, D] and key [B, H, N, D]."""
        with torch.autocast(query.device.type, enabled=False):
            keys = _wide(key[:, :, : probe.support.shape[1]])
            mass = keys.new_empty(query.shape[:-1])
            targets = probe.support.to(keys.dtype)[:, None, :, None]
            for block in probe.blocks:
                scores = _scores(_wide(query[:, :, :, block.rows]) * scaling, keys, block, softcap)
                attention = _see(scores, probe, block)
                block_mass = attention.flatten(2, 3) @ targets[:, :, : block.stop]
                mass[:, :, :, block.rows] = block_mass.view(attention.shape[:-1])
        ctx.save_for_backward(query, key, mass)
        ctx.probe, ctx.scaling, ctx.softcap = probe, scaling, softcap
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
                scores = _scores(scaled, keys, block, ctx.softcap)
                slope = None if ctx.softcap is None else 1 - (scores / ctx.softcap).square()
                attention = _see(scores, probe, block)
                grad_scores = attention.mul_(targets[..., : block.stop] - mass[:, :, :, block.rows, None])
                grad_scores = grad_scores if slope is None else grad_scores.mul_(slope)
                grad_scores = grad_scores.mul_(grad_mass[:, :, :, block.rows, None]).flatten(2, 3)
                grad_rows = (grad_scores @ keys[:, :, : block.stop]).mul_(ctx.scaling)
                grad_query[:, :, :, block.rows] = grad_rows.view(scaled.shape)
                grad_key[:, :, : block.stop] += grad_scores.transpose(2, 3) @ scaled.flatten(2, 3)
        return grad_query, grad_key.to(key.dtype), None, None, None


def cap_scores(scores: torch.Tensor, softcap: float) -> torch.Tensor:
    """Return scores between minus and plus a cap: nearly as they are around zero, never beyond."""
    return torch.tanh(scores / softcap) * softcap


def _scores(scaled: torch.Tensor, keys: torch.Tensor, block: RowBlock, softcap: float | None) -> torch.Tensor:
    """Return [B, H, A / H, q, block.stop] scores of q scaled rows."""
    scores = (scaled.flatten(2, 3) @ keys[:, :, : block.stop].transpose(2, 3)).view(*scaled.shape[:-1], block.stop)
    return scores if softcap is None else cap_scores(scores, softcap)


def _see(scores: torch.Tensor, probe: SupportProbe, block: RowBlock) -> torch.Tensor:
    """Return the attention of scores, in whose place they are hidden from rows that do not see them."""
    later = torch.arange(block.first + 1, block.stop, device=scores.device)
    hidden = later > probe.last_seen[:, block.rows, None]
    scores[..., block.first + 1 :].masked_fill_(hidden[:, None, None], -torch.inf)
    if probe.padding is not None:
        scores.masked_fill_(probe.padding[:, None, None, None, : block.stop], -torch.inf)
    return scores.softmax(-1)


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
