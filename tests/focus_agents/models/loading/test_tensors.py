"""Weights whose tensors are not those of the model that config.json describes are refused by their files' headers."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from focus_agents.errors import CheckpointError
from focus_agents.models.loading import check_model, load_model
from focus_agents.runs.checkpoint import save_policy
from tests.focus_agents.models.cases import Case

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def change_config(folder: Path, part: str, **fields: Any) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config[part] |= fields
    config["text_config"].pop("layer_types", None)
    for named in ("fullatt_block_indexes", "deepstack_visual_indexes"):  # of layers, which are refused by themselves
        if config["vision_config"].get(named) and fields.get("depth") == 1:
            config["vision_config"][named] = [0]
    file.write_text(json.dumps(config))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def first(tensors: dict[str, torch.Tensor], part: str) -> str:
    return next(name for name in tensors if part in name)


def save(case: Case, folder: Path) -> Path:
    return save_policy(folder, case.model, case.processor)


def test_fewer_layers_than_the_weights_have_in_all_families(case: Case, tmp_path: Path) -> None:
    whole = save(case, tmp_path / "whole")
    check_model(str(whole))
    for part in ("text_config", "vision_config"):
        folder = Path(shutil.copytree(whole, tmp_path / part))
        held = json.loads((folder / "config.json").read_text())[part]
        field = "depth" if "depth" in held else "num_hidden_layers"
        change_config(folder, part, **{field: 1})
        with pytest.raises(CheckpointError, match=rf"config.json: {part}.{field}: expected {held[field]}, .* got 1; "):
            check_model(str(folder))


@pytest.mark.parametrize("part", ["text_config", "vision_config"])
def test_fewer_layers_are_seen_as_weights_are_loaded_too(part: str, copied: Callable[[str], Path]) -> None:
    folder = copied("qwen2_5_vl")
    change_config(folder, part, **{"depth" if part == "vision_config" else "num_hidden_layers": 1})
    with pytest.raises(CheckpointError, match=rf"config.json: {part}\.\w+: expected \d, .*, got 1; take"):
        load_model(str(folder))


def test_one_layer_more_than_the_weights_have(copied: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied("qwen2_5_vl")
    change_config(folder, "vision_config", depth=3)
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", None)
    with pytest.raises(CheckpointError, match=r"\d+ weights are missing, e.g. model.visual.blocks.2."):
        check_model(str(folder))


def narrow(tensors: dict[str, torch.Tensor]) -> None:
    tensors[first(tensors, "q_proj.weight")] = torch.zeros(32, 64)


def other_experts(tensors: dict[str, torch.Tensor]) -> None:
    tensors[first(tensors, "experts")] = torch.zeros(2, 2)


SHAPES: dict[str, tuple[str, Callable[[dict[str, torch.Tensor]], object], str]] = {
    "of a projection": (
        "qwen2_5_vl",
        narrow,
        r"model.safetensors: model\S+q_proj.weight: expected a tensor of shape \[64, 64\], .*, got \[32, 64\]; take",
    ),
    "of a projection under another name": (
        "gemma3",
        narrow,
        r"model.safetensors: \S+q_proj.weight: expected a tensor of shape \[\d+, \d+\], .*, got \[32, 64\]; take",
    ),
    "of experts": ("qwen3_vl_moe", other_experts, r"model.safetensors.*experts.*\[2, 2\].*; take config.json and the"),
    "a tensor is missing": (
        "qwen2_5_vl",
        lambda tensors: tensors.pop(first(tensors, "q_proj.weight")),
        "1 weights are missing, e.g. model.language_model.layers.0.self_attn.q_proj.weight",
    ),
}


@pytest.mark.parametrize("what", SHAPES)
def test_a_tensor_is_named_with_its_file_and_shapes(
    what: str, copied: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model_type, change, message = SHAPES[what]
    folder = copied(model_type)
    change_weights(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load_model(str(folder))
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", None)
    with pytest.raises(CheckpointError, match=message):
        check_model(str(folder))


def test_a_tensor_that_no_module_takes_is_none_of_a_layer(copied: Callable[[str], Path]) -> None:
    folder = copied("qwen2_5_vl")
    change_weights(folder, lambda tensors: tensors.update({"mtp.layers.7.weight": torch.zeros(2)}))
    check_model(str(folder))
    assert load_model(str(folder)).unused_tensors == ["mtp.layers.7.weight"]


def write_shards(folder: Path) -> dict[str, torch.Tensor]:
    """Divide the weights into two files beside the one."""
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    files = {name: SHARDS[index % 2] for index, name in enumerate(names)}
    for shard in SHARDS:
        save_file({name: tensors[name] for name in names if files[name] == shard}, folder / shard, {"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return tensors


def test_one_file_beside_an_index_is_the_file_that_is_read(copied: Callable[[str], Path]) -> None:
    folder = copied("qwen2_5_vl")
    write_shards(folder)
    (folder / SHARDS[1]).unlink()
    check_model(str(folder))
    load_model(str(folder))
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])
    for load in (check_model, load_model):
        with pytest.raises(CheckpointError, match=r"model.safetensors is cut off at"):
            load(str(folder))


def test_shards_without_the_one_file(copied: Callable[[str], Path]) -> None:
    folder = copied("qwen2_5_vl")
    tensors = write_shards(folder)
    (folder / WEIGHTS).unlink()
    check_model(str(folder))
    lost = sorted(tensors)[1]  # in the second shard
    half = load_file(folder / SHARDS[1])
    half.pop(lost)
    save_file(half, folder / SHARDS[1], metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 weights are missing, e.g. "):
        check_model(str(folder))


def test_a_refusal_names_one_tensor_and_lists_none(
    copied: Callable[[str], Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What transformers tells of all tensors is logged of models alone that are loaded."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    caplog.set_level(logging.WARNING, "transformers")  # commands quiet it
    folder = copied("qwen2_5_vl")
    change_weights(folder, lambda tensors: tensors.update({"more.weight": torch.zeros(2)}))
    load_model(str(folder))
    assert "more.weight" in caplog.text
    caplog.clear()
    change_weights(folder, narrow)
    with pytest.raises(CheckpointError, match=rf"^model '{folder}' could not be loaded: {WEIGHTS}: model\S+q_proj"):
        load_model(str(folder))
    assert "q_proj" not in caplog.text
