"""The type that an export's weights are in, and what else plain transformers needs to load one."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from focus_agents.cli import export
from focus_agents.errors import CheckpointError
from focus_agents.models.adapters import merge_adapters
from focus_agents.models.loading import load_model, load_processor
from focus_agents.models.processing import VLMProcessor
from focus_agents.runs.checkpoint import save_policy
from focus_agents.runs.export import export_policy, video_processor, written_types
from tests.focus_agents.models.cases import MODEL_TYPES, make_case
from tests.focus_agents.models.families import make_model
from tests.focus_agents.models.loading.adapters import write_adapter


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, processor: VLMProcessor) -> Path:
    """In bfloat16, as published models are."""
    model = make_model("qwen2_5_vl", processor).to(torch.bfloat16)
    return save_policy(tmp_path_factory.mktemp("bases") / "base", model, processor)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """In float32, as adapters are trained."""
    return write_adapter(tmp_path_factory.mktemp("adapters") / "adapter", load_model(str(base)), str(base))


def types_in(config: Mapping[str, Any]) -> Iterator[str]:
    for name, value in config.items():
        if name in ("dtype", "torch_dtype"):
            yield value
        elif isinstance(value, dict):
            yield from types_in(value)


def check_types(folder: Path, expected: str) -> Any:
    """See that all of a folder, and what transformers loads of it, is of one type; returns that model."""
    assert written_types(folder) == [expected]
    assert set(types_in(json.loads((folder / "config.json").read_text()))) == {expected}
    for options in ({}, {"dtype": "auto"}):
        loaded = AutoModelForImageTextToText.from_pretrained(folder, **options)
        assert {str(parameter.dtype) for parameter in loaded.parameters()} == {f"torch.{expected}"}
    return loaded


def test_an_adapter_is_not_rounded_to_its_base(adapter: Path, tmp_path: Path) -> None:
    folder = export_policy(str(adapter), tmp_path / "exported")
    merged = merge_adapters(load_model(str(adapter))).state_dict()
    loaded = check_types(folder, "float32").state_dict()
    assert all(torch.equal(values, loaded[name]) for name, values in merged.items())
    assert any(not torch.equal(values, values.bfloat16().float()) for values in merged.values())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_type_that_is_asked_for(dtype: Any, adapter: Path, base: Path, tmp_path: Path) -> None:
    for name, model in (("adapter", adapter), ("base", base)):
        check_types(export_policy(str(model), tmp_path / name, dtype=dtype), dtype)


def test_whole_weights_stay_as_they_are(base: Path, tmp_path: Path) -> None:
    check_types(export_policy(str(base), tmp_path / "exported"), "bfloat16")


def test_the_finest_of_several_types(base: Path, tmp_path: Path) -> None:
    export_policy(str(base), tmp_path / "mixed")
    file = tmp_path / "mixed/model.safetensors"
    tensors = load_file(file)
    name = min(tensors)
    tensors[name] = tensors[name].float() + 1e-6
    save_file(tensors, file, metadata={"format": "pt"})
    loaded = check_types(export_policy(str(tmp_path / "mixed"), tmp_path / "exported"), "float32")
    assert torch.equal(load_file(tmp_path / "exported/model.safetensors")[name], tensors[name])
    assert loaded.config.model_type == "qwen2_5_vl"


@pytest.mark.parametrize(
    ("words", "shown", "is_noted"),
    [
        ([], "MiB, merged, float32; share it", True),
        (["--dtype", "bfloat16"], "MiB, merged, bfloat16; share it", False),
        (["--form", "adapter"], "MiB, adapter, float32; share it", False),
    ],
)
def test_the_command_says_the_type(
    words: list[str],
    shown: str,
    is_noted: bool,
    adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["focus export", "--model", str(adapter), "--to", str(tmp_path / "x"), *words])
    export.main()
    out = capsys.readouterr().out
    assert shown in out
    assert ("--dtype bfloat16 takes half the room" in out) == is_noted
    assert ("takes this for a Qwen2_5_VLProcessor" in out) == ("adapter" not in words)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is there")
@pytest.mark.parametrize("model_type", [name for name in MODEL_TYPES if name != "llava"])
def test_which_processors_want_torchvision(model_type: str, tmp_path: Path, processor: VLMProcessor) -> None:
    case = make_case(model_type, processor)
    save_policy(tmp_path, case.model, case.processor)
    AutoTokenizer.from_pretrained(tmp_path)
    AutoImageProcessor.from_pretrained(tmp_path)
    told = ""
    try:
        AutoProcessor.from_pretrained(tmp_path)
    except Exception as error:  # some want tokens that our tokenizer lacks
        told = str(error).lower()
    assert (video_processor(tmp_path) is not None) == ("torchvision" in told)


def test_where_a_tokenizer_was_read_from_is_nobody_s_business(base: Path, tmp_path: Path) -> None:
    file = tmp_path / "exported/tokenizer_config.json"
    for model in (base, tmp_path / "exported"):
        processor = load_processor(str(model))
        assert "is_local" in processor.tokenizer.init_kwargs  # as transformers notes it
        export_policy(str(model), tmp_path / "again")
        export_policy(str(tmp_path / "again"), tmp_path / "exported")
        assert not {"is_local", "local_files_only", "name_or_path"} & set(json.loads(file.read_text()))


def test_whole_weights_that_have_their_adapter_beside_them_name_it(adapter: Path, tmp_path: Path) -> None:
    whole = export_policy(str(adapter), tmp_path / "whole")
    with pytest.raises(CheckpointError, match="got whole weights; export them as merged"):
        export_policy(str(whole), tmp_path / "again", form="adapter")
    shutil.copytree(adapter, whole / "adapter")
    with pytest.raises(CheckpointError, match=r"got whole weights; name .*whole/adapter, which is the adapter"):
        export_policy(str(whole), tmp_path / "again", form="adapter")
