"""Encoded prompts in batches."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from focus_agents.models.inputs import EncodedPrompt
from focus_agents.models.processing import VLMProcessor
from tests.focus_agents.models.messages import num_image_tokens, pixels


class TestCollate:
    """Prompts of different lengths in one batch."""

    def test_pads_on_the_left(self, processor: VLMProcessor, prompts: list[EncodedPrompt]) -> None:
        batch = processor.collate(prompts)
        longest = max(len(p.input_ids) for p in prompts)
        assert batch.input_ids.shape == batch.attention_mask.shape == (3, longest)
        for row, prompt in enumerate(prompts):
            num_padding = longest - len(prompt.input_ids)
            padding = [processor.pad_token_id] * num_padding
            assert batch.input_ids[row].tolist() == [*padding, *prompt.input_ids]
            assert batch.attention_mask[row].tolist() == [0] * num_padding + [1] * len(prompt.input_ids)

    def test_marks_image_tokens_and_joins_pictures(self, processor: VLMProcessor, prompts: list[EncodedPrompt]) -> None:
        batch = processor.collate(prompts)
        assert torch.equal(batch.image_mask, batch.input_ids == processor.image_token_id)
        assert batch.image_mask.sum(1).tolist() == [num_image_tokens(p, processor) for p in prompts]
        assert batch.grids.tolist() == [row for p in prompts for row in p.grids.tolist()]
        np.testing.assert_array_equal(batch.images["pixel_values"], np.concatenate([pixels(p) for p in prompts]))
        assert batch.image_rows == {"pixel_values": tuple(len(pixels(p)) for p in prompts)}
        kinds = [batch.input_ids, batch.attention_mask, batch.grids]
        assert {tensor.dtype for tensor in kinds} == {torch.int64}
        assert (batch.image_mask.dtype, batch.images["pixel_values"].dtype) == (torch.bool, torch.float32)

    @pytest.mark.parametrize("has_features", [False, True])
    def test_moves_to_a_device_whole(
        self, processor: VLMProcessor, prompts: list[EncodedPrompt], has_features: bool
    ) -> None:
        batch = processor.collate(with_random_features(prompts, processor) if has_features else prompts)
        moved = batch.to("meta")
        for field in dataclasses.fields(batch):
            before, after = getattr(batch, field.name), getattr(moved, field.name)
            if field.name == "num_images":
                assert after == before == (2, 4, 3)
            elif field.name == "image_rows":
                assert after == before
            elif field.name == "image_features" and not has_features:
                assert after is before is None
            else:
                parts = [(before, after)]
                if field.name == "image_features":
                    parts = list(zip(before, after, strict=True))
                elif field.name == "images":
                    assert list(before) == list(after) == ([] if has_features else ["pixel_values"])
                    parts = [(before[name], after[name]) for name in before]
                for left, right in parts:
                    assert (left.device.type, right.device.type) == ("cpu", "meta")
                    assert (right.shape, right.dtype) == (left.shape, left.dtype)

    def test_joins_image_features(self, processor: VLMProcessor, prompts: list[EncodedPrompt]) -> None:
        """In the order of the prompts, layer by layer; the pixels are gone."""
        given = with_random_features(prompts, processor)
        batch = processor.collate(given)
        assert batch.image_features is not None
        assert len(batch.image_features) == 3
        for layer, joined in enumerate(batch.image_features):
            start = 0
            for row, prompt in enumerate(given):
                assert prompt.image_features is not None
                stop = start + int(batch.image_mask[row].sum())
                assert torch.equal(joined[start:stop], prompt.image_features[layer])
                start = stop
            assert start == len(joined)
        assert batch.images == {}
        assert batch.grids.tolist() == processor.collate(prompts).grids.tolist()
        assert processor.collate(prompts).image_features is None

    @pytest.mark.parametrize("which", [[0], [2], [0, 1]])
    def test_image_features_of_some_are_refused(
        self, processor: VLMProcessor, prompts: list[EncodedPrompt], which: list[int]
    ) -> None:
        given = with_random_features(prompts, processor)
        mixed = [given[n] if n in which else prompts[n] for n in range(3)]
        message = f"prompts: expected image features of all 3 or of none, got {len(which)}"
        with pytest.raises(ValueError, match=message):
            processor.collate(mixed)


def with_random_features(prompts: list[EncodedPrompt], processor: VLMProcessor) -> list[EncodedPrompt]:
    """As if a vision tower with two deepstack layers had seen the pictures."""
    generator = torch.Generator().manual_seed(0)
    return [
        dataclasses.replace(
            prompt,
            images={},
            image_features=tuple(torch.randn(3, num_image_tokens(prompt, processor), 5, generator=generator)),
        )
        for prompt in prompts
    ]


class TestRepeat:
    """Each prompt several times, copies next to each other."""

    @pytest.mark.parametrize("times", [1, 2, 5])
    @pytest.mark.parametrize("has_features", [False, True])
    def test_is_what_collating_copies_gives(
        self, processor: VLMProcessor, prompts: list[EncodedPrompt], has_features: bool, times: int
    ) -> None:
        given = with_random_features(prompts, processor) if has_features else prompts
        repeated = processor.collate(given).repeat(times)
        expected = processor.collate([prompt for prompt in given for _ in range(times)])
        assert repeated.num_images == expected.num_images
        assert repeated.image_rows == expected.image_rows
        assert (repeated.image_features is None) == (expected.image_features is None)
        for ours, right in zip(repeated.image_features or (), expected.image_features or (), strict=True):
            assert torch.equal(ours, right)
        assert len(expected.tensors()) == (4 if has_features else 5)
        assert repeated.tensors().keys() == expected.tensors().keys()
        for name, right in expected.tensors().items():
            ours = repeated.tensors()[name]
            assert ours.dtype == right.dtype
            assert torch.equal(ours, right), name

    def test_by_hand(self, processor: VLMProcessor, prompts: list[EncodedPrompt]) -> None:
        batch = processor.collate(prompts[:2])
        repeated = batch.repeat(2)
        assert repeated.num_images == (2, 2, 4, 4)
        first, second = batch.grids.split([2, 4])
        assert repeated.grids.tolist() == torch.cat([first, first, second, second]).tolist()
        assert [row.tolist() for row in repeated.input_ids] == [batch.input_ids[n].tolist() for n in (0, 0, 1, 1)]
