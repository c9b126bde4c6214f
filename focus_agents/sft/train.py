"""Supervised fine-tuning on right answers; GRPO starts from it, since a policy that never answers earns nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from rich.console import Console

from focus_agents.checkpoint import save_policy
from focus_agents.evaluate import evaluate
from focus_agents.generation import score_completions
from focus_agents.policies.vlm import VLMPolicy
from focus_agents.processing import VLMProcessor
from focus_agents.reporting import RunDirectory, progress_bar
from focus_agents.sft.data import SFTBatch, SFTExamples, load_batches
from focus_env.env import ENV_ID
from focus_env.prompts import PromptTemplate
from focus_env.types import EpisodeDataset

Labels = Literal["answer", "full"]

LOG_INTERVAL = 25
"""Steps between lines of metrics, which hold means over them."""


@dataclass(frozen=True, kw_only=True)
class SFTConfig:
    """Settings of a supervised run.

    Attributes:
        labels: "answer" trains the answer's tokens; "full" trains every token, those of the support boxes among them,
            as the paper's released code does. A model trained from scratch learns to read pictures sooner from these.
        num_steps: Optimizer steps.
        batch_size: Episodes per step.
        lr: Peak learning rate of AdamW.
        warmup: Share of the steps, at the start, in which the learning rate rises.
        cooldown: Share of the steps, at the end, in which it falls to a tenth.
        grad_clip: Largest global norm of the gradient.
        seed: Of the order of episodes.
        num_workers: Processes that draw and encode episodes ahead of the training.
    """

    labels: Labels = "answer"
    num_steps: int = 1000
    batch_size: int = 32
    lr: float = 1e-3
    warmup: float = 0.05
    cooldown: float = 0.2
    grad_clip: float = 1.0
    seed: int = 0
    num_workers: int = 1

    def __post_init__(self) -> None:
        for name, least in {"num_steps": 1, "batch_size": 1, "num_workers": 0, "seed": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected {least} or more, got {getattr(self, name)}")
        for name in ("lr", "grad_clip"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected more than 0, got {getattr(self, name)}")
        if self.warmup < 0 or self.cooldown < 0 or self.warmup + self.cooldown > 1:
            raise ValueError(
                "warmup, cooldown: expected shares of the steps that add up to at most 1, "
                f"got {self.warmup} and {self.cooldown}"
            )


def train_sft(
    model: Any,
    processor: VLMProcessor,
    training_episodes: EpisodeDataset,
    validation_episodes: EpisodeDataset,
    template: PromptTemplate,
    config: SFTConfig,
    run: RunDirectory,
    *,
    num_validation_episodes: int,
    max_completion_tokens: int,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train `model` in place and write everything that `RunDirectory` describes.

    Args:
        model: A Qwen2-VL-like model; its trainable parameters are trained where they are.
        processor: Its processor.
        training_episodes: What to train on.
        validation_episodes: What to answer before and after.
        template: Words the prompts and the answers.
        config: Settings.
        run: Where to write.
        num_validation_episodes: Taken from the front of the validation episodes; fewer if there are fewer.
        max_completion_tokens: Where a validation answer is cut.
        console: Where to show progress.

    Returns:
        The summary, as written to `summary.json`.
    """
    console = console or Console()
    started = time.perf_counter()
    indices = range(min(num_validation_episodes, len(validation_episodes)))
    env = gymnasium.make(ENV_ID, dataset=validation_episodes, template=template)
    policy = VLMPolicy(model, processor)
    before = evaluate(env, policy, indices, max_completion_tokens=max_completion_tokens)
    with progress_bar("SFT", config.num_steps, console) as advance:
        window: list[dict[str, float]] = []
        window_started = time.perf_counter()
        for step, metrics in enumerate(train_steps(model, processor, training_episodes, template, config), start=1):
            advance()
            window.append(metrics)
            if step % LOG_INTERVAL == 0 or step == config.num_steps:
                seconds = time.perf_counter() - window_started
                means = {name: float(np.mean([m[name] for m in window])) for name in metrics}
                rate = len(window) * config.batch_size / seconds
                run.log({"step": step, **means, "seconds": seconds, "examples_per_second": rate})
                console.print(
                    f"{step:>5}  loss {means['loss']:.3f}  {rate:.0f} examples/s", highlight=False, soft_wrap=True
                )
                window, window_started = [], time.perf_counter()
    after = evaluate(env, policy, indices, max_completion_tokens=max_completion_tokens)
    save_policy(run.checkpoints / "final", model, processor)
    return run.finish(
        validation_episodes,
        indices,
        before,
        after,
        num_steps=config.num_steps,
        seconds=time.perf_counter() - started,
    )


def train_steps(
    model: Any, processor: VLMProcessor, episodes: EpisodeDataset, template: PromptTemplate, config: SFTConfig
) -> Iterator[dict[str, float]]:
    """Take the optimizer steps; yields each one's `loss`, `lr` and `grad_norm`."""
    device = next(model.parameters()).device
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, config))
    batches = load_batches(
        SFTExamples(episodes, template, processor),
        batch_size=config.batch_size,
        num_steps=config.num_steps,
        seed=config.seed,
        num_workers=config.num_workers,
    )
    loss_function = answer_loss if config.labels == "answer" else full_loss
    for batch in batches:
        model.train()
        optimizer.zero_grad(set_to_none=True)
        loss = loss_function(model, batch, device=device)
        loss.backward()  # type: ignore[no-untyped-call]
        grad_norm = torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip)
        optimizer.step()
        yield {"loss": loss.item(), "lr": float(schedule.get_last_lr()[0]), "grad_norm": float(grad_norm)}
        schedule.step()


def lr_factor(step: int, config: SFTConfig) -> float:
    """Share of the peak learning rate at a step (from 0): a linear rise, a plateau, a linear fall to a tenth."""
    num_warmup = max(1, round(config.warmup * config.num_steps))
    if step < num_warmup:
        return (step + 1) / num_warmup
    num_cooldown = round(config.cooldown * config.num_steps)
    num_left = config.num_steps - step
    return 1.0 if num_left > num_cooldown or num_cooldown == 0 else 0.1 + 0.9 * num_left / num_cooldown


def answer_loss(model: Any, batch: SFTBatch, *, device: torch.device) -> torch.Tensor:
    """Mean negative log-likelihood of the answers' tokens; prompts are not labelled (scalar)."""
    logprobs, _ = score_completions(model, batch.prompts.to(device), batch.answer_ids[:, None].to(device))
    return -logprobs[:, 0][batch.answer_mask.to(device)].mean()


def full_loss(model: Any, batch: SFTBatch, *, device: torch.device) -> torch.Tensor:
    """Mean negative log-likelihood of all tokens of prompts and answers but the first of each (scalar)."""
    prompts, answer_mask = batch.prompts.to(device), batch.answer_mask.to(device).long()
    input_ids = torch.cat([prompts.input_ids, batch.answer_ids.to(device)], dim=1)
    attention_mask = torch.cat([prompts.attention_mask, answer_mask], dim=1)
    mm_token_type_ids = torch.nn.functional.pad(prompts.mm_token_type_ids, (0, answer_mask.shape[1]))
    logits = model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        mm_token_type_ids=mm_token_type_ids,
        pixel_values=prompts.pixel_values,
        image_grid_thw=prompts.image_grid_thw,
        use_cache=False,
    ).logits
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2).float(), input_ids[:, 1:], reduction="none"
    )
    return losses[(attention_mask[:, 1:] * attention_mask[:, :-1]).bool()].mean()
