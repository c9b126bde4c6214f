"""The layout of a group in one row, its masks, its attention and the cache that it decodes from.

Axis letters: N groups, G answers per group, T tokens of the longest answer, P prompt columns, C answer columns, K key
columns, A heads, H key-value heads, D head size.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from focus_agents.engine.generation import sample_completions
from focus_agents.models import attention
from focus_agents.models.inputs import EncodedPrompt
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.shared_prefix import (
    BufferLayer,
    SharedPrefix,
    additive,
    answer_mask,
    pack_answers,
    prompt_mask,
    shared_prefix_attention,
)
from focus_agents.rollout.records import Sampling


@st.composite
def answers(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """([N, G, T] token ids, no two of which are equal, [N, G] lengths)."""
    num_groups, num_answers, num_tokens = (draw(st.integers(1, limit)) for limit in (3, 4, 5))
    shape = (num_groups, num_answers)
    lengths = draw(st.lists(st.integers(0, num_tokens), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    token_ids = 100 + torch.arange(num_groups * num_answers * num_tokens)
    return token_ids.view(*shape, num_tokens), torch.tensor(lengths).view(shape)


def ragged_padding(num_rows: int, num_columns: int) -> torch.Tensor:
    """[N, P] int64 attention mask, row n with n + 1 columns of padding on the left; the last row with none."""
    mask = torch.ones(num_rows, num_columns, dtype=torch.int64)
    for row in range(num_rows - 1):
        mask[row, : row + 1] = 0
    return mask


class TestPackAnswers:
    """Answers behind one another, each without its last token."""

    def test_by_hand(self) -> None:
        token_ids = torch.tensor([[[5, 6, 7], [8, 9, 99], [4, 99, 99]], [[1, 99, 99], [2, 3, 99], [11, 12, 99]]])
        packed = pack_answers(token_ids, torch.tensor([[3, 2, 1], [1, 2, 2]]))
        assert packed.input_ids.tolist() == [[5, 6, 8], [2, 11, 0]]
        assert packed.answer.tolist() == [[0, 0, 1], [1, 2, -1]]
        assert packed.offset.tolist() == [[0, 1, 0], [0, 0, 0]]
        assert packed.predictor.tolist() == [
            [[0, 1, 2], [0, 3, 0], [0, 0, 0]],
            [[0, 0, 0], [0, 1, 0], [0, 2, 0]],
        ]
        for part in (packed.input_ids, packed.answer, packed.offset, packed.predictor):
            assert part.dtype == torch.int64

    @pytest.mark.parametrize("lengths", [[[1, 1]], [[0, 0]], [[0, 1]]])
    def test_nothing_is_fed(self, lengths: list[list[int]]) -> None:
        packed = pack_answers(torch.tensor([[[5, 6], [7, 8]]]), torch.tensor(lengths))
        assert packed.input_ids.shape == packed.answer.shape == packed.offset.shape == (1, 0)
        assert packed.predictor.tolist() == [[[0, 0], [0, 0]]]

    @given(answers())
    def test_each_token_is_there_once_behind_what_predicts_it(self, given: tuple[torch.Tensor, torch.Tensor]) -> None:
        token_ids, lengths = given
        packed = pack_answers(token_ids, lengths)
        rows = []
        for group, group_lengths in zip(token_ids.tolist(), lengths.tolist(), strict=True):
            fed = [
                (token, answer, offset)
                for answer, (ids, length) in enumerate(zip(group, group_lengths, strict=True))
                for offset, token in enumerate(ids[: max(length - 1, 0)])
            ]
            rows.append(fed)
        num_columns = max(len(fed) for fed in rows)
        for n, fed in enumerate(rows):
            padded = fed + [(0, -1, 0)] * (num_columns - len(fed))
            columns = zip(
                packed.input_ids[n].tolist(), packed.answer[n].tolist(), packed.offset[n].tolist(), strict=True
            )
            assert list(columns) == padded
            for g, length in enumerate(lengths[n].tolist()):
                first, *later = packed.predictor[n, g].tolist()
                assert first == 0
                for step, where in enumerate(later, start=1):
                    if step < length:
                        before = (int(token_ids[n, g, step - 1]), g, step - 1)
                        assert fed[where - 1] == before
                        assert where > 0
                    else:
                        assert where == 0

    @given(answers())
    def test_what_stands_after_the_end_does_not_matter(self, given: tuple[torch.Tensor, torch.Tensor]) -> None:
        token_ids, lengths = given
        is_after = torch.arange(token_ids.shape[2]) >= lengths[..., None]
        first, second = (pack_answers(ids, lengths) for ids in (token_ids, token_ids.masked_fill(is_after, -100)))
        for name in ("input_ids", "answer", "offset", "predictor"):
            assert torch.equal(getattr(first, name), getattr(second, name))


class TestMasks:
    """What a token sees."""

    def test_answers_by_hand(self) -> None:
        """Two answers of three and two tokens, of which two and one are fed; one column of padding."""
        packed = pack_answers(torch.tensor([[[5, 6, 7], [8, 9, 0]]]), torch.tensor([[3, 2]]))
        mask = answer_mask(packed, torch.tensor([[0, 1]]))
        assert mask.dtype == torch.bool
        assert mask.int().tolist() == [[[[0, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 1, 0, 0, 1]]]]

    @given(answers(), st.integers(1, 4))
    def test_answers_by_a_loop(self, given: tuple[torch.Tensor, torch.Tensor], num_columns: int) -> None:
        packed = pack_answers(*given)
        num_groups, num_fed = packed.answer.shape
        seen = ragged_padding(num_groups, num_columns + num_groups)
        mask = answer_mask(packed, seen)
        assert mask.shape == (num_groups, 1, num_fed, seen.shape[1] + num_fed)
        for n in range(num_groups):
            answer, offset = packed.answer[n].tolist(), packed.offset[n].tolist()
            for c in range(num_fed):
                assert mask[n, 0, c, : seen.shape[1]].tolist() == seen[n].bool().tolist()
                own = mask[n, 0, c, seen.shape[1] :].tolist()
                assert own == [answer[k] == answer[c] and offset[k] <= offset[c] for k in range(num_fed)]
                if answer[c] >= 0:
                    assert own[c]
                    assert sum(own) == offset[c] + 1

    def test_prompts_without_padding_need_none(self) -> None:
        assert prompt_mask(torch.ones(3, 4, dtype=torch.int64)) is None

    def test_prompts_by_hand(self) -> None:
        mask = prompt_mask(torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]))
        assert mask is not None
        assert mask.dtype == torch.bool
        assert mask.int().tolist() == [
            [[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]],
            [[[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]],
        ]

    @given(st.integers(1, 7), st.lists(st.integers(0, 6), min_size=1, max_size=4))
    def test_prompts_see_no_padding_and_never_nothing(self, num_columns: int, num_padding: list[int]) -> None:
        counts = torch.tensor([min(count, num_columns - 1) for count in num_padding])
        is_token = torch.arange(num_columns) >= counts[:, None]
        mask = prompt_mask(is_token.long())
        assert (mask is None) == (not counts.any())
        if mask is None:
            return
        for n in range(len(counts)):
            for row in range(num_columns):
                seen = mask[n, 0, row].nonzero()[:, 0].tolist()
                if is_token[n, row]:
                    assert seen == list(range(int(counts[n]), row + 1))
                else:
                    assert seen == [row]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_additive(self, dtype: torch.dtype) -> None:
        added = additive(torch.tensor([[True, False]]), dtype)
        assert added.dtype == dtype
        assert added.tolist() == [[0.0, -torch.inf]]


def plain_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scaling: float
) -> torch.Tensor:
    """[N, A, Q, D] from scores in which every row of every head stands; mask [N, Q, K] bool."""
    repeats = query.shape[1] // key.shape[1]
    scores = scaling * query @ key.repeat_interleave(repeats, 1).mT
    return scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1) @ value.repeat_interleave(repeats, 1)


class TestAttention:
    """Prompt and answers in two parts give what one softmax under the whole mask gives."""

    @pytest.mark.parametrize("scaling", [None, 0.7])
    @pytest.mark.parametrize(("num_heads", "num_key_heads"), [(4, 2), (6, 1), (3, 3)])
    @pytest.mark.parametrize("is_padded", [False, True])
    @pytest.mark.parametrize("is_cached", [False, True])
    def test_value_and_gradients(
        self, is_cached: bool, is_padded: bool, num_heads: int, num_key_heads: int, scaling: float | None
    ) -> None:
        num_prompt, size = 7, 8
        token_ids = torch.arange(2 * 3 * 5).view(2, 3, 5)
        packed = pack_answers(token_ids, torch.tensor([[5, 1, 3], [2, 4, 2]]))
        num_fed = packed.answer.shape[1]
        seen = torch.ones(2, num_prompt, dtype=torch.int64)
        if is_padded:
            seen[0, :3] = 0
        num_columns = num_prompt + num_fed
        whole = torch.zeros(2, num_columns, num_columns, dtype=torch.bool)
        for n in range(2):
            for row in range(num_columns):
                for column in range(num_prompt):
                    whole[n, row, column] = (seen[n, column] and column <= row) or column == row
                for column in range(num_prompt, row + 1):
                    whole[n, row, column] = packed.answer[n, row - num_prompt] == packed.answer[n, column - num_prompt]
        is_filler = packed.answer < 0  # it stands for nothing, and what it sees does not matter
        assert is_filler.any()

        generator = torch.Generator().manual_seed(num_heads)
        query, key, value, weights = (
            torch.randn(2, heads, num_columns, size, generator=generator, dtype=torch.float64, requires_grad=True)
            for heads in (num_heads, num_key_heads, num_key_heads, num_heads)
        )
        weights = weights.detach()
        weights[:, :, num_prompt:] *= ~is_filler[:, None, :, None]
        start = num_prompt if is_cached else 0
        layout = SharedPrefix(num_prompt - start, None if is_cached else prompt_mask(seen))
        assert (layout.prompt_mask is not None) == (is_padded and not is_cached)
        added = additive(answer_mask(packed, seen), torch.float32)
        ours = shared_prefix_attention(query[:, :, start:], key, value, added, layout, scaling=scaling)
        expected = plain_attention(query, key, value, whole, size**-0.5 if scaling is None else scaling)[:, :, start:]
        weights = weights[:, :, start:]
        assert ours.shape == expected.shape
        torch.testing.assert_close(ours * (weights != 0), expected * (weights != 0), rtol=0, atol=1e-12)
        found, right = (
            torch.autograd.grad((weights * output).sum(), [query, key, value]) for output in (ours, expected)
        )
        for gradient, other in zip(found, right, strict=True):
            assert other.abs().max() > 0.1
            torch.testing.assert_close(gradient, other, rtol=0, atol=1e-12)


class TestBufferLayer:
    """Keys and values of a layer."""

    @staticmethod
    def columns(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        key, value = torch.randn(2, 3, 2, count, 4, generator=generator, dtype=torch.float64)
        return key, value

    def test_appends_in_place(self) -> None:
        layer = BufferLayer(9)
        assert (layer.get_seq_length(), layer.get_max_length(), layer.is_initialized) == (0, 9, False)
        given, places = [], set()
        for step, count in enumerate((4, 1, 1, 3)):
            assert layer.get_mask_sizes(count) == (layer.get_seq_length() + count, 0)
            given.append(self.columns(count, step))
            results = layer.update(*given[-1])
            for result, parts in zip(results, zip(*given, strict=True), strict=True):
                assert torch.equal(result, torch.cat(parts, dim=2))
                assert result.dtype == torch.float64
            assert layer.get_seq_length() == results[0].shape[2] == results[1].shape[2]
            places.add(tuple(result.data_ptr() for result in results))
            assert {result.untyped_storage().nbytes() for result in results} == {3 * 2 * 9 * 4 * 8}
        assert len(places) == 1, "nothing is copied elsewhere"
        assert layer.get_seq_length() == 9

    @pytest.mark.parametrize(("before", "count"), [(0, 4), (2, 2), (2, 5), (3, 2), (3, 1)])
    def test_more_than_it_holds(self, before: int, count: int) -> None:
        layer = BufferLayer(3)
        if before:
            layer.update(*self.columns(before, 1))
        with pytest.raises(ValueError, match=f"cache: expected at most 3 columns, got {before + count}"):
            layer.update(*self.columns(count, 2))


class TestMemory:
    """Of a group that is sampled."""

    @pytest.mark.parametrize("num_answers", [1, 4, 16])
    def test_a_prompts_keys_are_there_once(
        self,
        model: Any,
        processor: VLMProcessor,
        prompts: list[EncodedPrompt],
        monkeypatch: pytest.MonkeyPatch,
        num_answers: int,
    ) -> None:
        """[N, H, P + (T - 1) G, D] numbers for each layer, in one place from the first step to the last."""
        by_layer: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        forward = attention.shared_prefix_attention
        steps = 0

        def kept(
            query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, *rest: Any, **options: Any
        ) -> torch.Tensor:
            nonlocal steps
            by_layer.setdefault(steps % 3, []).append((key, value))
            steps += 1
            assert query.shape[:3] == (3, 4, num_answers)
            return forward(query, key, value, mask, *rest, **options)

        monkeypatch.setattr(attention, "shared_prefix_attention", kept)
        batch = processor.collate(prompts)
        num_columns = batch.input_ids.shape[1]
        sample_completions(
            model,
            batch,
            num_completions=num_answers,
            sampling=Sampling(1.0, 6),
            seeds=[1, 2, 3],
            eos_token_id=-1,
            pad_token_id=428,
        )
        assert sorted(by_layer) == [0, 1, 2]
        places = set()
        for calls in by_layer.values():
            assert len(calls) == 5, "the first token comes from the prompt"
            for tensors in zip(*calls, strict=True):
                columns = [num_columns + step * num_answers for step in range(1, 6)]
                assert [tuple(tensor.shape) for tensor in tensors] == [(3, 2, count, 24) for count in columns]
                (place,) = {(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()) for t in tensors}
                assert place[1] == 4 * 3 * 2 * 24 * (num_columns + 5 * num_answers)
                places.add(place)
        assert len(places) == 3 * 2, "keys and values of each layer"
