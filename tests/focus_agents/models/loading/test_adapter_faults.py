"""Settings of adapters that PEFT takes as they are are refused by name, and its own errors are told as they are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from focus_agents.errors import CheckpointError
from focus_agents.models.adapters import has_adapters
from focus_agents.models.loading import check_form, check_model, load_model, load_trainable_model
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.weights import is_finite
from focus_agents.policies.vllm.weights import engine_files
from focus_agents.runs import export
from focus_agents.runs.checkpoint import save_policy
from tests.focus_agents.models.loading.adapters import (
    ADAPTER_WEIGHTS,
    change_settings,
    load_base,
    logits,
    write_adapter,
)

BY_NAME: tuple[tuple[str, Any, str], ...] = (
    ("bias", "x", "none, all or lora_only"),
    ("bias", 3, "none, all or lora_only"),
    ("bias", ["all"], "none, all or lora_only"),
    ("lora_dropout", 2, "a share from 0 to 1"),
    ("lora_dropout", -1, "a share from 0 to 1"),
    ("lora_dropout", "x", "a share from 0 to 1"),
    ("lora_dropout", True, "a share from 0 to 1"),
    ("init_lora_weights", 3, "true, false or a name"),
    ("layer_replication", [3], "pairs of whole numbers from 0"),
    ("layer_replication", "x", "pairs of whole numbers from 0"),
    ("use_rslora", "false", "true or false"),
    ("use_rslora", 1, "true or false"),
    ("use_dora", "no", "true or false"),
    ("use_qalora", 0, "true or false"),
    ("lora_bias", "false", "true or false"),
    ("fan_in_fan_out", "x", "true or false"),
    ("ensure_weight_tying", [], "true or false"),
    ("lora_alpha", 1e300, "at most 1,000,000"),
    ("lora_alpha", -2e6, "at most 1,000,000"),
    ("alpha_pattern", {"q_proj": 1e30}, "at most 1,000,000"),
    ("r", 10**9, "at most 65,536"),
    ("rank_pattern", {"q_proj": 10**9}, "at most 65,536"),
    ("runtime_config", 3, "an object"),
    ("loftq_config", 3, "an object"),
    ("megatron_config", "x", "an object"),
    ("eva_config", [], "an object"),
    ("auto_mapping", 1, "an object"),
    ("target_parameters", "x", "a list of names"),
    ("target_parameters", [1], "a list of names"),
    ("trainable_token_indices", "x", "whole numbers from 0, or lists of them by module"),
    ("trainable_token_indices", [-1], "whole numbers from 0, or lists of them by module"),
    ("trainable_token_indices", {"embed_tokens": 3}, "whole numbers from 0, or lists of them by module"),
    ("qalora_group_size", 0, "a whole number from 1"),
    ("revision", 5, "a text"),
    ("alora_invocation_tokens", [5], "null"),
    ("alora_invocation_tokens", [], "null"),
    ("arrow_config", {"x": 1}, "null"),
    ("monteclora_config", {}, "null"),
)
BY_PEFT: tuple[tuple[dict[str, Any], str], ...] = (
    ({"init_lora_weights": "nonsense"}, "nonsense"),
    ({"layer_replication": [[0, 2], [1, 3]]}, "Could not locate the layers"),
    ({"target_modules": []}, "No `target_modules`"),
    ({"exclude_modules": ".*"}, "excluded"),
    ({"target_modules": ".*"}, "Target module Qwen2_5_VL"),
)


@pytest.fixture
def weights_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", None)


@pytest.mark.usefixtures("weights_are_not_read")
@pytest.mark.parametrize(("name", "value", "expected"), BY_NAME, ids=str)
def test_a_setting_is_refused_by_its_name(name: str, value: Any, expected: str, adapter: Path) -> None:
    change_settings(adapter, **{name: value})
    with pytest.raises(CheckpointError, match=f"adapter_config.json: expected {expected} for {name}, got ") as told:
        check_model(str(adapter))
    assert "another base" not in str(told.value)


@pytest.mark.usefixtures("weights_are_not_read")
@pytest.mark.parametrize(("settings", "told"), BY_PEFT, ids=str)
def test_errors_of_peft_are_told_as_they_are(settings: dict[str, Any], told: str, adapter: Path) -> None:
    change_settings(adapter, **settings)
    with pytest.raises(CheckpointError, match=rf"PEFT cannot make it from its adapter_config.json: \w+Error: .*{told}"):
        check_model(str(adapter))


@pytest.mark.usefixtures("weights_are_not_read")
@pytest.mark.parametrize("settings", [{"trainable_token_indices": [10**6]}, {"modules_to_save": ["merger"]}], ids=str)
def test_tensors_that_the_settings_alone_name(settings: dict[str, Any], adapter: Path) -> None:
    change_settings(adapter, **settings)
    with pytest.raises(CheckpointError, match=r"tensors are missing in .* that its adapter_config.json names"):
        check_model(str(adapter))


@pytest.mark.usefixtures("weights_are_not_read")
@pytest.mark.parametrize("settings", [{"r": 8}, {"r": 2}, {"rank_pattern": {"q_proj": 2}}], ids=str)
def test_ranks_that_are_not_those_of_the_tensors(settings: dict[str, Any], adapter: Path) -> None:
    change_settings(adapter, **settings)
    with pytest.raises(CheckpointError, match=r"r or rank_pattern gives rank \d to .*_proj, whose tensors have rank 4"):
        check_model(str(adapter))


@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": None, "lora_dropout": None, "bias": None, "init_lora_weights": None},
        {"runtime_config": {"ephemeral_gpu_offload": False}, "loftq_config": {}, "megatron_config": None},
        {"lora_dropout": 1, "layer_replication": None, "alora_invocation_tokens": None, "nonsense": 1},
    ],
    ids=["null", "objects", "ends"],
)
def test_settings_that_change_nothing(
    settings: dict[str, Any], adapter: Path, published: Path, processor: VLMProcessor
) -> None:
    change_settings(adapter, **settings)
    check_model(str(adapter))
    assert torch.equal(logits(load_model(str(adapter)), processor), logits(load_model(str(published)), processor))


@pytest.mark.parametrize("kind", ["all", "lora_only"])
def test_biases_that_are_missing(kind: str, base: Path, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter", load_base(base), str(base), bias=kind)
    stored = load_file(folder / ADAPTER_WEIGHTS)
    biases = [name for name in stored if name.endswith(".bias")]
    check_model(str(folder))
    if kind == "lora_only" and not biases:
        return  # this release of PEFT saves none of those
    save_file({name: stored[name] for name in stored if name not in biases[:2]}, folder / ADAPTER_WEIGHTS)
    for load in (check_model, load_model):
        with pytest.raises(CheckpointError, match=r"2 of its tensors are missing in .*e\.g\. .*bias"):
            load(str(folder))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_an_adapter_in_8_bits(dtype: torch.dtype, adapter: Path, tmp_path: Path, processor: VLMProcessor) -> None:
    """It is the adapter of its rounded numbers."""
    wide = Path(shutil.copytree(adapter, tmp_path / "wide"))
    narrow = {name: values.to(dtype) for name, values in load_file(adapter / ADAPTER_WEIGHTS).items()}
    save_file(narrow, adapter / ADAPTER_WEIGHTS)
    save_file({name: values.float() for name, values in narrow.items()}, wide / ADAPTER_WEIGHTS)
    check_model(str(adapter))
    assert torch.equal(logits(load_model(str(adapter)), processor), logits(load_model(str(wide)), processor))
    next(iter(narrow.values())).view(torch.uint8)[0] = 0x7F  # not a number in both
    save_file(narrow, adapter / ADAPTER_WEIGHTS)
    with pytest.raises(CheckpointError, match="holds numbers that are not finite"):
        load_model(str(adapter))


def test_numbers_in_8_bits_are_looked_at() -> None:
    assert is_finite(torch.ones(3).to(torch.float8_e4m3fn))
    assert not is_finite(torch.tensor([float("inf")]).to(torch.float8_e5m2))


def test_biases_that_the_base_has_not_cannot_be_merged(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processor: VLMProcessor
) -> None:
    some = write_adapter(tmp_path / "some", load_base(base), str(base), lora_bias=True)
    message = r"since its tensors add biases \(lora_bias\) to modules of the base that have none, e\.g\. .*_proj"
    assert torch.isfinite(logits(load_model(str(some)), processor)).all()
    check_form("adapter", str(some), lora_rank=None)
    for form in ("merged", "both"):
        with pytest.raises(CheckpointError, match=message):
            check_form(form, str(some), lora_rank=None)
    fine = write_adapter(tmp_path / "fine", load_base(base), str(base), lora_bias=True, target_modules=["q_proj"])
    export.export_policy(str(fine), tmp_path / "merged")
    expected = logits(load_model(str(fine)), processor)
    torch.testing.assert_close(logits(load_model(str(tmp_path / "merged")), processor), expected, rtol=1e-3, atol=1e-3)
    export.export_policy(str(some), tmp_path / "alone", form="adapter")
    monkeypatch.setattr(export, "load_model", None)  # nothing is read
    with pytest.raises(CheckpointError, match=message):
        export.export_policy(str(some), tmp_path / "exported")
    with pytest.raises(CheckpointError, match=rf"{message}.* train on it without `lora_rank`"):
        load_trainable_model(str(some), lora_rank=2)
    for unmergeable in (load_model(str(some)), load_trainable_model(str(some))):
        with pytest.raises(ValueError, match=r"they add biases \(lora_bias\) to modules .*, e\.g\. model\S+_proj"):
            save_policy(tmp_path / "final", unmergeable, processor)
    assert not (tmp_path / "final").exists()
    with pytest.raises(CheckpointError, match=message):
        engine_files(str(some), tmp_path / "vllm", is_whole=True)
    with pytest.raises(CheckpointError, match="biases or whole modules, which vLLM does not load"):
        engine_files(str(fine), tmp_path / "vllm")
    assert has_adapters(load_trainable_model(str(fine), lora_rank=2))


@pytest.mark.parametrize("targets", [["embed_tokens", "q_proj"], ["lm_head", "q_proj"]])
def test_one_of_two_weights_that_are_one_cannot_be_merged(
    targets: list[str], saved: Callable[[str], Path], tmp_path: Path, processor: VLMProcessor
) -> None:
    """Merging would change the other as well, and the model with it."""
    tied = saved("gemma3")
    folder = write_adapter(tmp_path / "adapter", load_base(tied), str(tied), target_modules=targets)
    message = r"change the embedding of tokens or the head, which are one weight in the base \(tie_word_embeddings\)"
    with pytest.raises(CheckpointError, match=message):
        export.export_policy(str(folder), tmp_path / "exported")
    with pytest.raises(CheckpointError, match=message):
        load_trainable_model(str(folder), lora_rank=2)
    with pytest.raises(ValueError, match=message):
        save_policy(tmp_path / "final", load_trainable_model(str(folder)), processor)
    assert export.export_policy(str(folder), tmp_path / "alone", form="adapter").is_dir()
    fine = write_adapter(tmp_path / "fine", load_base(tied), str(tied), modules_to_save=["lm_head"])
    assert export.export_policy(str(fine), tmp_path / "merged").is_dir()
