"""Models by name or folder, and what is said about folders that hold no whole model."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from focus_agents.engine.forward import prefill
from focus_agents.errors import CheckpointError
from focus_agents.models.inputs import EncodedPrompt
from focus_agents.models.loading import (
    SHIPPED_MODELS,
    load_config,
    load_model,
    load_processor,
    load_trainable_model,
    model_folder,
    weights_digest,
)
from focus_agents.models.loading import (
    WEIGHTS as SHIPPED_WEIGHTS,
)
from focus_agents.models.processing import VLMProcessor
from focus_agents.runs.checkpoint import save_policy
from focus_env.env import observe
from focus_env.prompts import get_template
from tests.fakes import make_episode

WEIGHTS = "model.safetensors"
LOADERS = [load_model, load_processor]
BUILT_IN = "focus-small, focus-small-grpo, focus-small-sft and 7 more \\(docs/models.md\\)"


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


def set_weights(value: float, dtype: torch.dtype = torch.float32) -> Callable[[Path], None]:
    """One number of one weight, or another type of all numbers of it."""

    def change(weights: dict[str, torch.Tensor]) -> None:
        name = next(n for n in weights if n.endswith("q_proj.weight"))
        weights[name][1, 2] = value
        weights[name] = weights[name].to(dtype)

    return lambda folder: change_weights(folder, change)


def shard_with_nan(folder: Path) -> None:
    """Two files with an index, the second of which holds an infinite number."""
    weights = load_file(folder / WEIGHTS)
    names = sorted(weights)
    weights[names[-1]].view(-1)[0] = float("-inf")
    parts = {"model-00001-of-00002.safetensors": names[:-1], "model-00002-of-00002.safetensors": names[-1:]}
    for file, own in parts.items():
        save_file({name: weights[name] for name in own}, folder / file, metadata={"format": "pt"})
    (folder / WEIGHTS).unlink()
    index = {"metadata": {}, "weight_map": {name: file for file, own in parts.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def pickle_weights(folder: Path) -> None:
    """Where older releases of transformers kept weights, and any object can be."""
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Path()}))


def few_words(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (config.get("text_config") or config)["vocab_size"] = 10
    (folder / "config.json").write_text(json.dumps(config))


def add_adapter_with_nan(folder: Path) -> None:
    model = load_trainable_model(str(folder), lora_rank=2)
    model.save_pretrained(str(folder))
    weights = load_file(folder / "adapter_model.safetensors")
    next(iter(weights.values()))[0, 0] = float("nan")
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})


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
        np.testing.assert_array_equal(*(p.encode(messages).images["pixel_values"] for p in (twin, processor)))
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
            pytest.param(set_weights(float("nan")), load_model, id="nan in a weight"),
            pytest.param(set_weights(float("inf")), load_model, id="an infinite weight"),
            pytest.param(set_weights(float("nan"), torch.float16), load_model, id="nan in half precision"),
            pytest.param(set_weights(0, torch.int8), load_model, id="a weight in int8"),
            pytest.param(shard_with_nan, load_model, id="an infinite weight in a shard"),
            pytest.param(pickle_weights, load_model, id="pickled weights"),
            pytest.param(lambda f: (f / "config.json").write_text("[]"), load_model, id="a list as config"),
            pytest.param(few_words, load_model, id="a vocabulary of ten"),
            pytest.param(add_adapter_with_nan, load_model, id="nan in an adapter"),
            pytest.param(lambda f: (f / "tokenizer.json").write_text("[]"), load_processor, id="a list as tokenizer"),
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
        with pytest.raises(CheckpointError, match=r"model '.*damaged' could not be loaded: (?!expected one of)"):
            loader(str(folder))


class TestNames:
    """Names that are neither a folder nor known."""

    @pytest.mark.parametrize(
        "name",
        [
            "/no/such/folder",
            "~/no/such",
            "./no",
            "../no/such",
            "a/b/c",
            "no-such-name",
            "TINY",
            "tiny ",
            "my models/nope",
            "a/b.git",
            "-x/y",
            "a/b--c",
        ],
    )
    @pytest.mark.parametrize("loader", LOADERS)
    def test_what_looks_like_a_path_is_not_asked_of_the_hub(
        self, name: str, loader: Callable[[str], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        message = rf"model '{name}': there is no such folder; expected one of {BUILT_IN}, a folder with a saved "
        with pytest.raises(CheckpointError, match=message):
            loader(name)

    def test_a_file_is_no_folder(self, saved: Path) -> None:
        with pytest.raises(
            CheckpointError, match=rf"config\.json': there is no such folder; expected one of {BUILT_IN}, a folder"
        ):
            load_model(str(saved / "config.json"))

    @pytest.mark.parametrize("loader", LOADERS)
    def test_a_hub_name_without_a_network(self, loader: Callable[[str], object]) -> None:
        with pytest.raises(
            CheckpointError,
            match=rf"'nobody/no-such-model' could not be loaded: .* not downloaded .*; expected one of {BUILT_IN}",
        ):
            loader("nobody/no-such-model")

    @pytest.mark.parametrize("limit", [3, 0, -1])
    def test_too_few_image_tokens_are_refused(self, limit: int) -> None:
        with pytest.raises(ValueError, match=f"max_image_tokens: expected at least 4, got {limit}"):
            load_processor("tiny", max_image_tokens=limit)

    @pytest.mark.parametrize("name", ["tiny", "small"])
    def test_models_that_are_built_here(self, name: str) -> None:
        model, processor = load_model(name, seed=2), load_processor(name)
        assert model.config.to_dict() == load_config(name).to_dict()
        assert processor.image_token_id == model.config.image_token_id
        other = load_model(name, seed=3)
        assert not torch.equal(model.lm_head.weight, other.lm_head.weight)


class TestFolderOfAModel:
    """Where a model lies."""

    @pytest.mark.parametrize("name", SHIPPED_MODELS)
    def test_shipped_models_lie_with_the_package(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A folder of the same name beside the caller does not stand in for them."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / name).mkdir()
        assert model_folder(name) == str(SHIPPED_WEIGHTS / name)

    def test_folders_and_names(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "mine/final").mkdir(parents=True)
        (tmp_path / "file").touch()
        assert model_folder("mine/final") == "mine/final"
        assert model_folder("~/mine") == str(tmp_path / "mine")
        for name in ("tiny", "Qwen/Qwen2-VL-7B-Instruct", "no/such", "~/other", "file"):
            assert model_folder(name) == name


def test_weights_are_known_by_what_all_their_files_hold(tmp_path: Path) -> None:
    (tmp_path / "b.safetensors").write_bytes(b"wei")
    (tmp_path / "c.safetensors").write_bytes(b"ghts")
    assert weights_digest(str(tmp_path)) == hashlib.sha256(b"weights").hexdigest()
    (tmp_path / "c.safetensors").rename(tmp_path / "a.safetensors")
    assert weights_digest(str(tmp_path)) == hashlib.sha256(b"ghtswei").hexdigest()
    assert weights_digest("focus-small") == weights_digest("focus-small-grpo") != weights_digest("focus-small-sft")
    assert weights_digest("tiny") is weights_digest("somebody/somewhere") is None


class TestTrainableModels:
    """What is trained."""

    @pytest.mark.parametrize("name", ["tiny", "small"])
    def test_a_frozen_tower(self, name: str) -> None:
        frozen = {
            n for n, p in load_trainable_model(name, freeze_vision=True).named_parameters() if not p.requires_grad
        }
        whole = load_trainable_model(name)
        assert frozen == {n for n, _ in whole.named_parameters() if ".visual." in n} != set()
        assert all(parameter.requires_grad for parameter in whole.parameters())
