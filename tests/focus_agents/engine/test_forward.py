"""The passes below sampling and scoring: prefixes, positions, and log-probabilities of logits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from focus_agents.engine.forward import prefill, token_logprobs
from focus_agents.models.inputs import EncodedPrompt
from focus_agents.models.loading import load_trainable_model
from focus_agents.models.processing import VLMProcessor
from tests.focus_agents.engine.groups import Group, Pair, assert_same, learn, oracle, repeated, shared
from tests.focus_agents.models.families import patch_grid


def test_a_prefix_is_refused_where_prompts_are_repeated(qwen2: Pair, five: Group) -> None:
    with pytest.raises(ValueError, match="prefix: expected None where prompts are repeated; pass shared_prefix=True"):
        repeated(qwen2.model, five, prefix=prefill(qwen2.model, five.batch))


def test_a_prefix_is_used_up(qwen2: Pair, five: Group) -> None:
    prefix = prefill(qwen2.model, five.batch)
    shared(qwen2.model, five, prefix=prefix)
    with pytest.raises(ValueError, match="prefix: expected one that is fresh from prefill"):
        shared(qwen2.model, five, prefix=prefix)


def test_a_model_that_fills_no_cache_is_refused(five: Group) -> None:
    model = load_trainable_model("tiny", gradient_checkpointing=True)
    with pytest.raises(
        ValueError, match=r"cache: expected keys of .* columns after the prompts, got 0; under gradient"
    ):
        prefill(model, five.batch)


@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 0], [1], [0, 0, 1]])
def test_some_prompts_of_a_prefix(qwen2: Pair, five: Group, processor: VLMProcessor, rows: list[int]) -> None:
    """In any order, with padding that they do not need; gradients go on to the forward pass that they came from."""
    prompts = [five.prompts[n] for n in rows]
    group = Group(
        prompts, processor.collate(prompts), *(part[rows] for part in (five.token_ids, five.lengths, five.weights))
    )

    def selected(model: Any, group: Group) -> torch.Tensor:
        return shared(model, group, prefix=prefill(model, five.batch).select(rows))

    assert_same(learn(qwen2.model, group, selected), learn(qwen2.reference, group, oracle))


def test_parts_of_a_prefix_are_used_up_by_themselves(qwen2: Pair, five: Group) -> None:
    with torch.no_grad():
        whole = prefill(qwen2.model, five.batch)
        assert whole.select([0, 1, 2]) is whole
        expected = shared(qwen2.model, five)
        for n in (1, 0, 1):
            one = five._replace(token_ids=five.token_ids[n : n + 1], lengths=five.lengths[n : n + 1])
            ours = shared(qwen2.model, one, prefix=whole.select([n]))
            torch.testing.assert_close(ours[0], expected[n], rtol=0, atol=5e-6)


def test_the_first_completion_token_follows_the_prompt_in_position(
    model: Any, processor: VLMProcessor, prompts: list[EncodedPrompt]
) -> None:
    """Pictures take fewer positions than tokens: position P + delta, with transformers' own delta."""
    batch = processor.collate(prompts)
    _, delta = model.model.get_rope_index(
        batch.input_ids,
        mm_token_type_ids=batch.image_mask.int(),
        image_grid_thw=patch_grid(batch.grids),
        attention_mask=batch.attention_mask,
    )
    expected = batch.attention_mask.sum(1) + delta[:, 0]
    with torch.no_grad():
        assert prefill(model, batch).next_position.tolist() == expected.tolist()
    assert (expected < batch.attention_mask.sum(1)).all()


@pytest.mark.parametrize(
    ("logits", "temperature", "banned", "probabilities"),
    [
        ([0.0, 0.0, math.log(2)], 1.0, [2], [0.5, 0.5, 0.0]),
        ([0.0, 0.0, math.log(2)], 1.0, [], [0.25, 0.25, 0.5]),
        ([0.0, 0.0, math.log(2)], 0.5, [], [1 / 6, 1 / 6, 4 / 6]),
        ([0.0, 0.0, math.log(2)], 0.0, [], [0.25, 0.25, 0.5]),
        ([0.0, 0.0, math.log(4)], 2.0, [0], [0.0, 1 / 3, 2 / 3]),
        ([300.0, -300.0, 0.0], 0.01, [], [1.0, 0.0, 0.0]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_token_logprobs_by_hand(
    logits: list[float], temperature: float, banned: list[int], probabilities: list[float], dtype: torch.dtype
) -> None:
    given = torch.tensor([[logits]], dtype=dtype)
    logprobs = token_logprobs(given, temperature, banned)
    assert logprobs.dtype == torch.float32
    assert logprobs.exp()[0, 0].tolist() == pytest.approx(probabilities, abs=0.005 if dtype == torch.bfloat16 else 1e-6)
    assert given[0, 0].isfinite().all(), "the logits are left as they were"
