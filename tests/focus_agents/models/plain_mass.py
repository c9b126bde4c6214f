"""Support masses from whole rows, on random queries and keys.

Axis letters: B examples, N tokens, Q query-image tokens, K tokens up to the last row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from focus_agents.models.support_mass import SupportProbe


class Measurement(NamedTuple):
    """What a layer gave `support_mass`, and got."""

    query: torch.Tensor
    key: torch.Tensor
    probe: SupportProbe
    scaling: float
    mass: torch.Tensor


def padding_of(probe: SupportProbe) -> torch.Tensor:
    """[B, K] bool, also where nothing is padded."""
    return torch.zeros_like(probe.support) if probe.padding is None else probe.padding


def plain_mass(query: torch.Tensor, key: torch.Tensor, probe: SupportProbe, scaling: float) -> torch.Tensor:
    """[B, Q] the same from whole rows, in the precision of the arguments."""
    return (plain_maps(query, key, probe, scaling) * probe.support[:, None]).sum(-1)


def plain_maps(query: torch.Tensor, key: torch.Tensor, probe: SupportProbe, scaling: float) -> torch.Tensor:
    """[B, Q, K] attention averaged over heads, from whole rows."""
    num_keys = probe.support.shape[1]
    scores = scaling * query @ key[:, :, :num_keys].repeat_interleave(query.shape[1] // key.shape[1], 1).mT
    seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril() & ~padding_of(probe)[:, None, None]
    # A padded row before the first token sees nothing, and is not asked for.
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1).mean(1)
    return weights[torch.arange(len(query))[:, None], probe.rows]


def random_case(
    num_tokens: int = 70, num_rows: int = 20, *, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, SupportProbe]:
    """Queries [2, 6, N, 8] and keys [2, 3, N, 8] with gradient, and a probe with padding and unequal rows."""
    generator = torch.Generator().manual_seed(num_tokens)
    query = torch.randn(2, 6, num_tokens, 8, generator=generator, dtype=dtype)
    key = torch.randn(2, 3, num_tokens, 8, generator=generator, dtype=dtype)
    visible = torch.ones(2, num_tokens, dtype=torch.bool)
    visible[1, :5] = False
    rows = torch.zeros_like(visible)
    rows[0, -num_rows - 3 : -3] = True
    rows[1, -num_rows - 1 : -6] = True
    support = (torch.rand(2, num_tokens, generator=generator) < 0.3) & visible & ~rows
    probe = SupportProbe.build(rows, support, visible.long(), frozenset({0}))
    return query.requires_grad_(), key.requires_grad_(), probe
