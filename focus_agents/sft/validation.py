"""Greedy answers to the validation episodes, shared by stage 1's workers."""

from __future__ import annotations

from typing import Any

import gymnasium
import torch
import torch.distributed

from focus_agents.evaluation import evaluate
from focus_agents.models.loading import load_processor
from focus_agents.models.processing import VLMProcessor
from focus_agents.policies.vlm import VLMPolicy
from focus_agents.sft.plan import SFTPlan
from focus_env.env import ENV_ID
from focus_env.metrics import ScoredAnswer


def validate(plan: SFTPlan, model: Any, processor: VLMProcessor, *, rank: int, num_workers: int) -> list[ScoredAnswer]:
    """Return one greedy answer for each validation episode, in their order; all workers get all of them.

    Args:
        plan: What is trained, with the episodes.
        model: This worker's.
        processor: Of the training; the validation may show other sizes of pictures.
        rank: Which worker this is.
        num_workers: How many there are.
    """
    if plan.pictures.validation != plan.pictures.training:
        processor = load_processor(plan.model, max_image_tokens=plan.pictures.validation)
    template = processor.fit_template(plan.template)
    env = gymnasium.make(ENV_ID, dataset=plan.validation_episodes, template=template)
    indices = range(min(plan.schedule.num_validation_episodes, len(plan.validation_episodes)))
    with torch.compiler.set_stance("force_eager"):  # each token of an answer has another shape
        mine = evaluate(
            env,
            VLMPolicy(model, processor, precision=plan.config.precision),
            indices[rank::num_workers],
            max_completion_tokens=plan.schedule.max_completion_tokens,
            batch_size=plan.schedule.validation_batch_size,
        )
    shares = [mine]
    if num_workers > 1:
        shares = [[] for _ in range(num_workers)]
        torch.distributed.all_gather_object(shares, mine)
    return [shares[index % num_workers][index // num_workers] for index in indices]
