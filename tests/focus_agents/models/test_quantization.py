"""Bases in 4 bits: what is held in them, what stays whole, and where they are refused."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from focus_agents.models.adapters import add_adapters, is_quantized, merge_adapters
from focus_agents.models.budget import held
from focus_agents.models.loading import check_form, load_model, load_processor, load_trainable_model, whole
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.quantization import bytes_in_4_bits, check_quantization, whole_modules
from focus_agents.models.settings import FinetuningSettings
from focus_agents.models.shape import shape_of
from focus_agents.runs.checkpoint import save_policy
from focus_env.errors import MissingDependencyError
from tests.focus_agents.models.families import FAMILIES, make_batch, make_model, model_inputs
from tests.focus_agents.models.hub_models import qwen2_vl_7b

IS_INSTALLED = importlib.util.find_spec("bitsandbytes") is not None


@pytest.fixture
def folder(model: Any, processor: VLMProcessor, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tower_and_the_head_stay_whole(processor: VLMProcessor, family: str) -> None:
    assert whole_modules(make_model(family, processor).config) == ["model.visual", "lm_head"]


def test_it_is_refused_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    check_quantization("none", has_adapters=False)
    with pytest.raises(ValueError, match="quantization: expected none where all parameters are trained, got '4bit'"):
        load_trainable_model("tiny", quantization="4bit")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r'run: pip install "focus-localization\[quantized\]"'):
        check_quantization("4bit", has_adapters=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingDependencyError, match="needs a GPU, and torch sees no CUDA device"):
        load_trainable_model("tiny", quantization="4bit", lora_rank=2)
    with pytest.raises(ValueError, match="quantization: expected none for tiny, whose weights are new"):
        load_model("tiny", quantization="4bit")


@pytest.mark.parametrize("form", ["merged", "both"])
def test_nothing_is_merged_into_it(form: Any, folder: Path) -> None:
    check_form("adapter", str(folder), lora_rank=2, quantization="4bit")
    with pytest.raises(ValueError, match=f"save: expected adapter with quantization '4bit', got '{form}'"):
        check_form(form, str(folder), lora_rank=2, quantization="4bit")
    adapted = add_adapters(load_model(folder), rank=2)
    adapted.get_base_model().config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(ValueError, match="expected a base in whole weights to merge them into, got a quantized one"):
        merge_adapters(adapted)


@pytest.mark.skipif(not IS_INSTALLED, reason="no bitsandbytes")
def test_adapters_are_trained_on_it_and_load_over_the_whole_base(
    folder: Path, processor: VLMProcessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By bitsandbytes itself, which computes on a CPU, too; only the look for a GPU is left out."""
    import bitsandbytes

    monkeypatch.setattr(whole, "check_quantization", lambda *args, **options: None)
    model = load_trainable_model(str(folder), quantization="4bit", lora_rank=2, precision="bf16")
    assert is_quantized(model)
    kinds = {
        name: isinstance(module, bitsandbytes.nn.Linear4bit)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "lora" not in name
    }
    assert {name for name, is_narrow in kinds.items() if is_narrow} == {n for n in kinds if ".language_model." in n}
    assert any(kinds.values())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    inputs = model_inputs(make_batch(processor))
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(2):
            logprobs = model(**inputs).logits.float().log_softmax(-1)
            (-logprobs[..., 5].mean()).backward()
            optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name in trained if "lora_B" in name} <= changed <= trained.keys()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in trained.values())
    with pytest.raises(ValueError, match="got a quantized one"):
        merge_adapters(model)
    saved = save_policy(tmp_path / "saved", model, load_processor(folder), form="adapter")
    whole_model = load_model(saved)
    assert not is_quantized(whole_model)
    names = dict(whole_model.named_parameters())
    for name, parameter in trained.items():
        torch.testing.assert_close(names[name], parameter)
    assert not is_quantized(merge_adapters(whole_model))


class TestCount:
    """Bytes by hand."""

    def test_a_weight(self) -> None:
        """Its numbers, a scale for 64 of them, a scale for 256 scales and their mean, and two tables of levels."""
        assert bytes_in_4_bits(3584 * 512) == 917_504 + 28_672 + 4 * 112 + 4 + 64 + 1024
        assert bytes_in_4_bits(65) == 33 + 2 + 4 + 4 + 64 + 1024

    def test_qwen2_vl_7b(self) -> None:
        """The four projections of attention and the three of the MLP in each of 28 layers; all else has 2 bytes."""
        shape = qwen2_vl_7b()
        attention, key, mlp = 3584 * 3584, 3584 * 512, 3584 * 18944
        sizes = 28 * [attention, attention, key, key, mlp, mlp, mlp]
        assert sorted(shape.linear_weights) == sorted(sizes)
        others = 8_291_375_616 - sum(sizes)
        norms_and_biases = 28 * (2 * 3584 + 3584 + 2 * 512) + 3584
        assert others == shape.vision_parameters + 2 * 152_064 * 3584 + norms_and_biases  # and embeddings, head
        settings = FinetuningSettings(lora_rank=8, precision="bf16", quantization="4bit")
        memory = held(shape, settings)
        adapters = 20_185_088 * (4 + 2)  # wide, and narrow under autocast
        assert memory["unpacked"] == 2 * mlp
        assert memory["weights"] == 2 * others + sum(bytes_in_4_bits(size) for size in sizes) + adapters
        per_number = (memory["weights"] - adapters - 2 * others) / sum(sizes)
        assert per_number == pytest.approx(0.5 + 1 / 64 + 4 / 64 / 256, abs=1e-4)
        whole = held(shape, replace(settings, quantization="none"))
        assert whole == {"weights": 2 * 8_291_375_616 + adapters}

    @pytest.mark.parametrize("family", [*FAMILIES, "qwen3_vl_moe"])
    def test_which_layers(self, processor: VLMProcessor, family: str) -> None:
        model = make_model(family, processor)
        kept = tuple(f"{name}." for name in whole_modules(model.config))
        expected = [
            module.weight.numel()
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and not f"{name}.".startswith(kept)
        ]
        assert list(shape_of(model.config).linear_weights) == expected != []

    @pytest.mark.skipif(not IS_INSTALLED, reason="no bitsandbytes")
    def test_bitsandbytes_holds_as_much(self) -> None:
        from bitsandbytes.functional import quantize_4bit

        for numbers in (64, 4096, 3584 * 64):
            packed, state = quantize_4bit(torch.randn(numbers // 64, 64), quant_type="nf4", compress_statistics=True)
            parts = [packed, state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
            assert sum(part.nbytes for part in parts) == bytes_in_4_bits(numbers)
