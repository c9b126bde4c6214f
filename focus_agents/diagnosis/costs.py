"""Cost of a question and of a training step on it: counted before the weights are read, and measured afterwards."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from focus_agents.diagnosis.findings import Section
from focus_agents.diagnosis.question import Question
from focus_agents.engine.scoring import score_completions
from focus_agents.models.attention import set_focus_attention
from focus_agents.models.budget import (
    COMPUTE_SHARE,
    GB,
    PromptSize,
    add,
    answering,
    describe,
    held,
    in_words,
    learning,
    learning_flops,
    optimized,
    total,
)
from focus_agents.models.devices import Device
from focus_agents.models.inputs import PromptBatch
from focus_agents.models.settings import FinetuningSettings
from focus_agents.models.shape import ModelShape

MOST_CPU_FLOPS = 5e12
"""Operations of a step beyond which it is not tried on a CPU: a minute or two of one core."""


def count_costs(
    section: Section,
    question: Question,
    shape: ModelShape,
    settings: FinetuningSettings,
    device: Device,
    *,
    image_token_id: int,
    max_completion_tokens: int,
) -> str | None:
    """Write down tokens and memory, by count, and see that they fit.

    Args:
        section: Gets the notes.
        question: What is asked.
        shape: The model's.
        settings: How it would be trained.
        device: What it computes on.
        image_token_id: Of the model.
        max_completion_tokens: Most tokens of an answer.

    Returns:
        Why a step is not tried; None: nothing speaks against it.
    """
    prompt = PromptSize.of(question.prompt, shape, image_token_id=image_token_id)
    longest = prompt.tokens + max(max_completion_tokens, len(question.answer_ids))
    weights = held(shape, settings)
    answers = add(
        weights,
        answering(shape, settings.precision, prompt=prompt, num_prompts=1, answer_tokens=max_completion_tokens),
    )
    tokens = prompt.tokens + len(question.answer_ids)
    step = add(
        weights,
        optimized(shape, settings),
        learning(shape, settings, tokens=tokens, scored_tokens=len(question.answer_ids), patches=prompt.patches),
    )
    flops = learning_flops(shape, settings, tokens=tokens, patches=prompt.patches)
    section.facts |= {
        "parameters": shape.parameters, "prompt_tokens": prompt.tokens, "visual_tokens": prompt.visual_tokens,
        "context": shape.context, "device": device.name, "memory_total": device.total, "memory_free": device.free,
        "answer_memory": {k: round(v) for k, v in answers.items()},
        "step_memory": {k: round(v) for k, v in step.items()}, "step_flops": flops,
    }  # fmt: skip
    said = (
        f"{prompt.describe()}; with an answer of up to {max_completion_tokens} tokens {longest:,} of {shape.context:,}"
    )
    if longest > shape.context:
        section.fault(f"{said}, the model's context; lower `max_image_tokens` or `shots`")
    else:
        section.ok(f"{said}, the model's context")
    if len(question.answer_ids) > max_completion_tokens:
        section.warn(
            f"the right answer has {len(question.answer_ids)} tokens, answers are cut at {max_completion_tokens}; "
            "raise `max_completion_tokens`, here and in training"
        )
    free = device.total if device.free is None else device.free
    section.ok(f"memory by count: {describe(answers)} to answer, {describe(step)} in a step; {device.name} has "
               f"{in_words(free)} free")  # fmt: skip
    if device.peak_flops is not None:
        seconds = flops / (COMPUTE_SHARE * device.peak_flops)
        section.ok(f"a step on this prompt takes {seconds:.2f} s or so, by its operations")
    _check_memory(section, total(answers), total(step), device, free)
    if total(step) > free:
        return f"a step needs {in_words(total(step))} by count, more than is free"
    if not device.is_gpu and flops > MOST_CPU_FLOPS:
        return f"on a CPU a step of {flops / 1e12:.0f} TFLOP takes minutes; ask for a GPU by `device`"
    return None


def _check_memory(section: Section, answers: float, step: float, device: Device, free: float) -> None:
    """Say what does not fit, and what would help."""
    if answers > device.total:
        section.fault(
            f"to answer it needs {in_words(answers)} by count, {device.name} has {in_words(device.total)}; take "
            "`precision` bf16, lower `max_image_tokens`, or take another `device`"
        )
    elif answers > free:
        section.warn(
            f"to answer it needs {in_words(answers)} by count, {in_words(free)} is free; end what holds the rest"
        )
    if step > device.total:
        section.warn(
            f"a training step needs {in_words(step)} by count, {device.name} has {in_words(device.total)}; take "
            "`lora_rank`, `precision` bf16 or `gradient_checkpointing`, or lower `max_image_tokens`"
        )


def measure_step(
    section: Section, model: Any, batch: PromptBatch, question: Question, settings: FinetuningSettings
) -> None:
    """Run one forward and backward pass on the right answer, and write down seconds, memory and gradients.

    Args:
        section: Gets the notes.
        model: Ready to train; without gradients, and so afterwards.
        batch: The prompt, on the model's device.
        question: Has the right answer.
        settings: The precision.
    """
    device = batch.input_ids.device
    ids = torch.tensor([[list(question.answer_ids)]], device=device)
    lengths = torch.tensor([[ids.shape[2]]], device=device)
    set_focus_attention(model)
    model.train()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        logprobs, _ = score_completions(model, batch, ids, lengths, shared_prefix=False)
    loss = -logprobs.sum() / ids.shape[2]
    loss.backward()  # type: ignore[no-untyped-call]
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = math.sqrt(sum(float(gradient.float().square().sum()) for gradient in gradients))
    model.zero_grad(set_to_none=True)
    model.eval()
    section.facts |= {"step_seconds": seconds, "right_answer_loss": float(loss.detach()), "gradient_norm": norm}
    said = f"one forward and backward pass on this prompt: {seconds:.2f} s"
    if device.type == "cuda":
        most = torch.cuda.max_memory_allocated(device)
        section.facts["step_memory_measured"] = most
        said += f", {most / GB:.1f} GB at most"
    said += f"; the right answer costs {float(loss.detach()):.2f} nats per token, gradient norm {norm:.2g}"
    if not (math.isfinite(norm) and math.isfinite(float(loss.detach()))):
        section.fault(f"{said}: expected finite numbers; the weights or the `precision` are wrong")
    elif norm == 0:
        section.fault(f"{said}: no gradient reaches a trained weight; see `lora_rank` and `freeze_vision`")
    else:
        section.ok(said)
