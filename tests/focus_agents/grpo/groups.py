"""Groups as a learner gets them, made up."""

from __future__ import annotations

import numpy as np

from focus_agents.grpo.steps import TrainingGroup
from focus_agents.models.inputs import EncodedPrompt


def make_group(prompt: EncodedPrompt, lengths: list[int], *, first_id: int = 10) -> TrainingGroup:
    """A group whose tokens, log-probabilities and advantages are all different."""
    ids = [np.arange(first_id + 20 * g, first_id + 20 * g + length) for g, length in enumerate(lengths)]
    return TrainingGroup(
        prompt=prompt,
        token_ids=tuple(ids),
        sampler_logprobs=tuple((-i / 100).astype(np.float32) for i in ids),
        advantages=np.array([g + first_id / 1000 for g in range(len(lengths))]),
        counts=np.ones(len(lengths), dtype=bool),
    )
