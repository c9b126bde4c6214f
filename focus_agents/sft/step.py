"""One optimizer step of stage 1: forward passes over micro-batches, the global loss, the update.

Axis letters: B examples, P prompt tokens, T answer tokens, N = P + T, Q query-image tokens, L measured layers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch.nn.functional import pad

from focus_agents.engine.forward import image_inputs, prompt_reach
from focus_agents.models.adapters import model_parts
from focus_agents.models.inputs import IGNORED, LOGITS_PER_CHUNK
from focus_agents.models.sharding import is_sharded
from focus_agents.models.support_mass import SupportProbe
from focus_agents.sft.data import SFTBatch
from focus_agents.sft.heads import Heads
from focus_agents.sft.loss import (
    attention_loss,
    chunked_lm_loss,
    contrast_delta,
    lm_loss,
    margin_unit,
    share_past_margin,
    support_delta,
)
from focus_agents.sft.settings import Labels, SFTConfig


@dataclass(frozen=True, slots=True)
class LossSums:
    """The sums that a micro-batch adds to the batch; sums over its examples unless said otherwise.

    Attributes:
        lm: Negative log-likelihood of the labelled tokens (scalar, with gradient).
        attention: The attention loss (scalar, with gradient).
        support_mass: [L] mean over an example's rows of S, by layer.
        support_delta: [L] likewise, of delta.
        past_margin: [L] share of an example's rows past the margin, by layer.
    """

    lm: torch.Tensor
    attention: torch.Tensor
    support_mass: torch.Tensor
    support_delta: torch.Tensor
    past_margin: torch.Tensor


def token_labels(batch: SFTBatch, labels: Labels, reach: torch.Tensor | None = None) -> torch.Tensor:
    """Return [B, N] int64 the tokens to be learned, `IGNORED` elsewhere: the answers', or all that follow on a token.

    Args:
        batch: Examples.
        labels: Which of the two.
        reach: [B, P] int64, the last column that each token of a prompt sees, see `ModelFamily.prompt_reach`. A token
            that the one before it sees is not learned. None: there is none.
    """
    prompts = batch.prompts
    mask = batch.answer_mask
    if labels == "answer":
        in_prompt = torch.zeros_like(prompts.attention_mask, dtype=torch.bool)
    else:
        visible = prompts.attention_mask.bool()
        in_prompt = visible & pad(visible[:, :-1], (1, 0))
        if reach is not None:
            is_seen = reach[:, :-1] > torch.arange(reach.shape[1] - 1, device=reach.device)
            in_prompt &= ~pad(is_seen, (1, 0))
    ids = torch.cat([prompts.input_ids, batch.answer_ids], dim=1)
    return ids.masked_fill(~torch.cat([in_prompt, mask], dim=1), IGNORED)


def measure_losses(
    model: Any, batch: SFTBatch, config: SFTConfig, layers: frozenset[int], heads: Heads | None = None
) -> LossSums:
    """Run one forward pass over prompts and answers, and return both losses of it.

    Args:
        model: After `set_focus_attention`; may be wrapped by PEFT, DDP or torch.compile.
        batch: On the model's device.
        config: Labels, margin and beta.
        layers: The layers whose attention is measured; with beta 0 none is.
        heads: For each of these, the heads that are averaged; None: all.
    """
    prompts, num_answer = batch.prompts, batch.answer_ids.shape[1]
    attention_mask = torch.cat([prompts.attention_mask, batch.answer_mask.long()], dim=1)
    probe, reach = None, prompt_reach(model, prompts)
    if config.beta > 0:
        probe = SupportProbe.build(
            batch.query_mask,
            batch.support_mask,
            prompts.attention_mask,
            layers,
            reach=reach,
            heads=heads,
            contrast_mask=batch.contrast_mask,
        )
    labels = token_labels(batch, config.labels, reach)
    inputs = {
        "input_ids": torch.cat([prompts.input_ids, batch.answer_ids], dim=1),
        "attention_mask": attention_mask,
        "use_cache": False,
        **image_inputs(model, prompts, num_answer),
        **({} if probe is None else {"support_probe": probe}),
    }
    num_kept = num_answer + 1 if config.labels == "answer" else labels.shape[1]
    with torch.autocast(
        prompts.input_ids.device.type,
        torch.bfloat16,
        enabled=config.precision == "bf16",
        cache_enabled=not is_sharded(model),  # it would keep copies of all weights, under checkpointing, too
    ):
        lm = _lm_loss(model, inputs, labels[:, -num_kept:])
    if probe is None:
        nothing = lm.new_zeros(0)
        return LossSums(lm, lm.new_zeros(()), nothing, nothing, nothing)
    num_support, num_tokens = batch.support_mask.sum(1), attention_mask.sum(1)
    contrast = None if probe.contrast is None else probe.mean_contrast()
    delta = _delta(batch, probe.mean_mass(), contrast, num_tokens)
    unit = margin_unit(num_support, is_relative=config.margin_unit == "reachable", dtype=delta.dtype)
    attention = attention_loss(delta, probe.row_mask, config.margin, unit).sum()
    with torch.no_grad():
        masses = torch.stack([probe.masses[layer] for layer in sorted(layers)])
        others = [probe.contrast_masses[layer] for layer in sorted(probe.contrast_masses)]
        deltas = _delta(batch, masses, torch.stack(others) if others else None, num_tokens)
        past = share_past_margin(deltas, probe.row_mask, config.margin, unit).sum(-1)
    # The graph of the masses knows the probe: a cycle that Python cannot see through, and would keep for ever.
    probe.masses.clear()
    probe.contrast_masses.clear()
    return LossSums(lm, attention, _row_means(masses, probe), _row_means(deltas, probe), past)


def _delta(
    batch: SFTBatch, mass: torch.Tensor, contrast: torch.Tensor | None, num_tokens: torch.Tensor
) -> torch.Tensor:
    """Return [..., B, Q] delta of masses [..., B, Q], against all other tokens or those of the contrast."""
    if contrast is None or batch.contrast_mask is None:
        return support_delta(mass, batch.support_mask.sum(1), num_tokens)
    return contrast_delta(mass, contrast, batch.support_mask.sum(1), batch.contrast_mask.sum(1))


def _lm_loss(model: Any, inputs: Mapping[str, Any], labels: torch.Tensor) -> torch.Tensor:
    """Run the model; returns the loss of labels [B, K] for its last K tokens, by all of their logits or a chunk's."""
    num_kept = labels.shape[1]
    head = model_parts(model).head
    num_rows = max(256, LOGITS_PER_CHUNK // int(head.out_features))
    if labels.numel() <= num_rows:
        return lm_loss(model(**inputs, logits_to_keep=num_kept).logits, labels)
    states: list[torch.Tensor] = []
    # Through the model as a whole, whose wrappers have to see each forward pass; it makes the logits of one token only.
    hook = model_parts(model).backbone.register_forward_hook(
        lambda module, arguments, output: states.append(output.last_hidden_state)
    )
    try:
        model(**inputs, logits_to_keep=1)
    finally:
        hook.remove()
    return chunked_lm_loss(head, states[0][:, -num_kept:], labels, num_rows)


def _row_means(values: torch.Tensor, probe: SupportProbe) -> torch.Tensor:
    """Return [L] sums over examples of means over their rows, of values [L, B, Q]."""
    return ((values * probe.row_mask).sum(-1) / probe.row_mask.sum(-1)).sum(-1)


def accumulate_gradients(
    model: Any,
    micro_batches: Sequence[SFTBatch],
    config: SFTConfig,
    layers: frozenset[int],
    heads: Heads | None = None,
) -> dict[str, float]:
    """Backward passes for one step, whose sum over workers is the gradient of the whole batch's loss.

    L = sum of token losses / labelled tokens + beta * sum of attention losses / examples, with the counts of the whole
    batch, so that neither micro-batches nor workers change it. DDP and FSDP divide gradients by the number of workers,
    which is undone here.

    Workers that divide the weights exchange gradients after each micro-batch, since those of a whole model may not fit.
    They gather weights together, so a worker with fewer micro-batches goes through its last one again, for nothing.

    Args:
        model: With gradients at zero.
        micro_batches: This worker's share, on the model's device; at least one.
        config: Settings.
        layers: The layers whose attention is measured.
        heads: For each of these, the heads that are averaged; None: all.

    Returns:
        Means over the whole batch, the same on each worker: `loss`, `lm_loss`, and with beta > 0 `attention_loss`,
        `support_mass`, `support_delta` and `past_margin`, these three also as `<name>/<layer>`.
    """
    num_workers = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    device = micro_batches[0].answer_ids.device
    counts = torch.zeros(2, dtype=torch.float64, device=device)
    for batch in micro_batches:
        labels = token_labels(batch, config.labels, prompt_reach(model, batch.prompts))
        labelled = (labels[:, 1:] != IGNORED).sum()
        counts += torch.stack([labelled, torch.full_like(labelled, len(batch.answer_ids))])
    num_labels, num_examples = sum_over_workers(counts).tolist()
    totals = torch.zeros(2 + 3 * len(layers) * (config.beta > 0), dtype=torch.float64, device=device)
    is_divided = is_sharded(model)
    num_passes = _most_of_workers(len(micro_batches), device) if is_divided else len(micro_batches)
    for position in range(num_passes):
        batch = micro_batches[min(position, len(micro_batches) - 1)]
        syncs = position == num_passes - 1 or num_workers == 1 or is_divided
        with contextlib.nullcontext() if syncs else model.no_sync():
            sums = measure_losses(model, batch, config, layers, heads)
            loss = sums.lm / num_labels + config.beta * sums.attention / num_examples
            is_again = position >= len(micro_batches)
            (loss * (0 if is_again else num_workers)).backward()
        if is_again:
            continue
        parts = (sums.lm[None], sums.attention[None], sums.support_mass, sums.support_delta, sums.past_margin)
        totals += torch.cat([part.detach().double() for part in parts])
    lm, attention, *by_layer = sum_over_workers(totals).tolist()
    metrics = {"loss": lm / num_labels, "lm_loss": lm / num_labels}
    if config.beta > 0:
        metrics["attention_loss"] = attention / num_examples
        metrics["loss"] += config.beta * metrics["attention_loss"]
        for row, name in enumerate(("support_mass", "support_delta", "past_margin")):
            values = [v / num_examples for v in by_layer[row * len(layers) : (row + 1) * len(layers)]]
            metrics[name] = sum(values) / len(values)
            metrics |= {f"{name}/{layer}": value for layer, value in zip(sorted(layers), values, strict=True)}
    return metrics


def _most_of_workers(count: int, device: torch.device) -> int:
    """Return the largest of the counts of all workers."""
    most = torch.tensor(count, device=device)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    return int(most)


def sum_over_workers(values: torch.Tensor) -> torch.Tensor:
    """Add up what each worker has; in place."""
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
    return values
