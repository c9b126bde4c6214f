"""Choose the heads that the attention loss looks at: all, or those that look at the support boxes already.

Few heads of a model localise (arXiv:2503.06287). A loss on the mean over all of them asks as much of the others.

Axis letters: B examples, A heads, Q query-image tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch

from focus_agents.engine.forward import image_inputs, prompt_reach
from focus_agents.errors import EpisodeError
from focus_agents.models.adapters import base_model
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.support_mass import SupportProbe
from focus_agents.sft.data import SFTBatch, SFTExamples, UsableExamples
from focus_agents.sft.plan import SFTPlan
from focus_env.plain_numbers import is_plain

Heads: TypeAlias = Mapping[int, tuple[int, ...]]
"""By layer, from 0, numbers of heads, from 0."""

NUM_HELD_OUT, PER_PASS = 32, 8
"""Validation episodes by which heads are chosen, and how many go through the model together."""


def num_chosen_heads(spec: str, config: Any, layers: frozenset[int]) -> int | None:
    """Read a choice of heads.

    Args:
        spec: "all", or a number as in "top:8".
        config: The model's configuration, of transformers.
        layers: The layers whose heads there are to choose from.

    Returns:
        How many to choose; None: all.

    Raises:
        ValueError: If the spec is neither, or asks for more heads than there are.
    """
    if spec == "all":
        return None
    which, _, count = spec.partition(":") if is_plain(spec) else ("", "", "")
    if which != "top" or not count.isdecimal() or int(count) < 1:
        raise ValueError(f"attention_heads: expected 'all' or a number as in 'top:8', got {spec!r}")
    num_heads = len(layers) * int(config.get_text_config().num_attention_heads)
    if int(count) > num_heads:
        raise ValueError(
            f"attention_heads: expected at most {num_heads}, the heads of the {len(layers)} `attention_layers`, "
            f"got {spec!r}"
        )
    return int(count)


def chosen_heads(plan: SFTPlan, model: Any, processor: VLMProcessor, layers: frozenset[int]) -> list[list[int]] | None:
    """Choose the heads that a run is to train, by the first validation episodes.

    Args:
        plan: With `attention_heads`.
        model: As it is before the first step.
        processor: Of the training.
        layers: The layers to choose from.

    Returns:
        [layer, head] of each, the same on all workers; None: all heads.

    Raises:
        EpisodeError: If none of these episodes can be used.
    """
    config = plan.config
    count = num_chosen_heads(config.attention_heads, base_model(model).config, layers)
    if count is None or config.beta == 0:
        return None
    examples = SFTExamples(plan.validation_episodes, plan.template, processor, target=config.attention_target)
    usable, num_episodes = UsableExamples(examples), min(NUM_HELD_OUT, len(examples))
    batches = []
    for start in range(0, num_episodes, PER_PASS):
        batch = usable.collate([usable[index] for index in range(start, min(start + PER_PASS, num_episodes))])
        if isinstance(batch, EpisodeError):
            raise batch
        batches.append(batch)
    return top_heads(mean_masses(model, batches, layers, is_narrow=config.precision == "bf16"), count)


@torch.no_grad()
def mean_masses(
    model: Any, batches: Sequence[SFTBatch], layers: frozenset[int], *, is_narrow: bool = False
) -> dict[int, torch.Tensor]:
    """Measure how much each head looks at the support boxes.

    Args:
        model: After `set_focus_attention`.
        batches: Held-out examples.
        layers: The layers to measure.
        is_narrow: Compute in bfloat16.

    Returns:
        By layer, [A] float64: S, averaged over an example's rows and over examples.
    """
    device, was_training = next(model.parameters()).device, model.training
    totals: dict[int, torch.Tensor] = {}
    model.eval()
    try:
        for batch in (given.to(device) for given in batches):
            prompts = batch.prompts
            reach = prompt_reach(model, prompts)
            probe = SupportProbe.build(
                batch.query_mask, batch.support_mask, prompts.attention_mask, layers, reach=reach
            )
            probe.keeps_heads = True
            with torch.autocast(device.type, torch.bfloat16, enabled=is_narrow):
                model(
                    input_ids=prompts.input_ids,
                    attention_mask=prompts.attention_mask,
                    use_cache=False,
                    logits_to_keep=1,
                    support_probe=probe,
                    **image_inputs(model, prompts),
                )
            counts = probe.row_mask.sum(1)[:, None]
            for layer, masses in probe.head_masses.items():
                means = (masses * probe.row_mask[:, None]).sum(2) / counts
                totals[layer] = totals.get(layer, 0) + means.double().sum(0)
    finally:
        model.train(was_training)
    num_examples = sum(len(batch.answer_ids) for batch in batches)
    return {layer: total / num_examples for layer, total in totals.items()}


def top_heads(masses: Mapping[int, torch.Tensor], count: int) -> list[list[int]]:
    """Return [layer, head] of the heads with the largest masses, in rising order; of equal ones the first count.

    >>> top_heads({1: torch.tensor([0.1, 0.4]), 3: torch.tensor([0.4, 0.3])}, 2)
    [[1, 1], [3, 0]]
    """
    ranked = sorted((-float(mass), layer, head) for layer, own in masses.items() for head, mass in enumerate(own))
    return sorted([layer, head] for _, layer, head in ranked[:count])


def measured_heads(
    heads: Sequence[Sequence[int]] | None, layers: frozenset[int]
) -> tuple[frozenset[int], Heads | None]:
    """Return the layers that are measured, and the heads that are averaged in each.

    Args:
        heads: [layer, head] of those that were chosen; None: all.
        layers: The layers where all are.
    """
    if heads is None:
        return layers, None
    own = frozenset(layer for layer, _ in heads)
    return own, {layer: tuple(head for other, head in heads if other == layer) for layer in sorted(own)}
