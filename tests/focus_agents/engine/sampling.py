"""Samples with everything filled in that a test does not care about."""

from __future__ import annotations

from typing import Any

from focus_agents.engine.generation import SampledBatch, sample_completions
from focus_agents.models.inputs import PromptBatch
from focus_agents.rollout.records import Sampling

NO_END = -1  # an end token that no model samples: every completion runs to the limit


def draw(
    model: Any, batch: PromptBatch, *, num_tokens: int = 6, temperature: float = 1.0, **options: Any
) -> SampledBatch:
    """Sample with everything that a test does not care about filled in."""
    arguments: dict[str, Any] = {
        "num_completions": 2,
        "seeds": list(range(len(batch.input_ids))),
        "eos_token_id": NO_END,
        "pad_token_id": 428,
    }
    return sample_completions(model, batch, sampling=Sampling(temperature, num_tokens), **(arguments | options))


def tokens_of(sampled: SampledBatch) -> list[list[list[int]]]:
    """The completions without padding."""
    return [
        [ids[:length].tolist() for ids, length in zip(*group, strict=True)]
        for group in zip(sampled.token_ids, sampled.lengths.tolist(), strict=True)
    ]
