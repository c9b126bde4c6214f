"""Count the memory of a worker of stage 1, and the cost of a step, before it runs."""

from __future__ import annotations

from collections.abc import Mapping

from focus_agents.models import budget
from focus_agents.models.budget import Memory, PromptSize
from focus_agents.models.shape import ModelShape
from focus_agents.sft.settings import SFTConfig, SFTSchedule

LOADING, TRAINING, VALIDATION = "loading the model", "training", "validation"
ADVICE: Mapping[str, str] = {
    LOADING: "set `lora_rank` 8 and `precision` bf16, or take a smaller model",
    TRAINING: "lower `micro_batch_size` or `max_image_tokens`, or set `gradient_checkpointing`, `lora_rank` 8 or "
    "`precision` bf16, or `shard_weights` with several workers",
    VALIDATION: "lower `validation_batch_size`, `validation_max_image_tokens` or `shots`, or set `lora_rank` 8 or "
    "`precision` bf16",
}
"""Advice where a part of the work does not fit."""


def worker_memory(
    shape: ModelShape,
    config: SFTConfig,
    schedule: SFTSchedule,
    *,
    prompts: tuple[PromptSize, PromptSize],
    num_workers: int = 1,
    shard_weights: bool = False,
) -> dict[str, Memory]:
    """Count what a worker holds at most in each part of its work.

    Args:
        shape: The model's.
        config: Settings of the training.
        schedule: Of the validation.
        prompts: Sizes of a large prompt of the training and of one of the validation.
        num_workers: Among how many a step's episodes are shared.
        shard_weights: Whether weights, gradients and optimizer are divided among them, too.
    """
    training, validation = prompts
    rows, answer = rows_per_pass(config, num_workers), schedule.max_completion_tokens
    tokens = rows * (training.tokens + answer)
    num_copies = 1 if shard_weights else num_workers
    stays = budget.add(budget.held(shape, config), budget.optimized(shape, config, num_replicas=num_copies))
    learned = budget.learning(
        shape,
        config,
        tokens=tokens,
        scored_tokens=tokens if config.labels == "full" else rows * (answer + 1),
        patches=rows * training.patches,
    )
    answered = budget.answering(
        shape,
        config.precision,
        prompt=validation,
        num_prompts=schedule.validation_batch_size,
        answer_tokens=answer,
        has_adapters=config.lora_rank is not None,
    )
    if shard_weights:
        trains, answers = _divided(shape, config, stays, num_workers)
    else:
        trains, answers = stays, {name: size for name, size in stays.items() if name != "gradients"}
    return {TRAINING: budget.add(trains, learned), VALIDATION: budget.add(answers, answered)}


def _divided(shape: ModelShape, config: SFTConfig, whole: Memory, num_workers: int) -> tuple[Memory, Memory]:
    """Count what stays in training and in validation of a worker's share, and what it has gathered beside it.

    In training, all that is in no decoder layer is whole during a pass, and so are two layers: the one that is computed
    and the next. Their gradients are whole, too. Autocast keeps its bfloat16 copy of each trained weight for the
    backward pass, unless checkpointing computes it again. In validation all weights are whole.
    """
    copies = 2 * budget.trained_parameters(shape, config) if config.precision == "bf16" else 0
    weights = whole["weights"] - copies
    two_layers = shape.layer_parameters * min(1.0, 2 / shape.num_layers)
    share = (shape.parameters - shape.layer_parameters + two_layers) / shape.parameters
    gathered = share * (weights + whole["gradients"]) + copies * (share if config.gradient_checkpointing else 1)
    own = {"weights": weights / num_workers, "optimizer": whole["optimizer"] / num_workers}
    return (
        {**own, "gradients": whole["gradients"] / num_workers, "gathered": gathered},
        {**own, "gathered": whole["weights"]},
    )


def rows_per_pass(config: SFTConfig, num_workers: int) -> int:
    """Return how many episodes a worker learns from in one forward and backward pass."""
    share = -(-config.batch_size // max(1, num_workers))
    return min(share, config.micro_batch_size or share)


def step_flops(shape: ModelShape, config: SFTConfig, *, prompt: PromptSize, num_workers: int = 1) -> float:
    """Return the operations of a worker's share of a step."""
    share = -(-config.batch_size // max(1, num_workers))
    return budget.learning_flops(shape, config, tokens=share * prompt.tokens, patches=share * prompt.patches)
