"""Prompts of a given length, and the large model's shape."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Qwen2VLForConditionalGeneration

from benchmarks.step import setup as step_setup
from benchmarks.step.setup import Setup, Size, build_processor, large_config
from benchmarks.step.sides import reward_texts, sample, take_step
from focus_agents.models.loading import load_processor
from tests.benchmarks.small import SIZE

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("num_tokens", "side"), [(124, 2), (128, 2), (148, 2), (149, 3), (512, 9), (1024, 13), (2048, 19)]
)
def test_a_prompt_is_as_long_as_asked_and_holds_five_pictures(num_tokens: int, side: int) -> None:
    setup = Setup.build(Size(num_tokens, 2, 4), num_prompts=2)
    one, other = setup.encode()
    assert len(one.input_ids) == len(other.input_ids) == num_tokens
    assert one.grids.tolist() == [[side, side]] * 5
    assert (one.input_ids == setup.processor.image_token_id).sum() == 5 * side**2
    assert (one.images["pixel_values"] != other.images["pixel_values"]).any()


def test_the_large_model_has_the_shape_of_qwen2_vl_7b() -> None:
    config = large_config(load_processor("tiny").tokenizer)
    with torch.device("meta"):
        model = Qwen2VLForConditionalGeneration(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 8_291_375_616
    assert model.model.language_model.layers[0].self_attn.head_dim == 128
    assert build_processor(config).image_processor.patch_size == 14


def test_the_large_model_trains_adapters_on_frozen_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its shape shrunk; its tokens are more than the tokenizer knows, and its answers' texts are all the same."""
    shape = large_config

    def shrunk(tokenizer: Any) -> Any:
        config = shape(tokenizer)
        text, vision = config.text_config, config.vision_config
        text.hidden_size = vision.hidden_size = 256
        text.num_hidden_layers, text.vocab_size, text.intermediate_size = 2, 2**16, 64
        text.num_attention_heads, text.num_key_value_heads = 2, 1
        vision.depth, vision.embed_dim, vision.num_heads = 1, 32, 2
        return config

    monkeypatch.setattr(step_setup, "large_config", shrunk)
    setup = Setup.build(SIZE, model_name="7b", num_prompts=2)
    assert {parameter.dtype for parameter in setup.model.parameters() if not parameter.requires_grad} == {
        torch.bfloat16
    }
    adapters = {id(parameter) for name, parameter in setup.model.named_parameters() if "lora_" in name}
    assert {id(parameter) for parameter in setup.trained} == adapters
    rewards = reward_texts(setup, sample(setup, setup.collate(setup.encode())))
    assert (rewards == rewards[0, 0]).mean() > 0.5
    before = [parameter.clone() for parameter in setup.trained]
    take_step(setup, num_silent=1, skips_silent=True)
    assert any((old != new).any() for old, new in zip(before, setup.trained, strict=True))
