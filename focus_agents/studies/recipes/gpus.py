"""GPUs by their data sheets, so that the cost of a recipe can be estimated without a GPU."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from focus_agents.models import budget
from focus_agents.models.budget import PromptSize
from focus_agents.models.devices import PEAK_FLOPS
from focus_agents.models.settings import Precision
from focus_agents.models.shape import ModelShape

BANDWIDTH_SHARE = 0.6
"""Fraction of a GPU's memory bandwidth that decoding reaches; a guess, as `budget.COMPUTE_SHARE` is."""


@dataclass(frozen=True, slots=True)
class GPU:
    """A GPU by its data sheet.

    Attributes:
        gigabytes: Size of the memory, in 1e9 bytes.
        flops: Operations a second in bfloat16.
        bandwidth: Bytes a second from the memory.
    """

    gigabytes: float
    flops: float
    bandwidth: float


GPUS: Mapping[str, GPU] = {
    "A100-80GB": GPU(80, PEAK_FLOPS["A100"], 2.0e12),
    "H100-80GB": GPU(80, PEAK_FLOPS["H100"], 3.35e12),
    "H200-141GB": GPU(141, PEAK_FLOPS["H200"], 4.8e12),
    "B200-180GB": GPU(180, PEAK_FLOPS["B200"], 7.7e12),
}


def answering_seconds(
    shape: ModelShape,
    precision: Precision,
    gpu: GPU,
    *,
    prompt: PromptSize,
    num_prompts: float,
    num_answers: int = 1,
    answer_tokens: int,
    batch_size: int,
) -> float:
    """Estimate the seconds that a process answers, by the operations and by the weights that each token reads again.

    Args:
        shape: Shape of the model.
        precision: Precision of the computation.
        gpu: The GPU that computes.
        prompt: Size of each prompt.
        num_prompts: Number of all prompts.
        num_answers: Answers to each prompt.
        answer_tokens: Tokens of each answer.
        batch_size: Prompts that are answered together.
    """
    encoded = budget.forward_flops(shape, tokens=prompt.tokens, patches=prompt.patches)
    written = num_answers * budget.forward_flops(shape, tokens=answer_tokens)
    reads = math.ceil(num_prompts / batch_size) * answer_tokens * shape.parameters * budget.NUMBER_BYTES[precision]
    computing = num_prompts * (encoded + written) / (budget.COMPUTE_SHARE * gpu.flops)
    return computing + reads / (BANDWIDTH_SHARE * gpu.bandwidth)
