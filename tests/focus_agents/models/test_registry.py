"""Model families by model type."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from focus_agents.errors import CheckpointError
from focus_agents.integrations.trl import trl_processor
from focus_agents.models import registry
from focus_agents.models.family import ModelFamily
from focus_agents.models.loading import load_family, load_model, load_processor, load_template
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.qwen import QWEN2_5_VL, QWEN2_VL, QWEN3_VL
from focus_env.boxes import CoordinateFrame
from focus_env.prompts import get_template
from tests.focus_agents.models import llava_family
from tests.packages import install_package

KNOWN = (
    "qwen2_vl, qwen2_5_vl, qwen3_vl, qwen3_vl_moe, qwen3_5, qwen3_5_moe, internvl, llava_onevision, glm4v, smolvlm, "
    "gemma3, paligemma"
)


class TestRegistry:
    """Families by model type."""

    @pytest.fixture(autouse=True)
    def registered(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, ModelFamily]:
        """What `register` is given by a test; nothing at first."""
        registered: dict[str, ModelFamily] = {}
        monkeypatch.setattr(registry, "_registered", registered)
        return registered

    def test_qwens(self) -> None:
        expected = {"qwen2_vl": QWEN2_VL, "qwen2_5_vl": QWEN2_5_VL, "qwen3_vl": QWEN3_VL, "qwen3_vl_moe": QWEN3_VL}
        assert {name: registry.find_family(name) for name in expected} == expected
        assert "- qwen3_vl: models of type qwen3_vl, qwen3_vl_moe" in registry.FAMILIES.help()

    @pytest.mark.parametrize("load", [load_model, load_processor, load_template, load_family])
    def test_an_unknown_model_type_is_refused(self, load: Callable[[str], Any], tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "idefics3"}')
        with pytest.raises(CheckpointError) as caught:
            load(str(tmp_path))
        message = str(caught.value)
        assert message.startswith(f"model {str(tmp_path)!r} could not be loaded: it ")
        assert message.endswith(
            f": model type 'idefics3': expected {KNOWN}; add a family by the "
            "entry-point group 'focus_agents.families' of a package, or with focus_agents.models.registry.register"
        )

    def test_what_is_told_needs_no_family(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "idefics3"}')
        assert load_template(str(tmp_path), frame=CoordinateFrame.NORM_1000) == get_template("default")

    def test_a_family_that_is_registered(self, registered: dict[str, ModelFamily]) -> None:
        registry.register(llava_family.LLAVA)
        registry.register(dataclasses.replace(llava_family.LLAVA))
        assert registry.find_family("llava") == llava_family.LLAVA
        greedy = dataclasses.replace(llava_family.LLAVA, name="greedy", model_types=("greedy", "qwen3_vl_moe"))
        message = "model family 'greedy': expected model types without .* 'qwen3_vl_moe', which belongs to 'qwen3_vl';"
        with pytest.raises(ValueError, match=message):
            registry.register(greedy)
        assert list(registered) == ["llava"]

    def test_a_family_of_another_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        entries = {
            "llava": "tests.focus_agents.models.llava_family:LLAVA",
            "torn": "tests.focus_agents.models.llava_family:TORN",
            "kind": "tests.focus_agents.models.llava_family:LlavaFamily",
        }
        install_package(monkeypatch, tmp_path, "my-families", registry.ENTRY_POINT_GROUP, entries)
        assert registry.find_family("llava") is llava_family.LLAVA
        assert registry.find_family("qwen2_vl") is QWEN2_VL
        with pytest.raises(CheckpointError) as caught:
            registry.find_family("idefics3")
        for part in (
            f"expected {KNOWN}, llava; ",
            "model family 'torn' of my-families 1.0 cannot be used: importing",
            "model family 'kind' of my-families 1.0 cannot be used: expected a ModelFamily, got ABCMeta",
        ):
            assert part in str(caught.value)

    def test_no_processor_for_other_trainers(self, processor: VLMProcessor) -> None:
        other = VLMProcessor(processor.tokenizer, llava_family.build_image_processor(), llava_family.LLAVA)
        with pytest.raises(NotImplementedError, match="model family 'llava': expected a processor of transformers"):
            trl_processor(other)
