"""The inputs of a model: prompts as token ids and pictures.

A family decides which arrays its pictures become (see `family.py`). All other code holds them under their names, cuts
them between prompts and moves them, without knowing what they mean.

Axis letters: B prompts, P prompt tokens, K pictures of all prompts together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

IGNORED = -100
"""The label of a token that is not trained."""
LOGITS_PER_CHUNK = 2**25
"""Logits that are in memory at a time where a model learns, 128 MiB of float32."""
MAX_BATCH_TOKENS = 2**16
"""Columns of prompts, padding included, that are encoded together where a model answers. Small pictures never come
near; of a 7B model in bfloat16 so many take some 14 GB while they are encoded, and 4 GB of cache."""


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """One prompt as arrays; the form in which prompts travel between processes.

    Attributes:
        input_ids: [P] int64, with as many image tokens for each picture as its views have, see `ModelFamily.views`.
        grids: [pictures, 2] int64, (rows, columns) of each picture's tokens or tiles, as the family counts them.
        images: The family's arrays of the pictures by name, whose first axis runs through picture after picture.
        image_features: Outputs of a frozen vision tower (see `ModelFamily.image_features`), in place of the arrays:
            then `images` is empty. None: not computed.
    """

    input_ids: npt.NDArray[np.int64]
    grids: npt.NDArray[np.int64]
    images: Mapping[str, npt.NDArray[Any]]
    image_features: tuple[torch.Tensor, ...] | None = None

    @property
    def num_tokens(self) -> int:
        """P."""
        return len(self.input_ids)


def check_context(prompt: EncodedPrompt, num_answer_tokens: int, max_tokens: int) -> None:
    """See that a prompt and its answer fit into a model's context; beyond it, answers are noise.

    Args:
        prompt: The prompt.
        num_answer_tokens: Tokens of the answer, or the most that it may have.
        max_tokens: The model's context.

    Raises:
        ValueError: If they do not.
    """
    num_tokens = len(prompt.input_ids) + num_answer_tokens
    if num_tokens > max_tokens:
        raise ValueError(
            f"expected at most {max_tokens} tokens, the model's context, got {num_tokens} with {len(prompt.grids)} "
            "pictures; lower `max_image_tokens` or `shots`"
        )


@dataclass(frozen=True, slots=True)
class PromptBatch:
    """Left-padded prompts as tensors.

    Attributes:
        input_ids: [B, P] int64.
        attention_mask: [B, P] int64, 0 where padded.
        image_mask: [B, P] bool, true at image tokens.
        grids: [K, 2] int64, (rows, columns) of each picture, as in `EncodedPrompt`.
        num_images: How many of the pictures belong to each prompt.
        images: The family's arrays by name, as in `EncodedPrompt`, prompt after prompt.
        image_rows: For each array, how many of its rows belong to each prompt.
        image_features: In place of the arrays, as in `EncodedPrompt`: [image tokens of all pictures, ...] each.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    image_mask: torch.Tensor
    grids: torch.Tensor
    num_images: tuple[int, ...]
    images: Mapping[str, torch.Tensor]
    image_rows: Mapping[str, tuple[int, ...]]
    image_features: tuple[torch.Tensor, ...] | None = None

    def to(self, device: torch.device | str) -> PromptBatch:
        """Return the same batch on another device."""
        features = self.image_features
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            attention_mask=self.attention_mask.to(device),
            image_mask=self.image_mask.to(device),
            grids=self.grids.to(device),
            images={name: rows.to(device) for name, rows in self.images.items()},
            image_features=None if features is None else tuple(part.to(device) for part in features),
        )

    def repeat(self, times: int) -> PromptBatch:
        """Return each prompt `times` times, copies next to each other, with its pictures."""
        features = self.image_features
        num_tokens = self.image_mask.sum(1).tolist()
        return PromptBatch(
            input_ids=self.input_ids.repeat_interleave(times, 0),
            attention_mask=self.attention_mask.repeat_interleave(times, 0),
            image_mask=self.image_mask.repeat_interleave(times, 0),
            grids=_repeat_parts(self.grids, self.num_images, times),
            num_images=_repeat_counts(self.num_images, times),
            images={name: _repeat_parts(rows, self.image_rows[name], times) for name, rows in self.images.items()},
            image_rows={name: _repeat_counts(counts, times) for name, counts in self.image_rows.items()},
            image_features=features and tuple(_repeat_parts(part, num_tokens, times) for part in features),
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return all tensors but the features by name, for a file."""
        own = {name: getattr(self, name) for name in ("input_ids", "attention_mask", "image_mask", "grids")}
        return own | dict(self.images)


def collate_prompts(prompts: Sequence[EncodedPrompt], *, pad_token_id: int, image_token_id: int) -> PromptBatch:
    """Pad prompts on the left to the longest, and lay their pictures one after the other.

    Raises:
        ValueError: If some of the prompts hold features of their pictures, and others do not.
    """
    features = _join_features(prompts)
    input_ids = torch.full((len(prompts), max(len(p.input_ids) for p in prompts)), pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, -len(prompt.input_ids) :] = torch.tensor(prompt.input_ids)
        attention_mask[row, -len(prompt.input_ids) :] = 1
    names = tuple(prompts[0].images)
    return PromptBatch(
        input_ids=input_ids,
        attention_mask=attention_mask,
        image_mask=input_ids == image_token_id,
        grids=torch.from_numpy(np.concatenate([p.grids for p in prompts])),
        num_images=tuple(len(p.grids) for p in prompts),
        images={name: torch.from_numpy(np.concatenate([p.images[name] for p in prompts])) for name in names},
        image_rows={name: tuple(len(p.images[name]) for p in prompts) for name in names},
        image_features=features,
    )


def _join_features(prompts: Sequence[EncodedPrompt]) -> tuple[torch.Tensor, ...] | None:
    """Lay the features of all prompts' pictures one after the other."""
    features = [p.image_features for p in prompts if p.image_features is not None]
    if not features:
        return None
    if len(features) < len(prompts):
        raise ValueError(f"prompts: expected image features of all {len(prompts)} or of none, got {len(features)}")
    return tuple(torch.cat(parts) for parts in zip(*features, strict=True))


def _repeat_parts(rows: torch.Tensor, sizes: Sequence[int], times: int) -> torch.Tensor:
    """Cut rows into parts of these sizes; each part `times` times, copies next to each other."""
    others = [1] * (rows.ndim - 1)
    return torch.cat([part.repeat(times, *others) for part in torch.split(rows, list(sizes))])


def _repeat_counts(counts: Sequence[int], times: int) -> tuple[int, ...]:
    return tuple(count for count in counts for _ in range(times))
