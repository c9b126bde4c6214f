"""Count the memory that the processes of stage 2 hold, before they run."""

from __future__ import annotations

from collections.abc import Mapping

from focus_agents.grpo.settings import GRPOSettings
from focus_agents.models import budget
from focus_agents.models.budget import Memory, PromptSize
from focus_agents.models.settings import FinetuningSettings
from focus_agents.models.shape import ModelShape

SAMPLING, VALIDATION, LEARNING = "sampling", "validation", "learning"
ADVICE: Mapping[str, str] = {
    SAMPLING: "lower `max_image_tokens`, `rollout_batch_groups` or `shots`, or set `lora_rank` 8 or `precision` bf16",
    VALIDATION: "lower `validation_batch_size`, `validation_max_image_tokens` or `shots`, or set `lora_rank` 8 or "
    "`precision` bf16",
    LEARNING: "set `micro_batch_groups` 1 or `gradient_checkpointing`, lower `max_image_tokens`, `group_size` or "
    "`shots`, or set `lora_rank` 8 or `precision` bf16",
}
"""Advice where a part of the work does not fit."""


def sampler_memory(
    shape: ModelShape,
    model: FinetuningSettings,
    settings: GRPOSettings,
    *,
    prompts: tuple[PromptSize, PromptSize],
    device_bytes: float | None = None,
) -> dict[str, Memory]:
    """Count what a process that samples holds at most in each part of its work.

    Of vLLM it counts the weights alone: its cache and graphs fill `engine_memory` of the GPU, whatever is asked.

    Args:
        shape: The model's.
        model: How it is trained.
        settings: Of GRPO.
        prompts: Sizes of a large prompt of the training and of one of the validation.
        device_bytes: Memory of its device; None: not known.
    """
    if settings.engine == "vllm":
        adapters = 0 if model.lora_rank is None else budget.trained_parameters(shape, model)
        return {SAMPLING: {"weights": budget.NUMBER_BYTES[model.precision] * (shape.parameters + adapters)}}
    training, validation = prompts
    weights, copies = budget.held(shape, model), budget.merged_copies(shape, model, device_bytes)
    sampled = budget.answering(
        shape,
        model.precision,
        prompt=training,
        num_prompts=settings.rollout_batch_groups,
        num_answers=settings.group_size,
        answer_tokens=settings.max_completion_tokens,
        has_adapters=model.lora_rank is not None,
        copies=copies,
    )
    answered = budget.answering(
        shape,
        model.precision,
        prompt=validation,
        num_prompts=settings.num_validated_together,
        answer_tokens=settings.max_completion_tokens,
        has_adapters=model.lora_rank is not None,
        copies=copies,
    )
    return {SAMPLING: budget.add(weights, sampled), VALIDATION: budget.add(weights, answered)}


def learner_memory(
    shape: ModelShape,
    model: FinetuningSettings,
    settings: GRPOSettings,
    *,
    prompt: PromptSize,
    num_learners: int = 0,
) -> Memory:
    """Count what a process that learns holds at most.

    Args:
        shape: The model's.
        model: How it is trained.
        settings: Of GRPO.
        prompt: Size of a large prompt.
        num_learners: Among how many a step's groups are shared.
    """
    has_features = model.freeze_vision or model.lora_rank is not None
    groups = groups_per_pass(settings, num_learners)
    answer_tokens = settings.num_learned_answers * settings.max_completion_tokens
    learned = budget.learning(
        shape,
        model,
        tokens=groups * (prompt.tokens + answer_tokens),
        scored_tokens=groups * answer_tokens,
        patches=0 if has_features else groups * prompt.patches,
    )
    if settings.shared_prefix == "auto":  # at first one group is scored the other way, too: a copy for each answer
        copies = settings.num_learned_answers * (prompt.tokens + settings.max_completion_tokens)
        checking = copies * budget.ENCODING[model.lora_rank is not None, model.precision].of(shape)
        learned = {**learned, "activations": max(learned["activations"], checking)}
    stays = budget.add(budget.held(shape, model), budget.optimized(shape, model, num_replicas=num_learners))
    if settings.kl_coeff > 0 and model.lora_rank is None:
        stays = budget.add(stays, {"reference": 4 * shape.parameters})
    return budget.add(stays, learned)


def groups_per_pass(settings: GRPOSettings, num_learners: int) -> int:
    """Return how many groups a learner takes in one forward and backward pass."""
    share = -(-(settings.groups_per_step or settings.groups_per_iteration) // max(1, num_learners))
    return min(share, settings.micro_batch_groups or share)


def process_memory(
    shape: ModelShape,
    model: FinetuningSettings,
    settings: GRPOSettings,
    *,
    prompts: tuple[PromptSize, PromptSize],
    device_bytes: float | None = None,
) -> dict[str, Memory]:
    """Count what one process holds that samples and learns with the same weights; see `sampler_memory`."""
    sampler = sampler_memory(shape, model, settings, prompts=prompts, device_bytes=device_bytes)
    means = {"optimizer": budget.optimized(shape, model)["optimizer"]}
    learned = learner_memory(shape, model, settings, prompt=prompts[0])
    return {name: budget.add(memory, means) for name, memory in sampler.items()} | {LEARNING: learned}


def step_flops(
    shape: ModelShape, model: FinetuningSettings, settings: GRPOSettings, *, prompt: PromptSize, num_learners: int = 0
) -> float:
    """Return the operations of a learner in an optimizer step."""
    groups = -(-(settings.groups_per_step or settings.groups_per_iteration) // max(1, num_learners))
    tokens = groups * (prompt.tokens + settings.num_learned_answers * settings.max_completion_tokens)
    has_features = model.freeze_vision or model.lora_rank is not None
    return budget.learning_flops(shape, model, tokens=tokens, patches=0 if has_features else groups * prompt.patches)
