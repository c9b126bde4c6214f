"""Masses of some heads alone, and of tokens to compare with, against whole rows of attention.

Axis letters: B examples, N tokens, A heads, Q query-image tokens, L layers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from focus_agents.models.attention import set_focus_attention
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.support_mass import head_masses, support_mass
from focus_agents.sft.data import SFTBatch
from focus_agents.sft.heads import mean_masses
from focus_agents.sft.settings import SFTConfig
from focus_agents.sft.step import measure_losses
from tests.focus_agents.models.eager_maps import full_maps, gradients
from tests.focus_agents.models.families import ALL_LAYERS, assert_same_gradients, make_batch, make_model, model_inputs
from tests.focus_agents.models.plain_mass import plain_mass, random_case

HEADS = {0: (1,), 2: (0, 2, 3)}


def test_each_head_against_whole_rows() -> None:
    query, key, probe = random_case(dtype=torch.float64)
    masses = head_masses(query, key, probe, scaling=0.4)
    assert masses.shape == (2, 6, probe.rows.shape[1])
    for head in range(6):
        expected = plain_mass(query[:, head : head + 1], key[:, head // 2 : head // 2 + 1], probe, 0.4)
        torch.testing.assert_close(masses[:, head], expected, rtol=0, atol=1e-13)
    assert torch.equal(support_mass(query, key, probe, scaling=0.4), masses.mean(1))


@pytest.fixture(scope="module")
def model_and_maps(processor: VLMProcessor) -> tuple[Any, SFTBatch, list[torch.Tensor]]:
    model, batch = make_model("qwen2_vl", processor), make_batch(processor)
    maps, _ = full_maps(model, model_inputs(batch))
    set_focus_attention(model)
    return model, with_contrast(batch), maps


def with_contrast(batch: SFTBatch) -> SFTBatch:
    """Every other token that is neither padding, nor the support's, nor the query's."""
    free = batch.prompts.attention_mask.bool() & ~batch.support_mask & ~batch.query_mask
    free[:, ::2] = False
    return dataclasses.replace(batch, contrast_mask=free)


def expected_loss(
    batch: SFTBatch, maps: list[torch.Tensor], config: SFTConfig, heads: dict[int, tuple[int, ...]], *, contrasts: bool
) -> torch.Tensor:
    """The mean over examples, straight from the definition."""
    mean_map = torch.stack([maps[layer][:, head] for layer, own in heads.items() for head in own]).mean(0)
    losses = []
    for example, visible in enumerate(model_inputs(batch)["attention_mask"]):
        support = batch.support_mask[example].nonzero()[:, 0]
        tokens = visible.nonzero()[:, 0]
        others = tokens[~torch.isin(tokens, support)]
        if contrasts and batch.contrast_mask is not None:
            others = batch.contrast_mask[example].nonzero()[:, 0]
        rows = mean_map[example, batch.query_mask[example].nonzero()[:, 0]]
        delta = rows[:, support].mean(1) - rows[:, others].mean(1)
        losses.append((config.margin - delta * len(support)).clamp(min=0).square().mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("contrasts", [False, True])
@pytest.mark.parametrize("heads", [None, HEADS], ids=["all", "chosen"])
def test_the_loss_and_its_gradient(
    model_and_maps: tuple[Any, SFTBatch, list[torch.Tensor]], heads: dict[int, tuple[int, ...]] | None, contrasts: bool
) -> None:
    model, batch, maps = model_and_maps
    batch = batch if contrasts else dataclasses.replace(batch, contrast_mask=None)
    config, layers = SFTConfig(margin=1.0), ALL_LAYERS if heads is None else frozenset(heads)
    ours = measure_losses(model, batch, config, layers, heads).attention / len(batch.answer_ids)
    num_heads = maps[0].shape[1]
    every = {layer: tuple(range(num_heads)) for layer in sorted(ALL_LAYERS)}
    expected = expected_loss(batch, maps, config, heads or every, contrasts=contrasts)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
    names = dict(model.named_parameters())
    right = torch.autograd.grad(expected, list(names.values()), allow_unused=True, retain_graph=True)
    assert_same_gradients(gradients(model, ours), dict(zip(names, right, strict=True)), 1e-3)


def test_heads_are_measured_by_their_mean_over_rows_and_examples(
    model_and_maps: tuple[Any, SFTBatch, list[torch.Tensor]],
) -> None:
    model, batch, maps = model_and_maps
    masses = mean_masses(model, [batch, batch], ALL_LAYERS)
    assert sorted(masses) == sorted(ALL_LAYERS)
    for layer, own in masses.items():
        means = []
        for example in range(len(batch.answer_ids)):
            query, support = (mask[example].nonzero()[:, 0] for mask in (batch.query_mask, batch.support_mask))
            means.append(maps[layer][example][:, query][:, :, support].sum(2).mean(1))
        torch.testing.assert_close(own.float(), torch.stack(means).mean(0).detach(), rtol=1e-5, atol=1e-6)
