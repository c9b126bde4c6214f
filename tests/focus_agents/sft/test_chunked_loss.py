"""Labels on every token: the logits of a prompt are in memory a chunk at a time."""

from __future__ import annotations

import pytest

from focus_agents.models.adapters import add_adapters
from focus_agents.models.attention import set_focus_attention
from focus_agents.models.processing import VLMProcessor
from focus_agents.sft import step as sft_step
from focus_agents.sft.settings import Labels, SFTConfig
from focus_agents.sft.step import accumulate_gradients
from tests.focus_agents.models.eager_maps import step
from tests.focus_agents.models.families import (
    ALL_LAYERS,
    FAMILIES,
    assert_same_gradients,
    enable_checkpointing,
    make_batch,
    make_model,
)
from tests.live_tensors import LiveTensors

VOCABULARY = 8_192


@pytest.mark.parametrize("labels", ["answer", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_of_all_logits_at_once(
    processor: VLMProcessor, family: str, labels: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of 256 tokens, of which a padded batch has more."""
    model, batch = make_model(family, processor), make_batch(processor, (0, 1, 2) * 6)
    config = SFTConfig(labels=labels, beta=30.0)
    set_focus_attention(model)
    expected, expected_gradients = step(model, [batch], config, ALL_LAYERS)
    monkeypatch.setattr(sft_step, "LOGITS_PER_CHUNK", 1)
    metrics, ours = step(model, [batch], config, ALL_LAYERS)
    assert metrics == pytest.approx(expected, rel=1e-5)
    assert_same_gradients(ours, expected_gradients, 1e-5)


def test_under_adapters_checkpointing_and_autocast(processor: VLMProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch(processor, (0, 1, 2) * 3)
    config = SFTConfig(labels="full", beta=30.0, precision="bf16", lora_rank=2)
    results = []
    for num_logits in (2**25, 1):
        monkeypatch.setattr(sft_step, "LOGITS_PER_CHUNK", num_logits)
        model = make_model("qwen2_vl", processor)
        set_focus_attention(model)
        enable_checkpointing(model)
        results.append(accumulate_gradients(add_adapters(model, rank=2), [batch], config, ALL_LAYERS))
    assert results[1] == pytest.approx(results[0], rel=1e-3)


def test_the_logits_of_all_tokens_are_never_there(processor: VLMProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a vocabulary as wide as those of hub models they are most of what a step would hold."""
    model = make_model("qwen2_vl", processor, vocab_size=VOCABULARY, num_hidden_layers=1)
    set_focus_attention(model)
    batch = make_batch(processor, (1,) * 24)
    num_tokens = batch.prompts.input_ids.numel() + batch.answer_ids.numel()
    assert num_tokens > 12 * 256
    monkeypatch.setattr(sft_step, "LOGITS_PER_CHUNK", 256 * VOCABULARY)
    with LiveTensors(model.parameters()) as live:
        accumulate_gradients(model, [batch], SFTConfig(labels="full", beta=0.0), ALL_LAYERS)
    gradients = sum(4 * parameter.numel() for parameter in model.parameters())
    assert live.peak - gradients < 4 * num_tokens * VOCABULARY, "not even once, where the plain way has them four times"
