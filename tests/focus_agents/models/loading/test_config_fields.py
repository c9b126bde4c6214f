"""Fields of config.json that a model can be made of, and that would break or bend its first forward pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from focus_agents.engine.forward import prefill
from focus_agents.errors import CheckpointError
from focus_agents.models.loading import check_model, load_model
from focus_agents.models.processing import VLMProcessor
from tests.focus_agents.models.families import make_batch, picture_inputs

TYPES = ["qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "gemma3", "internvl", "llava_onevision"]


def change(folder: Path, path: str, value: Any) -> None:
    file = folder / "config.json"
    settings = json.loads(file.read_text())
    *parts, name = path.split(".")
    holder = settings
    for part in parts:
        holder = holder[part]
    holder[name] = value
    file.write_text(json.dumps(settings))


BAD: list[tuple[str, str, Any]] = [
    ("qwen2_5_vl", "vision_config.window_size", 0),
    ("qwen2_5_vl", "vision_config.window_size", 1),
    ("qwen2_5_vl", "vision_config.window_size", 7),
    ("qwen2_5_vl", "vision_config.fullatt_block_indexes", [99]),
    ("qwen2_5_vl", "vision_config.fullatt_block_indexes", [-1]),
    ("qwen2_5_vl", "vision_config.fullatt_block_indexes", []),
    ("qwen3_vl", "vision_config.deepstack_visual_indexes", [0, 99]),
    ("qwen3_vl", "vision_config.deepstack_visual_indexes", [0, 0]),
    ("qwen3_vl_moe", "text_config.num_experts_per_tok", 0),
    ("qwen3_vl_moe", "text_config.num_experts_per_tok", 99),
    ("qwen2_5_vl", "return_dict", False),
    ("qwen2_5_vl", "text_config.rope_parameters", None),
    ("gemma3", "mm_tokens_per_image", 5),
    ("gemma3", "mm_tokens_per_image", 9),
    ("gemma3", "mm_tokens_per_image", 10_000),
    ("gemma3", "text_config.sliding_window", 0),
    ("gemma3", "text_config.sliding_window", -3),
    ("gemma3", "text_config.query_pre_attn_scalar", -1),
    ("internvl", "vision_feature_layer", 0),
    ("internvl", "vision_feature_layer", 99),
    ("internvl", "vision_feature_select_strategy", "full"),
    ("llava_onevision", "vision_feature_layer", 99),
    ("llava_onevision", "vision_feature_layer", [-1, -99]),
    ("llava_onevision", "vision_feature_select_strategy", "default"),
]


@pytest.mark.parametrize(("model_type", "path", "value"), BAD)
def test_a_field_out_of_its_range(model_type: str, path: str, value: Any, copied: Callable[[str], Path]) -> None:
    folder = copied(model_type)
    change(folder, path, value)
    with pytest.raises(CheckpointError, match=rf"config.json: {path}: expected .*, got .*; take the model's own"):
        check_model(str(folder))


def test_sliding_layers_without_a_window(copied: Callable[[str], Path]) -> None:
    folder = copied("qwen2_5_vl")
    change(folder, "text_config.layer_types", ["sliding_attention"] * 3)
    with pytest.raises(
        CheckpointError, match=r"text_config.sliding_window: expected .* as layer_types has it, got None"
    ):
        check_model(str(folder))


@pytest.mark.parametrize("model_type", TYPES)
def test_good_fields_pass(model_type: str, copied: Callable[[str], Path]) -> None:
    check_model(str(copied(model_type)))


def answers(model: Any, processor: VLMProcessor) -> tuple[torch.Tensor, torch.Tensor]:
    """The hidden states behind prompts as this package computes them, and as transformers alone does."""
    prompts = make_batch(processor).prompts
    inputs = {"input_ids": prompts.input_ids, "attention_mask": prompts.attention_mask, **picture_inputs(prompts, 0)}
    with torch.no_grad():
        return prefill(model, prompts).hidden, model.model(**inputs, use_cache=False).last_hidden_state[:, -1]


@pytest.mark.parametrize(
    ("model_type", "fields", "is_another"),
    [
        ("qwen3_vl", {"vision_config.deepstack_visual_indexes": [1, 0]}, True),
        ("qwen2_5_vl", {"text_config.sliding_window": None, "text_config.use_sliding_window": True}, False),
        ("qwen2_5_vl", {"text_config.sliding_window": 4096, "text_config.use_sliding_window": False}, False),
    ],
)
def test_odd_fields_that_count_as_in_transformers(
    model_type: str,
    fields: dict[str, Any],
    is_another: bool,
    copied: Callable[[str], Path],
    saved: Callable[[str], Path],
) -> None:
    """Layers out of order are taken by their place in the list, and without a width there is no window."""
    folder = copied(model_type)
    for path, value in fields.items():
        change(folder, path, value)
    if model_type == "qwen2_5_vl":
        change(folder, "text_config.layer_types", None)
        change(folder, "text_config.max_window_layers", 1)
    processor = check_model(str(folder))
    ours, theirs = answers(load_model(str(folder)).eval(), processor)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    plain, _ = answers(load_model(str(saved(model_type))).eval(), processor)
    assert torch.allclose(ours, plain, atol=1e-5) != is_another
