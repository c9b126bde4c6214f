"""Models by name or folder, and what is said about folders that hold no whole model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from focus_agents.checkpoint import save_policy
from focus_agents.generation import prefill
from focus_agents.models.loading import load_model, load_processor
from focus_agents.processing import EncodedPrompt, VLMProcessor
from focus_env.env import observe
from focus_env.errors import CheckpointError
from focus_env.prompts import get_template
from tests.fakes import make_episode

WEIGHTS = "model.safetensors"
LOADERS = [load_model, load_processor]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, model: Any, processor: VLMProcessor) -> Path:
    return save_policy(tmp_path_factory.mktemp("loading") / "policy", model, processor)


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def drop_a_weight(folder: Path) -> None:
    def drop(weights: dict[str, torch.Tensor]) -> None:
        del weights[next(n for n in weights if n.endswith("q_proj.weight"))]

    change_weights(folder, drop)


def cut_a_weight(folder: Path) -> None:
    def cut(weights: dict[str, torch.Tensor]) -> None:
        name = next(n for n in weights if n.endswith("q_proj.weight"))
        weights[name] = weights[name][:4].clone()

    change_weights(folder, cut)


class TestFolders:
    """What `save_policy` wrote, whole and damaged."""

    def test_a_saved_policy_comes_back(
        self, saved: Path, model: Any, processor: VLMProcessor, prompts: list[EncodedPrompt]
    ) -> None:
        loaded, twin = load_model(str(saved)).eval(), load_processor(str(saved))
        batch = processor.collate(prompts)
        with torch.no_grad():
            torch.testing.assert_close(prefill(loaded, batch).hidden, prefill(model, batch).hidden, rtol=0, atol=0)
        messages = get_template("default").render(observe(make_episode()))
        np.testing.assert_array_equal(twin.encode(messages).input_ids, processor.encode(messages).input_ids)
        np.testing.assert_array_equal(twin.encode(messages).pixel_values, processor.encode(messages).pixel_values)
        assert twin.encode_answer("[1, 2]") == processor.encode_answer("[1, 2]")
        assert twin.banned_token_ids == processor.banned_token_ids

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    @pytest.mark.parametrize("is_folder", [False, True])
    def test_dtype(self, saved: Path, dtype: torch.dtype, is_folder: bool) -> None:
        loaded = load_model(str(saved) if is_folder else "tiny", dtype=dtype)
        assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}

    @pytest.mark.parametrize(
        ("damage", "loader"),
        [
            pytest.param(lambda f: [p.unlink() for p in f.iterdir()], load_model, id="empty, model"),
            pytest.param(lambda f: [p.unlink() for p in f.iterdir()], load_processor, id="empty, processor"),
            pytest.param(lambda f: (f / WEIGHTS).unlink(), load_model, id="no weights"),
            pytest.param(
                lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:5000]), load_model, id="cut weights"
            ),
            pytest.param(lambda f: (f / WEIGHTS).write_bytes(b"no model"), load_model, id="no weights inside"),
            pytest.param(drop_a_weight, load_model, id="a weight is missing"),
            pytest.param(cut_a_weight, load_model, id="a weight has another shape"),
            pytest.param(lambda f: (f / "config.json").unlink(), load_model, id="no config"),
            pytest.param(lambda f: (f / "config.json").write_text("{"), load_model, id="broken config"),
            pytest.param(
                lambda f: (f / "config.json").write_text(json.dumps({"model_type": "qwen2"})),
                load_model,
                id="a model without eyes",
            ),
            pytest.param(
                lambda f: (f / "config.json").write_text(json.dumps({"model_type": "no such type"})),
                load_model,
                id="unknown model",
            ),
            pytest.param(lambda f: (f / "tokenizer.json").unlink(), load_processor, id="no tokenizer"),
            pytest.param(lambda f: (f / "tokenizer.json").write_text("{}"), load_processor, id="empty tokenizer"),
            pytest.param(lambda f: (f / "preprocessor_config.json").unlink(), load_processor, id="no image processor"),
        ],
    )
    def test_a_damaged_folder_is_named(
        self, saved: Path, tmp_path: Path, damage: Callable[[Path], object], loader: Callable[[str], object]
    ) -> None:
        folder = tmp_path / "damaged"
        shutil.copytree(saved, folder)
        damage(folder)
        with pytest.raises(CheckpointError, match=r"model '.*damaged' could not be loaded; expected 'tiny', a saved"):
            loader(str(folder))


class TestNames:
    """Names that are neither a folder nor known."""

    @pytest.mark.parametrize(
        "name", ["/no/such/folder", "~/no/such", "./no", "../no/such", "a/b/c", "no-such-name", "TINY", "tiny "]
    )
    @pytest.mark.parametrize("loader", LOADERS)
    def test_what_looks_like_a_path_is_not_asked_of_the_hub(
        self, name: str, loader: Callable[[str], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        message = (
            rf"model '{name}': expected 'tiny', a folder with a saved model, or a hub name such as .*no such folder"
        )
        with pytest.raises(CheckpointError, match=message):
            loader(name)

    def test_a_file_is_no_folder(self, saved: Path) -> None:
        with pytest.raises(CheckpointError, match=r"config\.json': expected 'tiny', a folder with a saved model"):
            load_model(str(saved / "config.json"))

    @pytest.mark.parametrize("loader", LOADERS)
    def test_a_hub_name_without_a_network(self, loader: Callable[[str], object]) -> None:
        with pytest.raises(CheckpointError, match="model 'nobody/no-such-model' could not be loaded; expected 'tiny'"):
            loader("nobody/no-such-model")

    @pytest.mark.parametrize("limit", [3, 0, -1])
    def test_too_few_image_tokens_are_refused(self, limit: int) -> None:
        with pytest.raises(ValueError, match=f"max_image_tokens: expected at least 4, got {limit}"):
            load_processor("tiny", max_image_tokens=limit)
