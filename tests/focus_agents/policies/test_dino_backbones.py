"""Features of small random backbones for `dino_match`, and folders that cannot be loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BitImageProcessor,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
)

from focus_agents.errors import CheckpointError
from focus_agents.models.loading import load_vision_model
from focus_agents.policies.dino_match import BackboneFeatures, DinoMatcher, grid_wh
from focus_agents.policies.localizers import LocalizerPolicy
from focus_agents.policies.registry import PolicySpec
from focus_agents.rollout.records import Sampling
from focus_env.env import observe
from focus_env.prompts import get_template
from tests.fakes import make_episode

RNG = np.random.default_rng(0)


SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28}
BACKBONES: dict[str, tuple[Any, Any]] = {
    "dinov2": (Dinov2Model, Dinov2Config(**SIZES, patch_size=14)),
    "dinov2_with_registers": (
        Dinov2WithRegistersModel,
        Dinov2WithRegistersConfig(**SIZES, patch_size=14, num_register_tokens=3),
    ),
    "dinov3_vit": (
        DINOv3ViTModel,
        DINOv3ViTConfig(**SIZES, patch_size=16, intermediate_size=32, num_register_tokens=4),
    ),
}
PROCESSOR = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}


def save_backbone(folder: Path, name: str = "dinov2") -> Path:
    model_class, config = BACKBONES[name]
    torch.manual_seed(0)
    model_class(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("dinov2"))


class TestBackbones:
    @pytest.mark.parametrize("name", BACKBONES)
    def test_cells_are_the_last_tokens_row_by_row(self, name: str, tmp_path: Path) -> None:
        matcher = DinoMatcher.from_pretrained(str(save_backbone(tmp_path, name)))
        features = matcher.features
        assert isinstance(features, BackboneFeatures)
        features.num_patches = 12
        model, patch = features.model, BACKBONES[name][1].patch_size
        assert not model.training
        image = RNG.integers(256, size=(3 * patch, 4 * patch, 3), dtype=np.uint8)
        found = features(image)
        assert found.shape == (3, 4, 16)
        assert found.dtype == np.float32
        normalised = (image / 255 - np.array([0.4, 0.5, 0.6])) / np.array([0.2, 0.3, 0.4])
        inputs = torch.tensor(normalised, dtype=torch.float32).permute(2, 0, 1)[None]
        with torch.no_grad():
            tokens = model(pixel_values=inputs).last_hidden_state[0, -12:]
        np.testing.assert_allclose(found.reshape(12, 16), tokens.numpy(), atol=1e-5)

    @pytest.mark.parametrize("name", BACKBONES)
    @pytest.mark.parametrize("image_wh", [(1, 1), (7, 300), (300, 7), (61, 47)])
    def test_pictures_of_any_size(self, name: str, image_wh: tuple[int, int]) -> None:
        model_class, config = BACKBONES[name]
        features = BackboneFeatures(model_class(config).eval(), mean=(0.5,) * 3, std=(0.5,) * 3, num_patches=30)
        image = RNG.integers(256, size=(image_wh[1], image_wh[0], 3), dtype=np.uint8)
        columns, rows = grid_wh(image_wh, 30)
        assert features(image).shape == (rows, columns, 16)

    def test_settings_saved_by_an_image_processor(self, folder: Path, tmp_path: Path) -> None:
        save_backbone(tmp_path)
        BitImageProcessor(**PROCESSOR).save_pretrained(tmp_path)
        features = DinoMatcher.from_pretrained(str(tmp_path)).features
        assert isinstance(features, BackboneFeatures)
        np.testing.assert_allclose(features.mean, [0.4, 0.5, 0.6])
        np.testing.assert_allclose(features.std, [0.2, 0.3, 0.4])

    def test_by_name_it_answers_a_prompt(self, folder: Path) -> None:
        policy = PolicySpec(text=f"dino_match:{folder}").build()
        assert isinstance(policy, LocalizerPolicy)
        template = get_template("default")
        prompt = template.render(observe(make_episode(1)))
        (generation,) = policy.generate([prompt], num_completions=2, sampling=Sampling(), seeds=[0])
        boxes = [template.parse(completion.text, (80, 60)).box for completion in generation.completions]
        assert boxes[0] is not None
        assert boxes[0] == boxes[1]


class TestFoldersThatCannotBeLoaded:
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("./nowhere", "model './nowhere': there is no such folder; expected a folder with its weights"),
            ("nowhere", "there is no such folder"),
            ("someone/nothing-of-this-name", "or a hub name .with HF_HUB_OFFLINE=1: one that was downloaded before."),
            ("focus-small", "expected one of type dinov2 or dinov2_with_registers or dinov3_vit, got qwen"),
        ],
    )
    def test_wrong_names(self, name: str, message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            DinoMatcher.from_pretrained(name)

    def test_no_settings_of_an_image_processor(self, tmp_path: Path) -> None:
        save_backbone(tmp_path)
        (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0, 0, 0]}')
        with pytest.raises(CheckpointError, match=r"expected preprocessor_config.json with image_std"):
            DinoMatcher.from_pretrained(str(tmp_path))
        (tmp_path / "preprocessor_config.json").unlink()
        with pytest.raises(CheckpointError, match="could not be loaded"):
            DinoMatcher.from_pretrained(str(tmp_path))

    def test_a_cut_file(self, tmp_path: Path) -> None:
        save_backbone(tmp_path)
        weights = tmp_path / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(CheckpointError, match="could not be loaded"):
            DinoMatcher.from_pretrained(str(tmp_path))

    def test_weights_that_are_missing(self, tmp_path: Path) -> None:
        save_backbone(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
        with pytest.raises(CheckpointError, match=r"weights are missing, e.g. .*layer.2"):
            DinoMatcher.from_pretrained(str(tmp_path))

    def test_pickled_weights(self, tmp_path: Path) -> None:
        save_backbone(tmp_path)
        (tmp_path / "model.safetensors").unlink()
        torch.save(Dinov2Model(BACKBONES["dinov2"][1]).state_dict(), tmp_path / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match="could not be loaded"):
            DinoMatcher.from_pretrained(str(tmp_path))


def test_models_compute_without_gradients(folder: Path) -> None:
    model = load_vision_model(Dinov2Model, str(folder), model_types=("dinov2",))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
