"""The contract of a model family, second part: prompts and answers against transformers' own code, for each family.

Axis letters: B examples, N tokens, T tokens of an answer.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from focus_agents.engine.forward import image_inputs
from focus_agents.engine.generation import sample_completions
from focus_agents.engine.scoring import score_completions
from focus_agents.models.adapters import base_model
from focus_agents.models.attention import can_share_prefix, measured_layers, set_focus_attention
from focus_agents.models.views import View, box_tokens, num_image_tokens
from focus_agents.policies.focus import FocusPolicy
from focus_agents.policies.reuse import ReusingPolicy
from focus_agents.policies.vlm import VLMPolicy
from focus_agents.rollout.records import Sampling
from focus_agents.sft.data import SFTExamples
from focus_agents.sft.settings import SFTConfig
from focus_agents.sft.step import measure_losses
from focus_env.boxes import CoordinateFrame
from focus_env.env import observe
from focus_env.prompts import get_template
from focus_env.types import Box, ImageArray, ImagePart, Message, TextPart
from tests.focus_agents.models.cases import EPISODES, TEMPLATE, Case

SIZES = [(5, 5), (31, 33), (64, 64), (200, 40), (40, 200), (97, 211), (300, 180)]


def noise(width: int, height: int, seed: int = 0) -> ImageArray:
    return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


def pixels_of_tokens(case: Case, image: ImageArray) -> tuple[list[np.ndarray], tuple[View, ...]]:
    """For each image token of a picture that shows a part of it, the pixels that go into it; and its views."""
    grids, arrays = case.family.preprocess(case.processor.image_processor, [image])
    (views,) = case.processor.views([image], grids)
    pixels = next(iter(arrays.values()))
    if pixels.ndim == 2:  # patches, some for each token
        return np.split(pixels, num_image_tokens(views)), views
    tiles = pixels.reshape(-1, *pixels.shape[-3:])
    cells = []
    for tile, view in zip(tiles, views, strict=True):
        rows = np.split(tile, view.rows, axis=1)
        cells += [cell for row in rows for cell in np.split(row, view.columns, axis=2)]
    return cells, views


def ask(*images: ImageArray) -> list[Message]:
    parts = [part for image in images for part in (ImagePart(image), TextPart("[1, 2, 3, 4]"))]
    return [Message("user", parts)]


class TestPrompts:
    """What a model is shown."""

    @pytest.mark.parametrize("size", SIZES)
    def test_there_are_as_many_image_tokens_as_features(self, case: Case, size: tuple[int, int]) -> None:
        batch = case.processor.collate([case.processor.encode(ask(noise(*size), noise(40, 60), noise(*size)))])
        with torch.no_grad():
            features = case.family.image_features(case.model, batch)
        assert {len(part) for part in features} == {int(batch.image_mask.sum())}

    def test_it_matters_which_picture_stands_where(self, case: Case) -> None:
        first, second, query = (noise(64, 60, seed) for seed in range(3))
        prompts = [case.processor.encode(ask(*images)) for images in ((first, second, query), (second, first, query))]
        assert prompts[0].input_ids.tolist() == prompts[1].input_ids.tolist()
        with torch.no_grad():
            one, other = (
                case.model(
                    input_ids=batch.input_ids,
                    attention_mask=batch.attention_mask,
                    use_cache=False,
                    **image_inputs(case.model, batch),
                )
                .logits[0, -1]
                .log_softmax(-1)
                for batch in (case.processor.collate([prompt]) for prompt in prompts)
            )
        assert (one - other).abs().max() > 1e-3

    @pytest.mark.parametrize(
        "frame", [CoordinateFrame.NORM_1000, CoordinateFrame.NORM_1, CoordinateFrame.RESIZED_PIXEL]
    )
    def test_the_marked_boxes_are_the_episodes(self, case: Case, frame: CoordinateFrame) -> None:
        template = case.processor.fit_template(dataclasses.replace(TEMPLATE, frame=frame))
        for episode in EPISODES:
            messages = template.render(observe(episode))
            prompt = case.processor.encode(messages)
            spans = case.processor.locate(messages, prompt)
            for exemplar, tokens in zip(episode.support, spans.box_texts, strict=True):
                written = case.processor.tokenizer.decode(prompt.input_ids[tokens])
                assert template.write_box(exemplar.box, exemplar.frame.image_wh) in written

    @pytest.mark.parametrize("size", [(160, 96), (64, 64), (50, 120)])
    def test_a_support_box_is_where_the_picture_shows_it(self, case: Case, size: tuple[int, int]) -> None:
        """Painting a box changes the pixels of its tokens, and of no token a cell away."""
        width, height = size
        plain, box = np.full((height, width, 3), 120, dtype=np.uint8), Box(0.55 * width, 0.3 * height, width, height)
        marked = plain.copy()
        marked[round(box.y1) :, round(box.x1) :] = (255, 0, 0)
        before, views = pixels_of_tokens(case, plain)
        after, _ = pixels_of_tokens(case, marked)
        changed = {index for index, (a, b) in enumerate(zip(before, after, strict=True)) if np.abs(a - b).max() > 0.2}
        start = 0
        for view in views:
            cell_width = width * (view.area[2] - view.area[0]) / view.columns
            cell_height = height * (view.area[3] - view.area[1]) / view.rows
            around = Box(
                box.x1 - 1.5 * cell_width, box.y1 - 1.5 * cell_height, width + cell_width, height + cell_height
            )
            inside = set((start + box_tokens(box, size, [view])).tolist())
            of_view = {index for index in changed if start <= index < start + view.num_tokens}
            assert inside <= of_view <= set((start + box_tokens(around, size, [view])).tolist())
            start += view.num_tokens


class TestAnswers:
    """What a model says, by our way and by transformers' own."""

    def test_greedy_answers_are_those_of_generate(self, case: Case) -> None:
        options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": case.processor.pad_token_id}
        never = 511
        ours = sample_completions(
            case.model,
            case.batch,
            num_completions=2,
            sampling=Sampling(0.0, 8),
            seeds=range(3),
            eos_token_id=never,
            pad_token_id=case.processor.pad_token_id,
        )
        for row, prompt in enumerate(case.prompts):
            alone = case.processor.collate([prompt])
            theirs = case.model.generate(
                input_ids=alone.input_ids,
                attention_mask=alone.attention_mask,
                eos_token_id=never,
                **image_inputs(case.model, alone),
                **options,
            )
            expected = theirs[0, alone.input_ids.shape[1] :].tolist()
            assert ours.token_ids[row].tolist() == [expected, expected]

    def test_log_probabilities_are_those_of_teacher_forcing(self, case: Case) -> None:
        answers = torch.arange(24).view(3, 2, 4) + 30
        lengths = torch.tensor([[4, 2], [3, 4], [1, 4]])
        found, _ = score_completions(
            case.model, case.batch, answers, lengths, shared_prefix=can_share_prefix(case.model.config)
        )
        for row, prompt in enumerate(case.prompts):
            alone = case.processor.collate([prompt])
            for column in range(2):
                length = int(lengths[row, column])
                answer = answers[row, column, :length]
                ids = torch.cat([alone.input_ids[0], answer])[None]
                with torch.no_grad():
                    logits = case.model(
                        input_ids=ids,
                        attention_mask=torch.ones_like(ids),
                        use_cache=False,
                        **image_inputs(case.model, alone, length),
                    ).logits[0, -length - 1 : -1]
                expected = logits.log_softmax(-1).gather(1, answer[:, None])[:, 0]
                torch.testing.assert_close(found[row, column, :length], expected, rtol=0, atol=2e-4)

    @pytest.mark.parametrize("kind", ["compact", "qwen2_5_vl"])
    def test_answers_behind_supports_that_are_encoded_once(self, case: Case, kind: str) -> None:
        """Of queries of several sizes, by pictures and boxes in turn and by pictures first."""
        template = case.processor.fit_template(get_template(kind))
        sides = [(64, 64), (300, 180), (40, 97)]
        support = observe(EPISODES[1])
        prompts = [template.render({**support, "query_image": noise(*size, seed)}) for seed, size in enumerate(sides)]
        options: dict[str, Any] = {"num_completions": 2, "sampling": Sampling(0.0, 6), "seeds": range(3)}
        plain = VLMPolicy(case.model, case.processor)
        reusing = ReusingPolicy(plain)
        for found, expected in zip(
            [*reusing.generate(prompts, **options), *reusing.generate(prompts[:1], **options | {"seeds": [0]})],
            [*plain.generate(prompts, **options), *plain.generate(prompts[:1], **options | {"seeds": [0]})],
            strict=True,
        ):
            for one, other in zip(found.completions, expected.completions, strict=True):
                assert one.token_ids.tolist() == other.token_ids.tolist()
                np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=0, atol=2e-4)
        shares = can_share_prefix(case.model.config) and case.family.prompt_reach(case.batch) is None
        assert reusing.num_encoded == int(shares)


class TestAttention:
    """Where a model looks."""

    def test_the_attention_loss_is_that_of_full_maps(self, case: Case) -> None:
        examples = SFTExamples(EPISODES, TEMPLATE, case.processor, target="both")
        batch = examples.collate([examples[index] for index in range(3)])
        layers = measured_layers("all", case.model.config)
        config = SFTConfig(beta=1.0)
        set_focus_attention(case.model)
        with torch.no_grad():
            sums = measure_losses(case.model, batch, config, layers)
        expected = torch.stack([self._loss_of_maps(case, examples, index, layers, config) for index in range(3)])
        torch.testing.assert_close(sums.attention, expected.sum(), rtol=1e-4, atol=1e-6)

    def _loss_of_maps(
        self, case: Case, examples: SFTExamples, index: int, layers: frozenset[int], config: SFTConfig
    ) -> torch.Tensor:
        """The loss of one example by the paper's definition, over transformers' own eager maps."""
        example = examples[index]
        alone = examples.collate([example])
        ids = torch.cat([alone.prompts.input_ids, alone.answer_ids], dim=1)
        base_model(case.model).set_attn_implementation({"text_config": "eager"})
        with torch.no_grad():
            maps = case.model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                use_cache=False,
                output_attentions=True,
                **image_inputs(case.model, alone.prompts, alone.answer_ids.shape[1]),
            ).attentions
        set_focus_attention(case.model)
        # A hybrid model gives the maps of its layers with attention alone.
        chosen = (
            [maps[position] for position in range(len(maps))] if len(maps) == len(layers) else [maps[i] for i in layers]
        )
        rows = torch.stack(chosen).mean((0, 2))[0][torch.from_numpy(example.query_tokens)]
        others = np.setdiff1d(np.arange(ids.shape[1]), example.support_tokens)
        delta = rows[:, example.support_tokens].mean(1) - rows[:, others].mean(1)
        unit = 1 / len(example.support_tokens) if config.margin_unit == "reachable" else 1.0
        return (config.margin - delta / unit).clamp(min=0).square().mean()

    def test_maps_of_a_localization(self, case: Case) -> None:
        policy = FocusPolicy(case.model, case.processor, TEMPLATE)
        support, query = noise(96, 64), noise(60, 100)
        attention = policy.locate([(support, Box(20, 10, 60, 40))], query, with_attention=True).attention
        assert attention is not None
        assert len(attention) == 2
        for shares in attention:
            assert shares.dtype == np.float32
            assert shares.ndim == 2
            assert shares.min() >= 0
            assert 0 < shares.sum() < 1
