"""Flash attention behind the package's attention, here a stand-in registered under its name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from focus_agents.engine.forward import prefill
from focus_agents.engine.generation import sample_completions
from focus_agents.engine.scoring import score_completions
from focus_agents.models import flash
from focus_agents.models.attention import (
    FOCUS_ATTENTION,
    FOCUS_FLASH,
    can_share_prefix,
    choose_attention,
    set_focus_attention,
)
from focus_agents.models.flash import FLASH, padding_mask, wants_flash
from focus_agents.models.loading import load_trainable_model
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.support_mass import SupportProbe
from focus_agents.rollout.records import Sampling
from focus_env.errors import MissingDependencyError
from tests.focus_agents.models.cases import make_case
from tests.focus_agents.models.families import ALL_LAYERS, FAMILIES, make_batch, make_model, model_inputs


class StandIn:
    """Attention over what is no padding, row by row, as flash attention has it; counts its calls."""

    def __init__(self) -> None:
        self.masks: list[torch.Size | None] = []

    def __call__(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *,
        scaling: float | None = None,
        dropout: float = 0.0,
        is_causal: bool | None = None,
        sliding_window: int | None = None,
    ) -> tuple[torch.Tensor, None]:
        assert module.config._attn_implementation == FLASH
        assert module.is_causal
        self.masks.append(None if attention_mask is None else attention_mask.shape)
        num_queries, num_keys = query.shape[2], key.shape[2]
        output = torch.zeros_like(query)
        for row in range(len(query)):
            real = torch.ones(num_keys, dtype=torch.bool) if attention_mask is None else attention_mask[row].bool()
            asking = real[num_keys - num_queries :]
            keys, values = (
                part[row][:, real].repeat_interleave(query.shape[1] // key.shape[1], 0) for part in (key, value)
            )
            seen = torch.ones(int(asking.sum()), int(real.sum()), dtype=torch.bool)
            seen = seen.tril(seen.shape[1] - seen.shape[0])  # the last query is at the last key
            output[row][:, asking] = torch.nn.functional.scaled_dot_product_attention(
                query[row][:, asking], keys, values, attn_mask=seen, scale=scaling
            )
        return output.transpose(1, 2), None


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    function = StandIn()
    before = ALL_ATTENTION_FUNCTIONS[FLASH]
    ALL_ATTENTION_FUNCTIONS.register(FLASH, function)
    monkeypatch.setattr(flash, "is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr(flash, "can_flash", lambda query: True)
    yield function
    ALL_ATTENTION_FUNCTIONS.register(FLASH, before)


@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_are_those_of_sdpa(processor: VLMProcessor, stand_in: StandIn, family: str) -> None:
    model, batch = make_model(family, processor), make_batch(processor)
    inputs = model_inputs(batch)
    is_real = inputs["attention_mask"].bool()
    assert not is_real.all()
    set_focus_attention(model)

    def measured() -> tuple[torch.Tensor, SupportProbe]:
        probe = SupportProbe.build(batch.query_mask, batch.support_mask, batch.prompts.attention_mask, ALL_LAYERS)
        with torch.no_grad():
            return model(**inputs, support_probe=probe).logits[is_real], probe

    expected, expected_probe = measured()
    assert stand_in.masks == []
    choose_attention(model, "auto", "bf16")
    assert model.config.get_text_config()._attn_implementation == FOCUS_FLASH
    assert model.config.vision_config._attn_implementation == "sdpa"
    found, probe = measured()
    assert stand_in.masks == [inputs["attention_mask"].shape] * len(ALL_LAYERS)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    for layer, mass in expected_probe.masses.items():
        torch.testing.assert_close(probe.masses[layer], mass, atol=1e-5, rtol=1e-4)
    set_focus_attention(model)  # as sampling and scoring call it
    assert model.config.get_text_config()._attn_implementation == FOCUS_FLASH


@pytest.mark.parametrize("is_shared", [True, False])
def test_groups_are_scored_alike_and_shared_rows_stay_with_sdpa(
    processor: VLMProcessor, prompts: list[Any], stand_in: StandIn, is_shared: bool
) -> None:
    model = make_model("qwen2_vl", processor)
    batch = processor.collate(prompts)
    token_ids = torch.randint(10, 200, (len(prompts), 2, 3), generator=torch.Generator().manual_seed(0))
    lengths = torch.full((len(prompts), 2), 3)

    def score() -> torch.Tensor:
        with torch.no_grad():
            return score_completions(model, batch, token_ids, lengths, shared_prefix=is_shared, temperature=1.0)[0]

    expected = score()
    choose_attention(model, "auto", "bf16")
    torch.testing.assert_close(score(), expected, atol=2e-5, rtol=1e-4)
    assert bool(stand_in.masks) is not is_shared


def test_a_step_behind_a_cache_sees_all_of_it(processor: VLMProcessor, prompts: list[Any], stand_in: StandIn) -> None:
    model = make_model("qwen2_vl", processor)
    batch = processor.collate(prompts[:1])
    choose_attention(model, "auto", "bf16")
    with torch.no_grad():
        whole = prefill(model, batch).hidden
    set_focus_attention(model)
    model.set_attn_implementation({"text_config": FOCUS_ATTENTION})
    with torch.no_grad():
        torch.testing.assert_close(whole, prefill(model, batch).hidden, atol=2e-5, rtol=1e-4)
    assert set(stand_in.masks) == {None}


@pytest.mark.parametrize("num_queries", [1, 3, 7])
@pytest.mark.parametrize("is_padded", [True, False])
def test_a_layer_that_is_not_on_cuda_is_left_to_sdpa(num_queries: int, is_padded: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 4, n, 8, generator=generator) for n in (num_queries, 7, 7))
    padding = torch.ones(2, 7, dtype=torch.bool)
    padding[1, :2] = False
    module = torch.nn.Module()
    module.is_causal = True  # type: ignore[assignment]
    seen = torch.ones(num_queries, 7, dtype=torch.bool).tril(7 - num_queries)[None, None]
    seen = seen & padding[:, None, None] if is_padded else seen
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=0.3)
    mask = padding if is_padded else None
    found = flash.flash_attention(module, query, key, value, mask, scaling=0.3).transpose(1, 2)
    real = padding[:, 7 - num_queries :] if is_padded else torch.ones(2, num_queries, dtype=torch.bool)
    torch.testing.assert_close(found.transpose(1, 2)[real], expected.transpose(1, 2)[real])


def test_masks_that_are_more_than_padding_are_those_of_sdpa() -> None:
    """As those of sliding windows, and of pictures whose tokens see each other in both directions."""
    arguments: dict[str, Any] = {
        "batch_size": 1, "q_length": 5, "kv_length": 5, "device": torch.device("cpu"), "attention_mask": None,
        "allow_is_causal_skip": False, "q_offset": 0, "kv_offset": 0,
    }  # fmt: skip

    def window(batch: int, head: int, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (key > query - 2)

    found = padding_mask(mask_function=window, **arguments)
    assert found is not None
    assert torch.equal(found, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"](mask_function=window, **arguments))


def test_a_model_is_loaded_with_it_where_it_is_there(stand_in: StandIn) -> None:
    for attention, precision, expected in [
        ("auto", "bf16", FOCUS_FLASH),
        ("auto", "fp32", FOCUS_ATTENTION),
        ("sdpa", "bf16", FOCUS_ATTENTION),
    ]:
        model = load_trainable_model("tiny", attention=attention, precision=precision)  # type: ignore[arg-type]
        assert model.config.get_text_config()._attn_implementation == expected


def test_where_it_is_asked_for_and_not_there_the_message_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not wants_flash("auto", "bf16")
    with pytest.raises(ValueError, match="attention: expected auto or sdpa with precision 'fp32', got 'flash'"):
        wants_flash("flash", "fp32")
    with pytest.raises(MissingDependencyError, match="torch sees no CUDA device; install the package flash-attn"):
        load_trainable_model("tiny", attention="flash", precision="bf16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(MissingDependencyError, match="the package flash-attn is not installed"):
        wants_flash("flash", "bf16")


@pytest.mark.parametrize("family", ["gemma3", "paligemma", "paligemma2", "qwen3_5", "smolvlm"])
def test_answers_of_models_with_other_masks_are_those_of_sdpa(
    processor: VLMProcessor, stand_in: StandIn, family: str
) -> None:
    """Prompts that see themselves, sliding windows and capped scores: prefill, each step of an answer, and scores."""
    case = make_case(family, processor)
    options: dict[str, Any] = {"num_completions": 2, "sampling": Sampling(1.0, 5), "seeds": range(3)}
    ends = {"eos_token_id": 511, "pad_token_id": case.processor.pad_token_id}

    def answer() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        sampled = sample_completions(case.model, case.batch, **options, **ends)
        shared = can_share_prefix(case.model.config)
        scored = score_completions(case.model, case.batch, sampled.token_ids, sampled.lengths, shared_prefix=shared)[0]
        return sampled.token_ids, sampled.logprobs, scored.detach()

    expected = answer()
    assert stand_in.masks == []
    choose_attention(case.model, "auto", "bf16")
    found = answer()
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1:], expected[1:], atol=2e-5, rtol=1e-4)
