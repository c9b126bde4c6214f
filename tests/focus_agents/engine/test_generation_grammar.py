"""Samples under the answer grammar.

Axis letters: N prompts, G completions per prompt, T completion tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from focus_agents.engine.grammar import AnswerGrammar
from focus_agents.engine.scoring import score_completions
from focus_agents.models.inputs import EncodedPrompt
from focus_agents.models.processing import VLMProcessor
from focus_env.boxes import CoordinateFrame
from focus_env.parsing import parse_answer
from tests.focus_agents.engine.oracle import score_by_repetition
from tests.focus_agents.engine.sampling import draw, tokens_of


@pytest.fixture(scope="module")
def grammar(processor: VLMProcessor) -> AnswerGrammar:
    return AnswerGrammar(processor.tokenizer, 512, eos_token_id=processor.eos_token_id)


class TestConstrained:
    """Decoding under a grammar: every answer of a model that has learned nothing is a strict one."""

    @pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
    def test_strict_answers(
        self,
        model: Any,
        processor: VLMProcessor,
        prompts: list[EncodedPrompt],
        grammar: AnswerGrammar,
        temperature: float,
    ) -> None:
        batch, eos = processor.collate(prompts), processor.eos_token_id
        options: dict[str, Any] = {
            "temperature": temperature,
            "banned_token_ids": processor.banned_token_ids,
            "grammar": grammar,
        }
        sampled = draw(model, batch, num_completions=6, num_tokens=48, eos_token_id=eos, **options)
        texts = [[processor.decode(ids) for ids in answers] for answers in tokens_of(sampled)]
        for answers, ids_of_answers in zip(texts, tokens_of(sampled), strict=True):
            for text, ids in zip(answers, ids_of_answers, strict=True):
                assert ids.index(eos) == len(ids) - 1
                result = parse_answer(text, frame=CoordinateFrame.NORM_1000, image_wh=(640, 480))
                assert result.is_strict
        scored, _ = score_completions(model, batch, sampled.token_ids, sampled.lengths, **options)
        torch.testing.assert_close(sampled.logprobs, scored, rtol=0, atol=1e-5)
        assert sampled.logprobs.isfinite().all()
        if temperature == 0:
            assert all(len(set(answers)) == 1 for answers in texts)
        else:
            assert len({text for answers in texts for text in answers}) > 6
            assert sampled.lengths.min() < sampled.lengths.max()
        assert sampled.logprobs.min() < -0.5, "there is something to choose"

    def test_what_is_likelier_is_taken(
        self, model: Any, processor: VLMProcessor, prompts: list[EncodedPrompt], grammar: AnswerGrammar
    ) -> None:
        """Greedy: among the tokens that are allowed the likeliest, step by step."""
        sampled = draw(
            model,
            processor.collate(prompts),
            temperature=0.0,
            num_tokens=48,
            num_completions=1,
            eos_token_id=processor.eos_token_id,
            grammar=grammar,
        )
        _, everything = score_by_repetition(model, prompts, sampled.token_ids)
        best = everything.masked_fill(~grammar.allowed_along(sampled.token_ids), -torch.inf).argmax(-1)
        is_token = torch.arange(best.shape[2]) < sampled.lengths[..., None]
        assert torch.equal(best[is_token], sampled.token_ids[is_token])
