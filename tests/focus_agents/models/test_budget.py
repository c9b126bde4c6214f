"""The count of memory and work: formulas against what the package's own code allocates, and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from focus_agents.models import budget
from focus_agents.models.adapters import add_adapters
from focus_agents.models.budget import PromptSize
from focus_agents.models.inputs import EncodedPrompt
from focus_agents.models.loading import load_config, load_model
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.settings import FinetuningSettings, Precision
from focus_agents.models.shape import ModelShape, shape_of
from tests.focus_agents.models.counted import answering_peak, learning_peak, narrow_model, vision_peak
from tests.focus_agents.models.families import make_model
from tests.focus_agents.models.hub_models import hub_prompt, qwen2_vl_7b

NARROW: dict[str, Any] = {"hidden": 64, "intermediate": 320, "heads": 4, "kv": 2}
WIDE: dict[str, Any] = {"hidden": 128, "intermediate": 384, "heads": 8, "kv": 4}
TOLERANCE = 0.1


class TestShape:
    """Sizes from a configuration, without weights."""

    def test_qwen2_vl_7b(self) -> None:
        shape = qwen2_vl_7b()
        assert (shape.num_layers, shape.hidden, shape.intermediate) == (28, 3584, 18944)
        assert (shape.query_width, shape.key_value_width, shape.vocabulary, shape.context) == (3584, 512, 152064, 32768)
        assert (shape.vision_layers, shape.vision_width, shape.vision_intermediate) == (32, 1280, 5120)
        assert shape.values_per_patch == 3 * 2 * 14 * 14
        assert shape.parameters == 8_291_375_616  # of the hub's files
        assert 8 * shape.adapter_width == 20_185_088  # the paper's adapters of rank 8

    @pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"])
    def test_parameters_are_those_of_the_model(self, processor: VLMProcessor, family: str) -> None:
        model = make_model(family, processor)
        shape = shape_of(model.config)
        assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
        assert shape.vision_parameters == sum(p.numel() for p in model.model.visual.parameters())
        adapted = add_adapters(model, rank=3)
        assert 3 * shape.adapter_width == sum(p.numel() for p in adapted.parameters() if p.requires_grad)

    @pytest.mark.parametrize("name", ["tiny", "small", "focus-small"])
    def test_models_by_name(self, name: str) -> None:
        shape = shape_of(load_config(name))
        assert shape.parameters == sum(parameter.numel() for parameter in load_model(name).parameters())


class TestPrompts:
    """How large a prompt is."""

    @pytest.mark.parametrize(
        ("image_wh", "limit", "visual"),
        [
            ((1280, 720), 352, 5 * 350),
            ((1280, 720), 2938, 5 * 1196),
            ((1280, 720), None, 5 * 1196),
            ((1920, 1080), 352, 5 * 350),
            ((1920, 1080), 2938, 5 * 2691),
        ],
    )
    def test_those_of_the_paper(self, image_wh: tuple[int, int], limit: int | None, visual: int) -> None:
        prompt = hub_prompt(image_wh, 4, limit)
        assert (prompt.visual_tokens, prompt.num_pictures, prompt.patches) == (visual, 5, 4 * visual)
        assert prompt.pixel_bytes == 4 * 4 * visual * 1176
        assert prompt.tokens > visual

    def test_in_words(self) -> None:
        prompt = PromptSize(tokens=2002, visual_tokens=1750, num_pictures=5, patches=7000, pixel_bytes=0)
        assert prompt.describe() == "2,002 tokens, 1,750 of them 5 pictures"

    def test_one_whose_pictures_are_features(self) -> None:
        prompt = EncodedPrompt(np.array([1, 7, 7, 2]), np.array([[1, 2]]), {}, (torch.zeros(2, 4),))
        assert PromptSize.of(prompt, qwen2_vl_7b(), image_token_id=7).patches == 0


def sizes_of(processor: VLMProcessor, layers: int, sizes: dict[str, Any]) -> ModelShape:
    return shape_of(narrow_model(processor, layers=layers, **sizes).config)


class TestAgainstAllocations:
    """Formulas against tensors that live while the package's own code runs."""

    @pytest.mark.parametrize("is_checkpointed", [False, True], ids=["kept", "checkpointed"])
    @pytest.mark.parametrize(("precision", "sizes"), [("bf16", WIDE), ("fp32", NARROW)], ids=["bf16", "fp32"])
    @pytest.mark.parametrize("rank", [8, None], ids=["adapters", "whole"])
    def test_learning(
        self,
        processor: VLMProcessor,
        rank: int | None,
        precision: Precision,
        is_checkpointed: bool,
        sizes: dict[str, Any],
    ) -> None:
        settings = FinetuningSettings(lora_rank=rank, precision=precision, gradient_checkpointing=is_checkpointed)
        # So many that what is kept between layers is more than the gradients of their weights: the most is then at the
        # start of the backward pass, and not at its end.
        tokens = (2060, 2160) if rank is None and is_checkpointed else (1030, 1130)
        peaks = [learning_peak(processor, settings, num_tokens=n, layers=3, **sizes) for n in tokens]
        shape = sizes_of(processor, 3, sizes)
        expected = [
            budget.learning(shape, settings, tokens=n, scored_tokens=2, patches=0)["activations"] for n in tokens
        ]
        assert peaks[1] - peaks[0] == pytest.approx(expected[1] - expected[0], rel=TOLERANCE)

    @pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
    def test_learning_of_other_families(self, processor: VLMProcessor, family: str) -> None:
        settings = FinetuningSettings(lora_rank=8, precision="bf16")
        sizes: dict[str, Any] = {**WIDE, "family": family, "layers": 2}
        peaks = [learning_peak(processor, settings, num_tokens=n, **sizes) for n in (1030, 1130)]
        shape = shape_of(narrow_model(processor, **sizes).config)
        expected = budget.learning(shape, settings, tokens=100, scored_tokens=2, patches=0)["activations"]
        assert peaks[1] - peaks[0] == pytest.approx(expected, rel=TOLERANCE)

    @pytest.mark.parametrize("rank", [8, None], ids=["adapters", "whole"])
    @pytest.mark.parametrize(("precision", "sizes"), [("bf16", WIDE), ("fp32", NARROW)], ids=["bf16", "fp32"])
    def test_answering(
        self, processor: VLMProcessor, precision: Precision, sizes: dict[str, Any], rank: int | None
    ) -> None:
        shape = sizes_of(processor, 2, sizes)

        def count(num_tokens: int) -> float:
            prompt = PromptSize(tokens=num_tokens, visual_tokens=16, num_pictures=1, patches=0, pixel_bytes=0)
            memory = budget.answering(
                shape, precision, prompt=prompt, num_prompts=1, answer_tokens=2, has_adapters=rank is not None
            )
            return budget.total(memory)

        peaks = [answering_peak(processor, precision, num_tokens=n, layers=2, rank=rank, **sizes) for n in (1030, 1130)]
        assert peaks[1] - peaks[0] == pytest.approx(count(1130) - count(1030), rel=TOLERANCE)

    @pytest.mark.parametrize(("precision", "sizes"), [("bf16", WIDE), ("fp32", NARROW)], ids=["bf16", "fp32"])
    def test_answering_with_merged_copies(
        self, processor: VLMProcessor, precision: Precision, sizes: dict[str, Any]
    ) -> None:
        """Beside the copies, it takes what the base alone does."""
        ranks: dict[int | None, bool] = {8: True, None: False}
        merged, whole = (
            answering_peak(processor, precision, num_tokens=1030, layers=2, rank=rank, copies=copies, **sizes)
            for rank, copies in ranks.items()
        )
        settings = FinetuningSettings(lora_rank=8, precision=precision)
        copies = budget.merged_copies(sizes_of(processor, 2, sizes), settings, None)
        assert merged - whole == pytest.approx(copies, rel=TOLERANCE)

    @pytest.mark.parametrize("precision", ["bf16", "fp32"])
    def test_encoding_pictures(self, processor: VLMProcessor, precision: Precision) -> None:
        peaks = [vision_peak(processor, precision, side=side, width=96, ratio=4, depth=2) for side in (18, 20)]
        config = narrow_model(processor, hidden=64, intermediate=96).config
        config.vision_config.embed_dim, config.vision_config.mlp_ratio = 96, 4
        expected = 4 * (20**2 - 18**2) * budget.encoding_patch(shape_of(config), precision)
        assert peaks[1] - peaks[0] == pytest.approx(expected, rel=TOLERANCE)


class TestByHand:
    """A 7B model, as the audit of an earlier release counted it."""

    LORA = FinetuningSettings(lora_rank=8, precision="bf16")

    def test_weights(self) -> None:
        shape = qwen2_vl_7b()
        held = budget.total(budget.held(shape, self.LORA)) / budget.GB
        assert held == pytest.approx(16.6 + 0.12, abs=0.05)  # adapters in float32, and once more in bfloat16
        assert budget.total(budget.optimized(shape, self.LORA)) / budget.GB == pytest.approx(12 * 0.0202, abs=0.01)
        whole = FinetuningSettings(lora_rank=None, freeze_vision=False)
        total = budget.total(budget.add(budget.held(shape, whole), budget.optimized(shape, whole)))
        assert total / budget.GB == pytest.approx(132.7, abs=0.1)
        assert budget.trained_parameters(shape, FinetuningSettings()) == shape.parameters - shape.vision_parameters

    @pytest.mark.parametrize(("tokens", "gigabytes"), [(2_202, 14.9), (6_432, 43.6), (13_907, 94.3)])
    def test_a_group(self, tokens: int, gigabytes: float) -> None:
        learned = budget.learning(qwen2_vl_7b(), self.LORA, tokens=tokens, scored_tokens=200, patches=0)
        assert learned["activations"] / budget.GB == pytest.approx(gigabytes, rel=0.05)

    def test_checkpointing_leaves_little(self) -> None:
        kept, between = (
            budget.learning(
                qwen2_vl_7b(),
                FinetuningSettings(lora_rank=8, precision="bf16", gradient_checkpointing=is_checkpointed),
                tokens=6_432,
                scored_tokens=200,
                patches=0,
            )["activations"]
            for is_checkpointed in (False, True)
        )
        assert between < kept / 8

    @pytest.mark.parametrize(("gigabytes", "copies"), [(None, 13.1), (80, 13.1), (48, 0.0), (24, 0.0)])
    def test_copies_are_made_on_large_cards(self, gigabytes: float | None, copies: float) -> None:
        device_bytes = None if gigabytes is None else gigabytes * budget.GB
        size = budget.merged_copies(qwen2_vl_7b(), self.LORA, device_bytes)
        assert size / budget.GB == pytest.approx(copies, abs=0.1)
        in_four_bits = FinetuningSettings(lora_rank=8, precision="bf16", quantization="4bit")
        assert budget.merged_copies(qwen2_vl_7b(), in_four_bits, None) == 0
        assert budget.merged_copies(qwen2_vl_7b(), FinetuningSettings(), None) == 0

    def test_more_prompts_than_fit_are_answered_in_turn(self) -> None:
        prompt = hub_prompt((1280, 720), 4, 2938)
        few, many = (
            budget.answering(qwen2_vl_7b(), "bf16", prompt=prompt, num_prompts=n, answer_tokens=50) for n in (10, 512)
        )
        assert budget.total(many) == budget.total(few) < 40e9

    def test_logits_of_all_labels_are_a_chunk(self) -> None:
        few, many = (
            budget.learning(qwen2_vl_7b(), self.LORA, tokens=n, scored_tokens=n, patches=0)["logits"]
            for n in (300, 9000)
        )
        assert many == few < 1e9

    def test_work(self) -> None:
        """Two operations for each weight and token forward; as many again through a frozen base, which has no more."""
        shape = qwen2_vl_7b()
        assert budget.forward_flops(shape, tokens=1000) == 2 * shape.layer_parameters * 1000
        ratios = [
            budget.learning_flops(shape, settings, tokens=1000) / budget.forward_flops(shape, tokens=1000)
            for settings in (self.LORA, FinetuningSettings(), FinetuningSettings(gradient_checkpointing=True))
        ]
        assert ratios == [2, 3, 4]

    def test_in_words(self) -> None:
        memory = {"weights": 16.64e9, "activations": 14.1e9, "gradients": 0.01e9}
        assert budget.describe(memory) == "30.8 GB (weights 16.6, activations 14.1)"

    @pytest.mark.parametrize(
        ("size", "words"),
        [(31.64e9, "31.6 GB"), (1e9, "1.0 GB"), (0.46e9, "0.46 GB"), (92e6, "0.09 GB"), (2e6, "under 0.01 GB")],
    )
    def test_sizes_have_one_unit(self, size: float, words: str) -> None:
        assert budget.in_words(size) == budget.describe({"weights": size}).partition(" (")[0] == words
