"""Turn groups into tensors: portions of one forward and backward pass each, padded.

Axis letters: N groups, G completions per group, T completion tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from focus_agents.grpo.steps import TrainingGroup
from focus_agents.models.inputs import PromptBatch
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.shared_prefix import Prefix


@dataclass(frozen=True, slots=True)
class GroupBatch:
    """N groups as tensors, completions padded on the right.

    Attributes:
        prompts: N prompts.
        token_ids: [N, G, T] int64.
        lengths: [N, G] int64, tokens of each completion.
        loss_mask: [N, G, T] bool, the tokens that the loss looks at.
        sampler_logprobs: [N, G, T] float32, 0 at padding.
        advantages: [N, G] float32.
        old_logprobs: [N, G, T] float32, 0 at padding; None: not needed.
        ref_logprobs: [N, G, T] float32, 0 at padding; None: not needed, or not computed yet.
        prefix: The sampler's forward pass over these prompts, with gradient; None: there is none to be used.
        is_gold: [N, G] bool, the right answers, which nobody sampled; None: there are none.
    """

    prompts: PromptBatch
    token_ids: torch.Tensor
    lengths: torch.Tensor
    loss_mask: torch.Tensor
    sampler_logprobs: torch.Tensor
    advantages: torch.Tensor
    old_logprobs: torch.Tensor | None
    ref_logprobs: torch.Tensor | None
    prefix: Prefix | None
    is_gold: torch.Tensor | None = None


def micro_batches(groups: Sequence[TrainingGroup], size: int | None) -> list[list[TrainingGroup]]:
    """Return portions of at most `size` groups (None: all), all or none of them from one forward pass of the sampler.

    A forward pass of the sampler has one backward pass, so its groups stay together whatever the size.
    """
    portions: list[list[TrainingGroup]] = []
    for group in groups:
        last = portions[-1] if portions else []
        is_same = bool(last) and _source(last[0]) is _source(group)
        if is_same and (group.prefix is not None or size is None or len(last) < size):
            last.append(group)
        else:
            portions.append([group])
    return portions


def _source(group: TrainingGroup) -> Prefix | None:
    return None if group.prefix is None else group.prefix.prefix


def collate_groups(
    groups: Sequence[TrainingGroup], processor: VLMProcessor, *, device: torch.device | str = "cpu"
) -> GroupBatch:
    """Turn groups of the same size into tensors."""
    lengths = torch.tensor([[len(ids) for ids in group.token_ids] for group in groups], device=device)
    is_valid = torch.arange(int(lengths.max()), device=device) < lengths[..., None]
    counts = torch.tensor(np.stack([group.counts for group in groups]), device=device)

    def pad(name: str, fill: torch.Tensor) -> torch.Tensor | None:
        """Return one ragged field of all groups as [N, G, T]."""
        rows = [getattr(group, name) for group in groups]
        if any(row is None for row in rows):
            return None
        values = np.concatenate([array for row in rows for array in row])
        return fill.masked_scatter(is_valid, torch.tensor(values, dtype=fill.dtype, device=device))

    padding = torch.full(is_valid.shape, processor.pad_token_id, device=device)
    zeros = torch.zeros(is_valid.shape, device=device)
    token_ids, sampler_logprobs = pad("token_ids", padding), pad("sampler_logprobs", zeros)
    assert token_ids is not None
    assert sampler_logprobs is not None
    return GroupBatch(
        prompts=processor.collate([group.encoded for group in groups]).to(device),
        token_ids=token_ids,
        lengths=lengths,
        loss_mask=is_valid & counts[..., None],
        sampler_logprobs=sampler_logprobs,
        advantages=torch.tensor(np.stack([group.advantages for group in groups]), dtype=torch.float32, device=device),
        old_logprobs=pad("old_logprobs", zeros),
        ref_logprobs=pad("ref_logprobs", zeros),
        prefix=_joint_prefix(groups),
        is_gold=_gold_columns(groups, lengths),
    )


def _gold_columns(groups: Sequence[TrainingGroup], lengths: torch.Tensor) -> torch.Tensor | None:
    """Return [N, G] bool, true in the last column of groups with the right answer."""
    if not any(group.has_gold for group in groups):
        return None
    is_gold = torch.zeros_like(lengths, dtype=torch.bool)
    is_gold[:, -1] = torch.tensor([group.has_gold for group in groups], device=lengths.device)
    return is_gold


def _joint_prefix(groups: Sequence[TrainingGroup]) -> Prefix | None:
    """Return the sampler's forward pass of these groups, if they all come from the same."""
    rows = [group.prefix.row for group in groups if group.prefix is not None]
    source = _source(groups[0])
    if source is None or any(_source(group) is not source for group in groups):
        return None
    return source.select(rows)


def split_completions(values: torch.Tensor, lengths: torch.Tensor) -> list[tuple[npt.NDArray[np.float32], ...]]:
    """Return the inverse of padding: for each of N groups, G arrays [T], from [N, G, T] and [N, G]."""
    rows, counts = values.detach().float().cpu().numpy(), lengths.tolist()
    return [
        tuple(row[:count].copy() for row, count in zip(group, numbers, strict=True))
        for group, numbers in zip(rows, counts, strict=True)
    ]
