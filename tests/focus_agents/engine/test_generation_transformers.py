"""Samples, against transformers' own generation."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from focus_agents.models.inputs import EncodedPrompt, PromptBatch
from focus_agents.models.processing import VLMProcessor
from tests.focus_agents.engine.sampling import NO_END, draw
from tests.focus_agents.models.families import FAMILIES, make_model, picture_inputs


def generate_by_transformers(model: Any, batch: PromptBatch, **options: Any) -> torch.Tensor:
    """[rows, T] what transformers' own loop adds to the prompts."""
    generated: torch.Tensor = model.generate(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        **picture_inputs(batch),
        **options,
    )
    return generated[:, batch.input_ids.shape[1] :]


class TestAgainstTransformers:
    """`model.generate` takes a path of its own through positions, masks and cache, and samples the same tokens."""

    @pytest.mark.parametrize("which", [[0], [1], [2], [0, 1, 2], [2, 0]])
    def test_greedy(self, model: Any, processor: VLMProcessor, prompts: list[EncodedPrompt], which: list[int]) -> None:
        batch = processor.collate([prompts[n] for n in which])
        ours = draw(model, batch, num_completions=1, temperature=0.0, num_tokens=10)
        theirs = generate_by_transformers(
            model, batch, do_sample=False, max_new_tokens=10, eos_token_id=NO_END, pad_token_id=428
        )
        assert ours.token_ids[:, 0].tolist() == theirs.tolist()
        assert len(set(theirs.flatten().tolist())) > 3, "a model that repeats itself shows nothing"

    @pytest.mark.parametrize("family", FAMILIES)
    def test_greedy_families(self, processor: VLMProcessor, prompts: list[EncodedPrompt], family: str) -> None:
        """Prompts of unequal lengths; one answer ends before the others."""
        model = make_model(family, processor)
        batch = processor.collate([prompts[n] for n in (2, 0, 1)])
        options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 12, "pad_token_id": 428}
        endless = generate_by_transformers(model, batch, eos_token_id=NO_END, **options)
        eos = int(endless[1, 4])
        theirs = generate_by_transformers(model, batch, eos_token_id=eos, **options)
        ours = draw(model, batch, temperature=0.0, num_tokens=12, eos_token_id=eos)
        assert ours.token_ids[:, 0].tolist() == ours.token_ids[:, 1].tolist() == theirs.tolist()
        assert ours.lengths.min() < ours.lengths.max()
        assert len(set(theirs.flatten().tolist())) > 3, "a model that repeats itself shows nothing"

    @pytest.mark.parametrize("family", FAMILIES)
    def test_sampling_families(self, processor: VLMProcessor, prompts: list[EncodedPrompt], family: str) -> None:
        model, batch = make_model(family, processor), processor.collate(prompts[1:2])
        ours = draw(model, batch, num_completions=6, num_tokens=8, seeds=[5])
        torch.manual_seed(5)
        options: dict[str, Any] = {"eos_token_id": NO_END, "pad_token_id": 428, "top_k": 0}
        theirs = generate_by_transformers(
            model, batch, do_sample=True, num_return_sequences=6, max_new_tokens=8, **options
        )
        assert ours.token_ids[0].tolist() == theirs.tolist()
        assert len(set(theirs.flatten().tolist())) > 20

    @pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
    def test_sampling(
        self, model: Any, processor: VLMProcessor, prompts: list[EncodedPrompt], temperature: float
    ) -> None:
        batch = processor.collate(prompts[1:2])
        eos = 427
        banned = [token for token in range(512) if token % 41 and token != eos]  # few are left, so that some end early
        ours = draw(
            model,
            batch,
            num_completions=40,
            num_tokens=8,
            temperature=temperature,
            seeds=[11],
            eos_token_id=eos,
            banned_token_ids=banned,
        )
        torch.manual_seed(11)
        theirs = generate_by_transformers(
            model,
            batch,
            do_sample=True,
            num_return_sequences=40,
            max_new_tokens=8,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            suppress_tokens=banned,
            eos_token_id=eos,
            pad_token_id=428,
        )
        assert ours.token_ids[0].tolist() == theirs.tolist()
        assert ours.lengths.min() < ours.lengths.max() == 8
