"""Turning ragged groups into tensors."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from focus_agents.grpo.batch import collate_groups, split_completions
from focus_agents.models.inputs import EncodedPrompt
from focus_agents.models.processing import VLMProcessor
from tests.focus_agents.grpo.groups import make_group


class TestCollate:
    """Ragged groups become right-padded tensors."""

    def test_ragged_lengths(self, prompts: list[EncodedPrompt], processor: VLMProcessor) -> None:
        lengths = [[1, 5], [3, 2], [4, 1]]
        groups = [
            make_group(prompt, row, first_id=10 + 100 * n)
            for n, (prompt, row) in enumerate(zip(prompts, lengths, strict=True))
        ]
        batch = collate_groups(groups, processor)
        assert batch.token_ids.shape == batch.loss_mask.shape == batch.sampler_logprobs.shape == (3, 2, 5)
        assert (batch.token_ids.dtype, batch.loss_mask.dtype) == (torch.int64, torch.bool)
        assert (batch.sampler_logprobs.dtype, batch.advantages.dtype) == (torch.float32, torch.float32)
        assert batch.loss_mask.sum(-1).tolist() == batch.lengths.tolist() == lengths
        assert batch.old_logprobs is None
        assert batch.ref_logprobs is None
        assert (batch.token_ids[~batch.loss_mask] == processor.pad_token_id).all()
        assert (batch.sampler_logprobs[~batch.loss_mask] == 0).all()
        for n, group in enumerate(groups):
            for g, ids in enumerate(group.token_ids):
                assert batch.token_ids[n, g, : len(ids)].tolist() == ids.tolist()
                assert batch.loss_mask[n, g].tolist() == [t < len(ids) for t in range(5)]
                assert batch.sampler_logprobs[n, g, : len(ids)].tolist() == group.sampler_logprobs[g].tolist()
        np.testing.assert_allclose(batch.advantages, np.stack([group.advantages for group in groups]), rtol=1e-6)
        expected = processor.collate(prompts)
        assert batch.prompts.num_images == expected.num_images
        for name in ("input_ids", "attention_mask", "image_mask", "grids", "pixel_values"):
            assert torch.equal(batch.prompts.tensors()[name], expected.tensors()[name]), name

    def test_computed_logprobs_come_back_as_they_were(
        self, prompts: list[EncodedPrompt], processor: VLMProcessor
    ) -> None:
        groups = [make_group(prompt, [3, 1], first_id=10 + n) for n, prompt in enumerate(prompts)]
        values = torch.arange(18.0).reshape(3, 2, 3)
        parts = split_completions(values, torch.tensor([[3, 1]] * 3))
        assert [array.tolist() for array in parts[1]] == [[6.0, 7.0, 8.0], [9.0]]
        known = [dataclasses.replace(g, old_logprobs=part) for g, part in zip(groups, parts, strict=True)]
        batch = collate_groups(known, processor)
        assert batch.old_logprobs is not None
        assert torch.equal(batch.old_logprobs, values.masked_fill(~batch.loss_mask, 0.0))
        assert collate_groups([known[0], groups[1]], processor).old_logprobs is None

    def test_completions_that_do_not_count(self, prompts: list[EncodedPrompt], processor: VLMProcessor) -> None:
        group = dataclasses.replace(make_group(prompts[0], [2, 5, 3]), counts=np.array([True, False, True]))
        assert group.num_tokens == 5
        batch = collate_groups([group], processor)
        assert batch.loss_mask.sum(-1).tolist() == [[2, 0, 3]]
        assert batch.lengths.tolist() == [[2, 5, 3]]
        assert not group.is_silent
        assert dataclasses.replace(group, advantages=np.array([0.0, 1.0, 0.0])).is_silent

    def test_num_tokens_counts_completions_alone(self, prompts: list[EncodedPrompt]) -> None:
        assert make_group(prompts[0], [1, 5, 2]).num_tokens == 8
