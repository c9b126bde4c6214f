"""Supervised fine-tuning on the right answers; what GRPO starts from, since a policy that never answers earns nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from focus_agents.generation import score_completions
from focus_agents.processing import VLMProcessor
from focus_agents.sft.data import SFTBatch, SFTExamples, load_batches
from focus_env.prompts import PromptTemplate
from focus_env.types import EpisodeDataset


@dataclass(frozen=True, kw_only=True)
class SFTConfig:
    """Settings of a supervised run.

    Attributes:
        num_steps: Optimizer steps.
        batch_size: Episodes per step.
        lr: Peak learning rate of AdamW.
        warmup: Share of the steps in which the learning rate rises; it then falls linearly to a tenth.
        grad_clip: Largest global norm of the gradient.
        seed: Of the order of episodes.
        num_workers: Processes that draw and encode episodes ahead of the training.
    """

    num_steps: int = 1000
    batch_size: int = 32
    lr: float = 1e-3
    warmup: float = 0.05
    grad_clip: float = 1.0
    seed: int = 0
    num_workers: int = 1


def train_sft(
    model: Any,
    processor: VLMProcessor,
    episodes: EpisodeDataset,
    template: PromptTemplate,
    config: SFTConfig,
    *,
    on_step: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> None:
    """Train `model` in place to write each episode's right answer.

    Args:
        model: A Qwen2-VL-like model; its trainable parameters are trained where they are.
        processor: Its processor.
        episodes: What to train on.
        template: Words the prompts and the answers.
        config: Settings.
        on_step: Called after each step with its number from 1 and its metrics `loss`, `lr`, `grad_norm`.
    """
    device = next(model.parameters()).device
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=0.0)
    num_warmup = max(1, round(config.warmup * config.num_steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / num_warmup, max(0.1, 1 - (step - num_warmup) / config.num_steps))
    )
    batches = load_batches(
        SFTExamples(episodes, template, processor),
        batch_size=config.batch_size,
        num_steps=config.num_steps,
        seed=config.seed,
        num_workers=config.num_workers,
    )
    model.train()
    for step, batch in enumerate(batches, start=1):
        optimizer.zero_grad(set_to_none=True)
        loss = answer_loss(model, batch, device=device)
        loss.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip)
        optimizer.step()
        on_step(step, {"loss": loss.item(), "lr": schedule.get_last_lr()[0], "grad_norm": float(grad_norm)})
        schedule.step()


def answer_loss(model: Any, batch: SFTBatch, *, device: torch.device) -> torch.Tensor:
    """Mean negative log-likelihood of the answers' tokens; prompts are not labelled (scalar)."""
    logprobs, _ = score_completions(model, batch.prompts.to(device), batch.answer_ids[:, None].to(device))
    return -logprobs[:, 0][batch.answer_mask.to(device)].mean()
