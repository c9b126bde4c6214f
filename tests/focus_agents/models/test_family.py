"""The contract of a model family, for Qwen's and for one that another package would add.

Axis letters: N prompts, G answers per prompt, T tokens of the longest answer, P prompt columns, C answer columns.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from focus_agents.engine.forward import answer_positions, encode_images, image_inputs, prefill, prompt_positions
from focus_agents.engine.generation import sample_completions
from focus_agents.engine.scoring import score_completions, shared_prefix_gap
from focus_agents.models.adapters import add_adapters, family_of, model_parts
from focus_agents.models.attention import can_share_prefix
from focus_agents.models.inputs import PromptBatch
from focus_agents.models.loading import (
    has_frozen_vision,
    load_family,
    load_model,
    load_processor,
    load_template,
    load_trainable_model,
)
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.qwen import QWEN2_5_VL
from focus_agents.models.views import num_image_tokens
from focus_agents.policies.focus import FocusPolicy
from focus_agents.rollout.records import Sampling
from focus_agents.runs.checkpoint import save_policy
from focus_env.boxes import CoordinateFrame
from focus_env.env import observe
from focus_env.types import Box
from tests.focus_agents.models import llava_family
from tests.focus_agents.models.cases import EPISODES, TEMPLATE, Case, pictures_of
from tests.focus_agents.models.families import FAMILIES, make_model

FRAMES = {
    "qwen2_vl": CoordinateFrame.NORM_1000,
    "qwen2_5_vl": CoordinateFrame.RESIZED_PIXEL,
    "qwen3_vl": CoordinateFrame.NORM_1000,
    "qwen3_vl_moe": CoordinateFrame.NORM_1000,
    "qwen3_5": CoordinateFrame.NORM_1000,
    "qwen3_5_moe": CoordinateFrame.NORM_1000,
    "internvl": CoordinateFrame.NORM_1000,
    "llava_onevision": CoordinateFrame.NORM_1,
    "glm4v": CoordinateFrame.NORM_1000,
    "smolvlm": CoordinateFrame.NORM_1000,
    "gemma3": CoordinateFrame.NORM_1000,
    "paligemma": CoordinateFrame.NORM_1024,
    "llava": CoordinateFrame.NORM_1,
}
PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
ADAPTED = dict.fromkeys([*FAMILIES, "internvl", "llava_onevision", "smolvlm", "gemma3", "paligemma"], PROJECTIONS) | {
    "glm4v": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"},
    "qwen3_vl_moe": {"q_proj", "k_proj", "v_proj", "o_proj"},  # the experts of a layer are one parameter, no modules
    "qwen3_5": PROJECTIONS | {"in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj"},
    "qwen3_5_moe": PROJECTIONS | {"in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj"},
    "llava": {"q_proj", "v_proj"},
}
TOKEN_SIDES = {
    "internvl": 8,
    "llava_onevision": 8,
    "smolvlm": 16,
    "gemma3": 8,
    "paligemma": 8,
    "llava": llava_family.PATCH,
}
"""Pixels along a side of what becomes a token, where they are not 16."""
LEAST_LIMITS = {"llava_onevision": 17}
"""Image tokens that a picture has at least where 16 are too few."""


@pytest.fixture
def folder(case: Case, tmp_path: Path) -> Path:
    """The model as its makers would give it away: nothing is said of prompts."""
    return save_policy(tmp_path / "model", case.model, case.processor)


def use_features(case: Case) -> PromptBatch:
    """The batch with features in place of pictures."""
    prompts = case.processor.replace_pixels(case.prompts, encode_images(case.model, case.batch))
    return case.processor.collate(prompts)


class TestContract:
    """What the rest of the package relies on."""

    def test_a_model_knows_its_family(self, case: Case) -> None:
        family = case.family
        assert case.model.config.model_type in family.model_types
        assert family_of(add_adapters(copy_of(case.model), rank=1)) == family
        assert pickle.loads(pickle.dumps(family)) == family
        assert pickle.loads(pickle.dumps(case.processor)).family == family

    def test_views_agree_with_the_image_tokens(self, case: Case) -> None:
        for prompt, episode, num_images in zip(case.prompts, EPISODES, case.batch.num_images, strict=True):
            assert prompt.grids.shape == (num_images, 2)
            assert prompt.grids.dtype == np.int64
            views = case.processor.views(pictures_of(episode), prompt.grids)
            is_image = prompt.input_ids == case.processor.image_token_id
            assert is_image.sum() == sum(num_image_tokens(picture) for picture in views)
            spans = case.processor.locate(TEMPLATE.render(observe(episode)), prompt)
            assert [len(tokens) for tokens in spans.images] == [num_image_tokens(picture) for picture in views]
            assert is_image[np.concatenate(spans.images)].all()
        assert case.processor.image_token_id in case.processor.banned_token_ids
        assert case.processor.image_token_id == case.model.config.image_token_id

    def test_the_parts_are_the_models_own(self, case: Case) -> None:
        parts = model_parts(case.model)
        assert len(parts.layers) == case.model.config.get_text_config().num_hidden_layers
        output = parts.backbone(
            input_ids=case.batch.input_ids,
            attention_mask=case.batch.attention_mask,
            use_cache=False,
            **image_inputs(case.model, case.batch),
        )
        with torch.no_grad():
            logits = case.model(
                input_ids=case.batch.input_ids,
                attention_mask=case.batch.attention_mask,
                use_cache=False,
                **image_inputs(case.model, case.batch),
            ).logits
        assert torch.equal(parts.head(output.last_hidden_state), logits)
        tower, layers = set(parts.vision_tower.parameters()), set(torch.nn.ModuleList(parts.layers).parameters())
        assert tower
        assert not tower & layers

    def test_positions_are_those_that_the_model_counts(self, case: Case) -> None:
        """Of a prompt and of the text behind it, as without `position_ids`."""
        num_prompt = case.batch.input_ids.shape[1]
        answers = torch.arange(12).view(3, 4) + 20
        offsets = torch.arange(4).expand(3, -1)
        positions, starts = prompt_positions(case.model, case.batch)
        assert positions.shape[-2:] == case.batch.input_ids.shape
        behind = answer_positions(case.model, starts, offsets)
        assert behind.shape[-2:] == (3, 4)
        inputs = {
            "input_ids": torch.cat([case.batch.input_ids, answers], 1),
            "attention_mask": torch.nn.functional.pad(case.batch.attention_mask, (0, 4), value=1),
            "use_cache": False,
            **image_inputs(case.model, case.batch, 4),
        }
        with torch.no_grad():
            given = case.model(**inputs, position_ids=torch.cat([positions, behind], -1)).logits
            shifted = case.model(**inputs, position_ids=torch.cat([positions, behind + 1], -1)).logits
            # LLaVA's language model counts padding, too, so that it needs its prompts one at a time here.
            for row in range(3):
                alone = case.processor.collate([case.prompts[row]])
                ids = torch.cat([alone.input_ids, answers[row : row + 1]], 1)
                counted = case.model(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    use_cache=False,
                    **image_inputs(case.model, alone, 4),
                ).logits[0]
                seen = slice(num_prompt - len(case.prompts[row].input_ids), None)
                torch.testing.assert_close(given[row, seen], counted, rtol=0, atol=2e-4)
                assert (shifted[row, -4:] - counted[-4:]).abs().max() > 1e-3

    def test_features_stand_in_for_pictures(self, case: Case) -> None:
        """The same logits, without the tower."""
        batch = use_features(case)
        assert batch.images == {}
        assert batch.image_features is not None
        assert {len(part) for part in batch.image_features} == {int(batch.image_mask.sum())}
        calls: list[Any] = []
        plain, kept = (
            {"input_ids": b.input_ids, "attention_mask": b.attention_mask, **image_inputs(case.model, b)}
            for b in (case.batch, batch)
        )
        with torch.no_grad():
            expected = case.model(**plain).logits
            with model_parts(case.model).vision_tower.register_forward_hook(lambda *_: calls.append(1)):
                found = case.model(**kept).logits
        assert calls == []
        assert torch.equal(found, expected)
        wrong = dataclasses.replace(batch, image_features=tuple(-part for part in batch.image_features))
        with torch.no_grad():
            other = case.model(**{**kept, **image_inputs(case.model, wrong)}).logits
        assert (other - expected).abs().max() > 1e-2

    def test_samples_and_scores(self, case: Case) -> None:
        """From one prefix, from features, and in the shared and the repeated way."""
        options = {
            "num_completions": 3,
            "sampling": Sampling(1.0, 6),
            "seeds": range(3),
            "eos_token_id": case.processor.eos_token_id,
            "pad_token_id": case.processor.pad_token_id,
            "banned_token_ids": case.processor.banned_token_ids,
        }
        sampled = sample_completions(case.model, case.batch, **options)
        assert len({tuple(ids) for ids in sampled.token_ids.flatten(0, 1).tolist()}) > 3
        shares_prefix = can_share_prefix(case.model.config)
        scored = {"banned_token_ids": case.processor.banned_token_ids, "shared_prefix": shares_prefix}
        for batch in (case.batch, use_features(case)):
            found = score_completions(case.model, batch, sampled.token_ids, sampled.lengths, **scored)[0]
            torch.testing.assert_close(found, sampled.logprobs, rtol=0, atol=2e-4)
            if shares_prefix:
                gap = shared_prefix_gap(
                    case.model,
                    batch,
                    sampled.token_ids,
                    sampled.lengths,
                    banned_token_ids=case.processor.banned_token_ids,
                )
                assert gap < 1e-4
        if not shares_prefix:
            with pytest.raises(
                ValueError, match="shared_prefix: expected a model whose layers all have full attention"
            ):
                score_completions(case.model, case.batch, sampled.token_ids, sampled.lengths)
            return
        prefix = prefill(case.model, case.batch)
        again = sample_completions(case.model, case.batch, **options, prefix=prefix)
        assert torch.equal(again.token_ids, sampled.token_ids)

    def test_adapters_are_for_the_language_model(self, case: Case) -> None:
        model = add_adapters(copy_of(case.model), rank=2)
        parts = model_parts(model)
        adapted = {name.split(".lora_")[0] for name, p in model.named_parameters() if p.requires_grad}
        kinds = ADAPTED[case.model.config.model_type]
        assert {name.split(".")[-1] for name in adapted} == kinds
        if can_share_prefix(case.model.config):
            assert len(adapted) == len(kinds) * len(parts.layers)
        in_layers = {id(p) for layer in parts.layers for p in layer.parameters()}
        assert all(id(p) in in_layers for p in model.parameters() if p.requires_grad)
        assert has_frozen_vision(model)
        assert not has_frozen_vision(case.model)

    def test_the_size_at_which_a_picture_is_seen(self, case: Case) -> None:
        """All of its tokens, without padding, times the pixels that a token shows."""
        rule = case.family.image_to_input_wh(case.processor.image_processor)
        assert pickle.loads(pickle.dumps(rule)) == rule
        side = TOKEN_SIDES.get(case.family.name, 16)
        for width, height in [(64, 64), (80, 60), (33, 70), (5, 5), (1000, 400), (16, 90)]:
            image = np.zeros((height, width, 3), dtype=np.uint8)
            grids, _ = case.family.preprocess(case.processor.image_processor, [image])
            (views,) = case.processor.views([image], grids)
            x1, y1, x2, y2 = views[0].area
            seen = np.array([views[0].columns / (x2 - x1), views[0].rows / (y2 - y1)]) * side
            # A side that is not divided by the scale is rounded, where the picture itself is not resized to it.
            is_padded = case.family.name == "llava_onevision"
            np.testing.assert_allclose(rule((width, height)), seen, rtol=1e-9, atol=0.5 if is_padded else 0)

    def test_loads_from_a_folder(self, case: Case, folder: Path) -> None:
        limit = LEAST_LIMITS.get(case.family.name, 16)
        processor = load_processor(str(folder), max_image_tokens=limit)
        assert processor.family == load_family(str(folder)) == case.family
        assert processor.eos_token_id == case.processor.eos_token_id
        batch = load_processor(str(folder)).collate(case.prompts)
        with torch.no_grad():
            hidden = prefill(load_model(str(folder)).eval(), batch).hidden
            torch.testing.assert_close(hidden, prefill(case.model, case.batch).hidden, rtol=0, atol=0)
        big = np.zeros((500, 400, 3), dtype=np.uint8)
        grids, _ = processor.family.preprocess(processor.image_processor, [big])
        (views,) = processor.views([big], grids)
        assert limit / 4 <= num_image_tokens(views) <= limit
        if case.family.name not in ("smolvlm",):  # its pictures are squares of 2 x 2 tiles and more, or a single tile
            assert num_image_tokens(views) >= 8
        model = load_trainable_model(str(folder), freeze_vision=True)
        assert has_frozen_vision(model)
        assert model.training

    def test_too_few_image_tokens_are_refused(self, folder: Path) -> None:
        with pytest.raises(ValueError, match=r"max_image_tokens: expected at least \d+, got 3"):
            load_processor(str(folder), max_image_tokens=3)


def copy_of(model: Any) -> Any:
    """Another model of the same kind, since adapters change theirs in place."""
    return type(model)(model.config)


class TestNativeFrame:
    """A model is asked in its family's own unit unless something says otherwise."""

    def test_of_a_model_that_says_nothing(self, case: Case, folder: Path) -> None:
        frame = FRAMES[case.model.config.model_type]
        assert case.family.frame is frame
        template = load_template(str(folder))
        assert (template.name, template.frame) == ("default", frame)
        assert load_template(str(folder), name="questions").frame is frame
        assert load_template(str(folder), frame=CoordinateFrame.NORM_100).frame is CoordinateFrame.NORM_100
        needs_size = frame is CoordinateFrame.RESIZED_PIXEL
        assert (template.image_to_input_wh is not None) == needs_size

    def test_resized_pixels_of_any_family(self, case: Case, folder: Path) -> None:
        template = load_template(str(folder), name="compact", frame=CoordinateFrame.RESIZED_PIXEL)
        assert template == case.processor.fit_template(template)
        assert pickle.loads(pickle.dumps(template)) == template
        box, wh = Box(100, 50, 300, 200), (400, 200)
        found = template.parse(template.answer(box, wh), wh)
        assert found.is_strict
        assert found.box == pytest.approx(box, abs=10)

    @pytest.fixture
    def resized(self, processor: VLMProcessor, tmp_path: Path) -> Callable[..., Path]:
        """A tiny Qwen2.5-VL as it was saved with a prompt."""
        own = VLMProcessor(processor.tokenizer, processor.image_processor, QWEN2_5_VL)

        def save(**prompt: Any) -> Path:
            return save_policy(tmp_path / "policy", make_model("qwen2_5_vl", own), own, **prompt)

        return save

    def test_a_saved_policy_keeps_its_unit(self, resized: Callable[..., Path]) -> None:
        first = load_template(str(resized()), name="compact")
        place = resized(template=first)
        assert json.loads((place / "focus.json").read_text())["prompt"]["frame"] == "resized_pixel"
        assert load_template(str(place)) == first
        assert load_template(str(place), max_image_tokens=16) != first
        other = resized(template=dataclasses.replace(first, frame=CoordinateFrame.NORM_1000))
        assert load_template(str(other)).frame is CoordinateFrame.NORM_1000

    @pytest.mark.parametrize(("max_image_tokens", "scale"), [(None, 1.0), (16, 0.5)])
    def test_a_policy_writes_and_reads_pixels_of_what_it_sees(
        self, resized: Callable[..., Path], max_image_tokens: int | None, scale: float
    ) -> None:
        """A picture of 128 x 128 has 64 tokens, or is halved to 16."""
        policy = FocusPolicy.from_pretrained(str(resized()), max_image_tokens=max_image_tokens)
        image = np.zeros((128, 128, 3), dtype=np.uint8)
        question = {"support_images": (image,), "support_boxes": np.array([[32.0, 16, 96, 64]]), "query_image": image}
        (message,) = policy.template.render(question)  # type: ignore[arg-type]
        texts = [part.text for part in message.content if hasattr(part, "text")]
        expected = [int(scale * value) for value in (32, 16, 96, 64)]
        assert str(expected) in texts[1]
        assert policy.template.parse(f"<answer>{expected}</answer>", (128, 128)).box == Box(32, 16, 96, 64)
