"""Both losses written out over transformers' own eager maps, in which every row of every layer stands.

Axis letters: B examples, N tokens, A heads, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from focus_agents.models.adapters import base_model
from focus_agents.models.attention import set_focus_attention
from focus_agents.sft.data import SFTBatch
from focus_agents.sft.heads import Heads
from focus_agents.sft.settings import SFTConfig
from focus_agents.sft.step import accumulate_gradients, measure_losses
from tests.focus_agents.models.families import Gradients, model_inputs


def full_maps(
    model: Any, inputs: Mapping[str, Any], implementation: str = "eager"
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """L maps [B, A, N, N], and logits [B, N, V]."""
    base_model(model).set_attn_implementation({"text_config": implementation})
    outputs = model(**inputs, output_attentions=True)
    return list(outputs.attentions), outputs.logits


def reference_losses(
    model: Any, batch: SFTBatch, config: SFTConfig, layers: Sequence[int], implementation: str = "eager"
) -> tuple[torch.Tensor, torch.Tensor]:
    """(LM loss, attention loss), means over the batch's labels and examples, straight from their definitions."""
    inputs = model_inputs(batch)
    maps, logits = full_maps(model, inputs, implementation)
    mean_map = torch.stack([maps[layer] for layer in layers]).mean((0, 2))
    num_prompt = batch.prompts.input_ids.shape[1]
    token_losses, example_losses = [], []
    for example, ids in enumerate(inputs["input_ids"]):
        tokens = inputs["attention_mask"][example].nonzero()[:, 0]
        learned = tokens[1:] if config.labels == "full" else tokens[tokens >= num_prompt]
        logprobs = logits[example].log_softmax(-1)
        token_losses.append(-logprobs[learned - 1, ids[learned]])
        query = batch.query_mask[example].nonzero()[:, 0]
        support = batch.support_mask[example].nonzero()[:, 0]
        others = tokens[~torch.isin(tokens, support)]
        rows = mean_map[example, query]
        delta = rows[:, support].mean(1) - rows[:, others].mean(1)
        unit = 1 / len(support) if config.margin_unit == "reachable" else 1.0
        example_losses.append((config.margin - delta / unit).clamp(min=0).square().mean())
    return torch.cat(token_losses).mean(), torch.stack(example_losses).mean()


def gradients(model: Any, loss: torch.Tensor) -> Gradients:
    """By name, of the parameters that are trained; None where the loss does not depend on one."""
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return dict(zip(named, found, strict=True))


def attention_loss_and_gradients(
    model: Any, batch: SFTBatch, config: SFTConfig, layers: frozenset[int]
) -> tuple[float, Gradients]:
    """Ours, without the LM loss, whose gradient is many times as large and would hide a wrong one."""
    set_focus_attention(model)
    loss = measure_losses(model, batch, config, layers).attention / len(batch.answer_ids)
    return loss.item(), gradients(model, loss)


def step(
    model: Any,
    micro_batches: Sequence[SFTBatch],
    config: SFTConfig,
    layers: frozenset[int],
    heads: Heads | None = None,
) -> tuple[dict[str, float], Gradients]:
    """Metrics and gradients of one optimizer step; the model is left without any."""
    metrics = accumulate_gradients(model, micro_batches, config, layers, heads)
    found = {name: parameter.grad for name, parameter in base_model(model).named_parameters()}
    model.zero_grad(set_to_none=True)
    return metrics, found
