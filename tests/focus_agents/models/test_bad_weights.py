"""Weights that load and are no numbers to compute with are found, wherever the files lie."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from focus_agents.models import weights
from focus_agents.models.weights import bad_weights, files_folder, is_finite


def linear(value: float = 1.0, **config: Any) -> Any:
    model: Any = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(model.weight, value)
    model.config = SimpleNamespace(**config)
    return model


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite(value: float, tmp_path: Path) -> None:
    assert "1 of 2 weights hold numbers that are not finite, e.g. weight" in str(bad_weights(linear(value), tmp_path))


@pytest.mark.parametrize("place", ["folder", "hub"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool])
def test_whole_numbers_in_the_files(
    dtype: torch.dtype, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"layer.weight": torch.ones(2, 2).to(dtype)}, tmp_path / "model.safetensors")
    name = str(tmp_path) if place == "folder" else "owner/model"
    monkeypatch.setattr(weights, "cached_file", lambda *_, **__: str(tmp_path / "config.json"))
    assert "whole numbers, and config.json names no quantization" in str(bad_weights(linear(), files_folder(name)))
    assert bad_weights(linear(quantization_config={}), files_folder(name)) is None
    save_file({"layer.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    assert bad_weights(linear(), files_folder(name)) is None


def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(*_: Any, **__: Any) -> str:
        raise OSError("no cache")

    monkeypatch.setattr(weights, "cached_file", raises)
    assert not files_folder("owner/model").is_dir()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (torch.tensor([1.0, 2.0]), True),
        (torch.tensor([1, 2]), True),
        (torch.tensor([1.0, float("nan")]), False),
        (torch.tensor([float("inf")], dtype=torch.bfloat16), False),
        (np.array([1.0]), True),
        (np.array([np.nan]), False),
        (np.array([1]), True),
        (3, True),
        (None, True),
    ],
)
def test_arrays_of_any_library(values: Any, expected: bool) -> None:
    assert is_finite(values) is expected
