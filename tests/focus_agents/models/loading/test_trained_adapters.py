"""Going on with an adapter, and what is saved of one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from focus_agents.errors import CheckpointError
from focus_agents.models.adapters import (
    add_adapters,
    base_model,
    has_adapters,
    keep_reference,
    merge_adapters,
    reference_adapter,
)
from focus_agents.models.loading import (
    check_form,
    check_model,
    has_frozen_vision,
    load_model,
    load_processor,
    load_template,
    load_trainable_model,
    weights_digest,
)
from focus_agents.models.processing import VLMProcessor
from focus_agents.runs.checkpoint import save_policy
from focus_env.prompts import get_template
from tests.focus_agents.models.loading.adapters import (
    ADAPTER_WEIGHTS,
    load_base,
    logits,
    write_adapter,
)


class TestTraining:
    """Going on with an adapter."""

    def test_the_adapter_is_what_is_trained(self, published: Path, base: Path) -> None:
        model = load_trainable_model(str(published), precision="bf16", freeze_vision=True)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        stored = load_file(published / ADAPTER_WEIGHTS)
        assert len(trained) == sum("visual" not in name for name in stored) < len(stored)
        assert all(".lora_" in name and p.dtype == torch.float32 for name, p in trained.items())
        assert next(p for n, p in model.named_parameters() if "base_layer" in n).dtype == torch.bfloat16
        assert has_frozen_vision(model)
        assert model.training

    def test_of_a_tower_too(self, base: Path, tmp_path: Path) -> None:
        folder = write_adapter(
            tmp_path / "adapter", load_base(base), str(base), target_modules=r".*visual.*(qkv|proj)|.*q_proj"
        )
        assert has_frozen_vision(load_trainable_model(str(folder), freeze_vision=True))
        assert not has_frozen_vision(load_trainable_model(str(folder)))

    def test_new_adapters_on_an_old_one(self, published: Path, base: Path, processor: VLMProcessor) -> None:
        model = load_trainable_model(str(published), lora_rank=2)
        expected = logits(load_model(str(published)), processor)
        assert (expected - logits(load_base(base), processor)).abs().max() > 0.01
        torch.testing.assert_close(logits(model, processor), expected, rtol=1e-3, atol=1e-3)
        with model.disable_adapter():
            torch.testing.assert_close(logits(model, processor), expected, rtol=1e-3, atol=1e-3)

    def test_the_reference_stays_what_it_was(self, published: Path, processor: VLMProcessor) -> None:
        model = load_trainable_model(str(published), freeze_vision=True)
        started = logits(model, processor)
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        keep_reference(model)
        assert {name for name, p in model.named_parameters() if p.requires_grad} == trained
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1)
        changed = logits(model, processor)
        assert (changed - started).abs().max() > 0.01
        with reference_adapter(model):
            assert torch.equal(logits(model, processor), started)
        assert torch.equal(logits(model, processor), changed)
        assert {name for name, p in model.named_parameters() if p.requires_grad} == trained


class TestSaving:
    """What lies in checkpoints/final."""

    @pytest.mark.parametrize("form", ["adapter", "merged", "both"])
    def test_forms(self, form: Any, base: Path, tmp_path: Path, processor: VLMProcessor) -> None:
        model = load_trainable_model(str(base), lora_rank=2, precision="fp32")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, 0.2, generator=torch.Generator().manual_seed(0))
        expected = logits(model, processor)
        assert (expected - logits(load_base(base), processor)).abs().max() > 0.01
        template = get_template("compact")
        final = save_policy(tmp_path / "final", model, processor, template=template, form=form)
        assert (final / "model.safetensors").is_file() == (form != "adapter")
        texts = {"adapter": [str(final)], "merged": [str(final)], "both": [str(final), f"{final}:adapter"]}[form]
        for text in texts:
            torch.testing.assert_close(logits(load_model(text), processor), expected, rtol=1e-3, atol=1e-3)
            assert load_template(text).name == "compact"
        if form != "merged":
            folder = final if form == "adapter" else final / "adapter"
            peft = PeftModel.from_pretrained(load_base(base), str(folder))
            torch.testing.assert_close(logits(peft, processor), expected, rtol=0, atol=0)
            told = json.loads((folder / "focus.json").read_text())["base"]
            assert told == {"model": str(base), "weights": weights_digest(str(base))}

    def test_the_base_has_changed_since(self, base: Path, tmp_path: Path, processor: VLMProcessor) -> None:
        own = shutil.copytree(base, tmp_path / "own")
        model = load_trainable_model(str(own), lora_rank=2)
        final = save_policy(tmp_path / "final", model, processor, form="adapter")
        check_model(str(final))
        weights = load_file(own / "model.safetensors")
        weights[next(iter(weights))].view(-1)[0] += 1
        save_file(weights, own / "model.safetensors", metadata={"format": "pt"})
        for load in (check_model, load_model):
            with pytest.raises(CheckpointError, match=r"the weights of its base .*own are others than those it was"):
                load(str(final))

    def test_another_base_than_the_one_that_peft_names(self, adapter: Path, base: Path, tmp_path: Path) -> None:
        """Of the same shapes, while the base that the adapter names is there."""
        other = shutil.copytree(base, tmp_path / "other")
        assert has_adapters(load_model(f"{adapter} on {other}"))
        weights = load_file(other / "model.safetensors")
        weights[next(iter(weights))].view(-1)[0] += 1
        save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
        for load in (check_model, load_model):
            with pytest.raises(CheckpointError, match=r"the weights of its base .*other are others than those it was"):
                load(f"{adapter} on {other}")

    @pytest.mark.parametrize(
        ("model", "rank", "message"),
        [
            ("tiny", 4, "save: expected merged, got adapter: the weights of tiny are made anew"),
            ("focus-small-sft", None, "without `lora_rank` all weights are trained"),
            ("{adapter}", 4, "new adapters lie on .* merged"),
        ],
    )
    def test_what_cannot_be_saved(self, model: str, rank: int | None, message: str, published: Path) -> None:
        with pytest.raises(ValueError, match=message):
            check_form("adapter", model.format(adapter=published), lora_rank=rank)
        check_form("merged", model.format(adapter=published), lora_rank=rank)
        check_form("both", str(published), lora_rank=None)

    def test_a_base_of_the_package_goes_by_its_name(self, tmp_path: Path) -> None:
        model = load_trainable_model("focus-small", lora_rank=2)
        folder = save_policy(tmp_path / "final", model, load_processor("focus-small"), form="adapter")
        assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "focus-small-grpo"
        assert has_adapters(load_model(str(folder)))
        assert base_model(load_model(str(folder))).config.model_type == "qwen3_vl"


def test_adapters_can_be_added_after_a_merger(published: Path) -> None:
    assert has_adapters(add_adapters(merge_adapters(load_model(str(published))), rank=2))
