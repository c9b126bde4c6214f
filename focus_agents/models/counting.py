"""Positions that count tokens, for families whose language model knows nothing of rows and columns of pictures.

Axis letters: N prompts, P prompt tokens, C answer columns.
"""

from __future__ import annotations

from typing import Any

import torch

from focus_agents.models.family import ModelFamily
from focus_agents.models.inputs import PromptBatch


class CountingFamily(ModelFamily):
    """A family with one position a token, [N, P]; padding is not counted."""

    def prompt_positions(self, model: Any, prompts: PromptBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """See `ModelFamily`; positions are [N, P]."""
        return (prompts.attention_mask.cumsum(1) - 1).clamp(min=0), prompts.attention_mask.sum(1)

    def text_positions(self, positions: torch.Tensor) -> torch.Tensor:
        """See `ModelFamily`; [N, C] as they are."""
        return positions
