"""Log-probabilities of given answers from transformers' own model, one prompt at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from focus_agents.models.inputs import EncodedPrompt
from tests.focus_agents.models.families import patch_grid


def score_by_repetition(
    model: Any,
    prompts: Sequence[EncodedPrompt],
    token_ids: torch.Tensor,
    *,
    temperature: float = 1.0,
    banned_token_ids: Sequence[int] = (),
) -> tuple[torch.Tensor, torch.Tensor]:
    """The oracle: each completion behind its own copy of prompt and pictures, no cache, no padding, own positions.

    Returns:
        ([N, G, T] log-probabilities with gradient, [N, G, T, V] all of them).
    """
    chosen, everything = [], []
    for prompt, completions in zip(prompts, token_ids, strict=True):
        num_completions, num_prompt_tokens = len(completions), len(prompt.input_ids)
        ids = torch.cat([torch.tensor(prompt.input_ids).expand(num_completions, -1), completions], dim=1)
        logits = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == model.config.image_token_id).int(),
            pixel_values=torch.tensor(np.concatenate([prompt.images["pixel_values"]] * num_completions)),
            image_grid_thw=patch_grid(prompt.grids).repeat(num_completions, 1),
            use_cache=False,
        ).logits[:, num_prompt_tokens - 1 : -1]
        logits = logits / temperature
        logits[..., list(banned_token_ids)] = -torch.inf
        everything.append(logits.log_softmax(-1))
        chosen.append(everything[-1].gather(-1, completions[..., None])[..., 0])
    return torch.stack(chosen), torch.stack(everything)
