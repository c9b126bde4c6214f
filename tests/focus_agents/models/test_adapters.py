"""LoRA adapters: where they go, and that they change nothing at first."""

from __future__ import annotations

import pytest
import torch

from focus_agents.models.adapters import add_adapters, base_model, merge_adapters
from focus_agents.models.processing import VLMProcessor
from tests.focus_agents.models.families import FAMILIES, NUM_LAYERS, make_batch, make_model, model_inputs


@pytest.mark.parametrize("family", FAMILIES)
def test_they_sit_on_the_seven_projections_of_the_language_model(family: str, processor: VLMProcessor) -> None:
    """Qwen2.5-VL's vision tower has projections of the same names."""
    model = add_adapters(make_model(family, processor), rank=4)
    adapted = {name.split(".lora_")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert all(".language_model.layers." in name for name in adapted)
    assert len(adapted) == 7 * NUM_LAYERS
    assert {name.split(".")[-1] for name in adapted} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip


@torch.no_grad()
def test_they_change_nothing_until_trained_and_stay_when_merged(processor: VLMProcessor) -> None:
    inputs = model_inputs(make_batch(processor))
    model = make_model("qwen2_vl", processor)
    before = model(**inputs).logits
    random_state = torch.random.get_rng_state()
    adapted = add_adapters(model, rank=4, alpha=6.0)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert base_model(adapted) is model
    torch.testing.assert_close(adapted(**inputs).logits, before)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    trained = adapted(**inputs).logits
    assert (trained - before).abs().max() > 0.1
    merged = merge_adapters(adapted)
    torch.testing.assert_close(merged(**inputs).logits, trained, atol=1e-3, rtol=1e-4)
    assert not any("lora" in name for name, _ in merged.named_parameters())


def test_a_model_without_adapters_is_its_own_merger(processor: VLMProcessor) -> None:
    model = make_model("qwen2_vl", processor)
    assert merge_adapters(model) is base_model(model) is model
