"""A step of stage 1: the language-model loss, and what it leaves behind."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch

from focus_agents.models.attention import set_focus_attention
from focus_agents.models.support_mass import SupportProbe
from focus_agents.sft.data import SFTExamples
from focus_agents.sft.settings import SFTConfig
from focus_agents.sft.step import accumulate_gradients
from tests.focus_agents.models.families import patch_grid


@pytest.mark.parametrize("labels", ["answer", "full"])
def test_the_lm_loss_is_the_mean_over_labelled_tokens(model: Any, examples: SFTExamples, labels: Any) -> None:
    """Against one forward pass for each example: of the answer's tokens, or all but the first."""
    items = [examples[index] for index in (5, 0, 1)]
    rows = []
    for item in items:
        ids = torch.tensor([[*item.prompt.input_ids, *item.answer_ids]])
        with torch.no_grad():
            logits = model(
                input_ids=ids,
                mm_token_type_ids=(ids == model.config.image_token_id).int(),
                pixel_values=torch.tensor(item.prompt.images["pixel_values"]),
                image_grid_thw=patch_grid(item.prompt.grids),
                use_cache=False,
            ).logits
        losses = -logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        rows.append(losses if labels == "full" else losses[-len(item.answer_ids) :])
    assert len({len(row) for row in rows}) > 1
    metrics = accumulate_gradients(
        copy.deepcopy(model), [examples.collate(items)], SFTConfig(labels=labels, beta=0.0), frozenset()
    )
    assert metrics == {
        "loss": pytest.approx(torch.cat(rows).mean().item(), rel=1e-5),
        "lm_loss": pytest.approx(torch.cat(rows).mean().item(), rel=1e-5),
    }


def test_a_step_leaves_nothing_behind(model: Any, examples: SFTExamples) -> None:
    """A probe that the graph of its own masses holds is garbage that Python's collector cannot see."""
    config = SFTConfig(beta=2.0)
    batch = examples.collate([examples[0], examples[1]])
    model = copy.deepcopy(model).requires_grad_()
    set_focus_attention(model)
    num_before = count_probes()
    accumulate_gradients(model, [batch], config, frozenset({0, 2}))
    assert count_probes() == num_before


def count_probes() -> int:
    gc.collect()
    return sum(type(thing) is SupportProbe for thing in gc.get_objects())
