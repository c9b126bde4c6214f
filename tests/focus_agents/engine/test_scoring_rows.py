"""The row that a group shares: what stands in it once, and that no answer sees another."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from focus_agents.engine import scoring
from focus_agents.engine.scoring import shared_prefix_gap
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.shared_prefix import PackedAnswers, answer_mask, pack_answers
from tests.focus_agents.engine.groups import (
    Group,
    Pair,
    Score,
    assert_same_gradients,
    from_prefix,
    learn,
    recorded,
    repeated,
    shared,
)
from tests.focus_agents.models.families import patch_grid


class TestIndependence:
    """An answer's log-probabilities are its own."""

    @pytest.mark.parametrize("score", [shared, repeated, from_prefix])
    def test_what_stands_after_the_end_does_not_matter(self, pair: Pair, five: Group, score: Score) -> None:
        """Not even a picture's token."""
        is_after = five.weights == 0
        other = five._replace(token_ids=five.token_ids.masked_fill(is_after, pair.model.config.image_token_id))
        first, second = learn(pair.model, five, score), learn(pair.model, other, score)
        assert torch.equal(first.logprobs, second.logprobs)
        assert_same_gradients(second.gradients, first.gradients, 1e-6)

    @pytest.mark.parametrize("score", [shared, from_prefix])
    def test_other_answers_do_not_matter(self, pair: Pair, five: Group, score: Score) -> None:
        """Neither their tokens nor how long they are; nor those of other prompts."""
        tokens = torch.randint(300, five.token_ids.shape, generator=torch.Generator().manual_seed(9))
        tokens[:, 2] = five.token_ids[:, 2]
        lengths = torch.tensor([[2, 3, 6, 1, 8], [1, 7, 1, 1, 2], [8, 1, 4, 1, 1]])
        assert torch.equal(lengths[:, 2], five.lengths[:, 2])
        with torch.no_grad():
            before = score(pair.model, five)
            other_tokens = score(pair.model, five._replace(token_ids=tokens))
            other_lengths = score(pair.model, five._replace(token_ids=tokens, lengths=lengths))
        torch.testing.assert_close(other_tokens[:, 2], before[:, 2], rtol=0, atol=1e-6)
        # Other columns are other shapes of matrix products, which round otherwise.
        torch.testing.assert_close(other_lengths[:, 2], before[:, 2], rtol=0, atol=5e-6)
        assert (other_tokens - before)[:, [0, 1, 3, 4]].abs().max() > 1

    def test_no_gradient_reaches_another_answer(self, qwen2: Pair, five: Group) -> None:
        """Exactly none, in whichever order they stand."""
        found: list[torch.Tensor] = []

        def keep(module: Any, inputs: Any, keywords: Any) -> None:
            found.append(keywords["inputs_embeds"])

        packed = pack_answers(five.token_ids, five.lengths)
        num_columns = five.batch.input_ids.shape[1]
        with qwen2.model.model.language_model.register_forward_pre_hook(keep, with_kwargs=True):
            logprobs = shared(qwen2.model, five)
        for g in range(5):
            (gradient,) = torch.autograd.grad(logprobs[:, g].sum(), found[0], retain_graph=True)
            reached = gradient[:, num_columns:].ne(0).any(-1)
            assert torch.equal(reached, packed.answer == g)
            assert torch.equal(gradient[:, :num_columns].ne(0).any(-1), five.batch.attention_mask.bool())

    def test_order_of_prompts(self, qwen2: Pair, five: Group, processor: VLMProcessor) -> None:
        order = [2, 0, 1]
        turned = Group(
            [five.prompts[n] for n in order],
            processor.collate([five.prompts[n] for n in order]),
            *(part[order] for part in (five.token_ids, five.lengths, five.weights)),
        )
        with torch.no_grad():
            first, second = shared(qwen2.model, five), shared(qwen2.model, turned)
        torch.testing.assert_close(second, first[order], rtol=0, atol=5e-6)


class TestTheRow:
    """What is computed once, and where the answers stand."""

    def test_a_prompt_is_there_once(self, pair: Pair, five: Group) -> None:
        num_columns = five.batch.input_ids.shape[1]
        num_patches = len(five.batch.images["pixel_values"])
        model = pair.model
        for score, shapes, times in (
            (shared, [(3, num_columns + 15)], 1),
            (from_prefix, [(3, num_columns), (3, 15)], 1),
            (repeated, [(15, num_columns + 8)], 5),
        ):
            with (
                torch.no_grad(),
                recorded(model.model.visual, lambda inputs, *_: len(inputs[0])) as patches,
                recorded(model.model.language_model, lambda _, kw, __: tuple(kw["inputs_embeds"].shape[:2])) as rows,
                recorded(model.lm_head, lambda inputs, *_: tuple(inputs[0].shape)) as states,
            ):
                score(model, five)
            assert patches == [times * num_patches]
            assert rows == shapes
            assert states == [(int(five.lengths.sum()), 64)], "the head sees the answers' tokens alone"

    def test_positions_start_anew_after_the_prompt(self, pair: Pair, five: Group) -> None:
        """On all three axes those that transformers counts out for a prompt with one answer."""
        by_score = {}
        for score in (shared, from_prefix):
            with (
                torch.no_grad(),
                recorded(pair.model.model.language_model, lambda _, kw, __: kw["position_ids"]) as found,
            ):
                score(pair.model, five)
            by_score[score] = torch.cat(found, dim=2)
        assert torch.equal(by_score[shared], by_score[from_prefix])
        num_columns = five.batch.input_ids.shape[1]
        packed = pack_answers(five.token_ids, five.lengths)
        for n, prompt in enumerate(five.prompts):
            ids = torch.cat([torch.tensor(prompt.input_ids), five.token_ids[n, 0]])[None]
            expected = pair.reference.model.get_rope_index(
                ids,
                mm_token_type_ids=(ids == pair.model.config.image_token_id).int(),
                image_grid_thw=patch_grid(prompt.grids),
            )[0][:, 0]
            ours = by_score[shared][:, n]
            num_prompt = len(prompt.input_ids)
            assert torch.equal(ours[:, num_columns - num_prompt : num_columns], expected[:, :num_prompt])
            for g, length in enumerate(five.lengths[n].tolist()):
                own = ours[:, num_columns:][:, packed.answer[n] == g]
                assert torch.equal(own, expected[:, num_prompt : num_prompt + length - 1])


class TestGap:
    """`shared_prefix_gap`: next to nothing for a model that is scored rightly, and much where it is not."""

    @staticmethod
    def gap(model: Any, group: Group, **options: Any) -> float:
        return shared_prefix_gap(model, group.batch, group.token_ids, group.lengths, **options)

    def test_right(self, pair: Pair, group: Group) -> None:
        gap = self.gap(pair.model, group)
        assert isinstance(gap, float)
        assert 0 <= gap < 1e-5

    def test_answers_that_see_each_other(self, pair: Pair, five: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        def causal(packed: PackedAnswers, prompt_attention_mask: torch.Tensor) -> torch.Tensor:
            mask = answer_mask(packed, prompt_attention_mask)
            columns = packed.answer.shape[1]
            mask[..., -columns:] = torch.ones(columns, columns, dtype=torch.bool).tril()
            return mask

        monkeypatch.setattr(scoring, "answer_mask", causal)
        assert self.gap(pair.model, five) > 0.1

    def test_positions_that_go_on(self, pair: Pair, five: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        """From one answer to the next, while the mask stays right."""

        def without_restart(token_ids: torch.Tensor, lengths: torch.Tensor) -> PackedAnswers:
            packed = pack_answers(token_ids, lengths)
            columns = torch.arange(packed.offset.shape[1]).expand_as(packed.offset)
            return dataclasses.replace(packed, offset=columns)

        monkeypatch.setattr(scoring, "pack_answers", without_restart)
        assert self.gap(pair.model, five) > 0.1

    def test_padding_that_is_seen(self, pair: Pair, five: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(scoring, "prompt_mask", lambda *_: None)
        assert self.gap(pair.model, five) > 0.1

    def test_by_hand(self, qwen2: Pair, five: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        """A mean over answer tokens, and infinite if anything is not a number. Options reach both ways."""
        calls: list[dict[str, Any]] = []
        answer = {True: torch.zeros(3, 5, 8), False: torch.zeros(3, 5, 8)}

        def fake(*_: Any, **options: Any) -> tuple[torch.Tensor, None]:
            assert not torch.is_grad_enabled()
            calls.append(options)
            return answer[options["shared_prefix"]], None

        monkeypatch.setattr(scoring, "score_completions", fake)
        answer[True][0, 0, :2] = torch.tensor([3.0, -7.0])
        assert self.gap(qwen2.model, five, temperature=0.5) == pytest.approx(10 / int(five.lengths.sum()))
        assert calls == [{"shared_prefix": way, "temperature": 0.5} for way in (True, False)]
        answer[False][2, 1, 0] = torch.nan
        assert self.gap(qwen2.model, five) == float("inf")
