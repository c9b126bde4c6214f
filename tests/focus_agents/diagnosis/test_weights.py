"""Weights that load and are none, or not all: the doctor says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from focus_agents.diagnosis.examination import Request, examine
from focus_agents.diagnosis.findings import Section, Verdict
from focus_agents.diagnosis.weights import check_weights
from focus_agents.models.adapters import add_adapters
from focus_agents.models.loading import load_model, load_trainable_model
from focus_agents.models.processing import VLMProcessor
from focus_agents.runs.checkpoint import save_policy
from tests.fakes import FakeDataset

WEIGHTS = "model.safetensors"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory, processor: VLMProcessor, model: Any) -> Path:
    return save_policy(tmp_path_factory.mktemp("weights") / "policy", model, processor)


@pytest.fixture
def folder(policy: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(policy, tmp_path / "policy"))


def change(folder: Path, changed: Callable[[Tensors], Tensors]) -> None:
    save_file(changed(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})


def found(folder: Path) -> Section:
    section = Section("model", "the model")
    check_weights(section, load_model(str(folder)), str(folder))
    return section


def test_good_weights_are_not_spoken_of(folder: Path) -> None:
    assert found(folder).notes == []


def test_zeros_throughout_are_a_fault_of_the_whole_examination(folder: Path) -> None:
    change(folder, lambda tensors: {name: torch.zeros_like(values) for name, values in tensors.items()})
    report = examine(
        Request(model=str(folder), load_episodes=lambda: FakeDataset(1), measures_step=False, max_completion_tokens=2)
    )
    assert report.exit_status == 1
    assert "matrices of its weights hold one number throughout" in report.sentence
    assert "such files stand in for weights" in report.sentence


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_one_flat_matrix_is_a_warning(value: float, folder: Path) -> None:
    def flatten(tensors: Tensors) -> Tensors:
        name = next(name for name in tensors if name.endswith("q_proj.weight"))
        return tensors | {name: torch.full_like(tensors[name], value)}

    change(folder, flatten)
    section = found(folder)
    assert section.verdict is Verdict.WARNING
    assert "1 of " in section.notes[0].text
    assert f"q_proj.weight {value:g}; compare" in section.notes[0].text


def test_tensors_that_nothing_takes(folder: Path) -> None:
    change(folder, lambda tensors: tensors | {"model.visual.second_tower.weight": torch.ones(2, 2)})
    section = found(folder)
    assert section.verdict is Verdict.WARNING
    assert "takes 1 of the tensors in its files, e.g. model.visual.second_tower.weight" in section.notes[0].text


@pytest.mark.parametrize(("has_scales", "verdict"), [(False, Verdict.WARNING), (True, Verdict.FAULT)])
def test_eight_bits_without_quantization(has_scales: bool, verdict: Verdict, folder: Path) -> None:
    def narrow(tensors: Tensors) -> Tensors:
        name = next(name for name in tensors if name.endswith("q_proj.weight"))
        scales = {f"{name}_scale_inv": torch.ones(1)} if has_scales else {}
        return tensors | {name: tensors[name].to(torch.float8_e4m3fn)} | scales

    change(folder, narrow)
    section = found(folder)
    assert section.verdict is verdict
    assert "have 8 bits or less (1 in F8_E4M3), and config.json names no quantization_config" in section.notes[-1].text


def test_numbers_that_are_none_are_a_fault(folder: Path) -> None:
    change(folder, lambda tensors: {name: torch.full_like(values, torch.nan) for name, values in tensors.items()})
    report = examine(Request(model=str(folder), load_episodes=lambda: FakeDataset(1), measures_step=False))
    assert report.exit_status == 1
    assert "weights hold numbers that are not finite" in report.sentence


def test_weights_and_an_adapter_in_one_folder(folder: Path) -> None:
    load_trainable_model(str(folder), lora_rank=2).save_pretrained(str(folder))
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "someone/else"}))
    texts = " ".join(found(folder).of(Verdict.WARNING))
    assert "holds whole weights and an adapter, whose own base is 'someone/else'" in texts
    assert "the adapter is put onto these weights" in texts
    assert "its adapter changes nothing" in texts  # new ones do not


def test_new_adapters_are_no_weights_of_the_files(folder: Path) -> None:
    section = Section("model", "the model")
    check_weights(section, add_adapters(load_model(str(folder)), rank=2, alpha=None, seed=0), str(folder))
    assert section.notes == []
