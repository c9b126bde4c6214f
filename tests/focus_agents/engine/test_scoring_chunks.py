"""Scores whose logits are computed in chunks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from focus_agents.engine import scoring
from focus_agents.engine.grammar import AnswerGrammar
from focus_agents.engine.scoring import score_completions
from focus_agents.models.inputs import EncodedPrompt
from focus_agents.models.processing import VLMProcessor
from tests.focus_agents.engine.groups import Group, Learned, Pair, assert_same, learn, recorded, shared


class TestChunks:
    """Of the head's logits."""

    @pytest.fixture
    def long(self, processor: VLMProcessor, questions: list[EncodedPrompt]) -> Group:
        """Two prompts with 290 answer tokens, more than the least size of a chunk."""
        generator = torch.Generator().manual_seed(4)
        prompts = [questions[0], questions[1]]
        lengths = torch.tensor([[60, 60, 25], [60, 60, 25]])
        weights = torch.randn(2, 3, 60, generator=generator) * (torch.arange(60) < lengths[..., None])
        token_ids = torch.randint(300, (2, 3, 60), generator=generator)
        return Group(prompts, processor.collate(prompts), token_ids, lengths, weights)

    @staticmethod
    def run(model: Any, group: Group, **options: Any) -> tuple[Learned, list[int], list[int], torch.Tensor]:
        """Also the rows of each call of the head, those of the logits kept for backward, and the entropies."""
        kept: list[int] = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.ndim == 2 and tensor.shape[1] == 512 and tensor.shape[0] != 64:
                kept.append(len(tensor))
            return tensor

        entropies: list[torch.Tensor] = []

        def score(model: Any, group: Group) -> torch.Tensor:
            logprobs, found = score_completions(model, group.batch, group.token_ids, group.lengths, **options)
            entropies.append(found)
            return logprobs

        with (
            recorded(model.lm_head, lambda inputs, *_: len(inputs[0])) as calls,
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            learned = learn(model, group, score)
        return learned, calls, kept, entropies[0]

    @pytest.mark.parametrize("shared_prefix", [True, False])
    def test_one_at_a_time(
        self, qwen2: Pair, long: Group, monkeypatch: pytest.MonkeyPatch, shared_prefix: bool
    ) -> None:
        options: dict[str, Any] = {"temperature": 0.7, "banned_token_ids": [400], "shared_prefix": shared_prefix}
        whole, calls, kept, entropies = self.run(qwen2.model, long, **options)
        assert calls == [290]
        assert kept, "logits are kept, and would be seen here"
        assert set(kept) == {290}
        monkeypatch.setattr(scoring, "LOGITS_PER_CHUNK", 1)
        chunked, calls, kept, chunked_entropies = self.run(qwen2.model, long, **options)
        assert calls[:2] == [256, 34]
        assert sorted(calls[2:]) == [34, 256], "computed again in the backward pass"
        assert kept == []
        assert_same(chunked, whole, 1e-6)
        torch.testing.assert_close(chunked_entropies, entropies, rtol=0, atol=1e-6)

    def test_size(self, qwen2: Pair, long: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        """As many rows as fit the number of logits, which counts the vocabulary."""
        for num_logits, sizes in ((512 * 290, [290]), (512 * 289, [289, 1]), (512 * 270 + 511, [270, 20])):
            monkeypatch.setattr(scoring, "LOGITS_PER_CHUNK", num_logits)
            with torch.no_grad(), recorded(qwen2.model.lm_head, lambda inputs, *_: len(inputs[0])) as calls:
                shared(qwen2.model, long)
            assert calls == sizes

    def test_with_a_grammar(
        self,
        model: Any,
        processor: VLMProcessor,
        questions: list[EncodedPrompt],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Each row keeps what was allowed in its own place."""
        grammar = AnswerGrammar(processor.tokenizer, 512, eos_token_id=processor.eos_token_id)
        texts = [f"<answer>[{n}, {7 * n}, {1000 - n}, {33 + n}]</answer>" for n in range(14)]
        ids = [processor.encode_answer(text) for text in texts]
        lengths = torch.tensor([[len(answer) for answer in ids]])
        assert lengths.sum() > 256
        token_ids = torch.full((1, 14, int(lengths.max())), 17)
        for g, answer in enumerate(ids):
            token_ids[0, g, : len(answer)] = torch.tensor(answer)
        batch = processor.collate(questions[:1])
        results = []
        for num_logits in (2**25, 1):
            monkeypatch.setattr(scoring, "LOGITS_PER_CHUNK", num_logits)
            with torch.no_grad():
                results.append(score_completions(model, batch, token_ids, lengths, grammar=grammar))
        (whole, entropies), (chunked, chunked_entropies) = results
        assert whole.isfinite().all()
        assert whole.sum() < -10
        torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-6)
        torch.testing.assert_close(chunked_entropies, entropies, rtol=0, atol=1e-6)
