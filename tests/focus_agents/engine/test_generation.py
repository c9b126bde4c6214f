"""Sampling from one prefill, against fresh forward passes.

Axis letters: N prompts, G completions per prompt, T completion tokens, P prompt tokens, V vocabulary.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from focus_agents.engine.forward import encode_images, prefill
from focus_agents.engine.generation import SampledBatch
from focus_agents.engine.scoring import score_completions
from focus_agents.models.inputs import EncodedPrompt, PromptBatch
from focus_agents.models.processing import VLMProcessor
from tests.focus_agents.engine.oracle import score_by_repetition
from tests.focus_agents.engine.sampling import draw, tokens_of
from tests.focus_agents.models.families import FAMILIES, make_model


class TestAgainstAFreshForward:
    """What sampling says of its own tokens is what the model says of them afterwards, however it is asked."""

    @staticmethod
    def check(model: Any, prompts: list[EncodedPrompt], batch: PromptBatch, **options: Any) -> SampledBatch:
        """Against the oracle, and against what GRPO learns from."""
        sampled = draw(model, batch, **options)
        is_after = torch.arange(sampled.token_ids.shape[2]) >= sampled.lengths[..., None]
        scored = {name: options[name] for name in ("temperature", "banned_token_ids") if name in options}
        fresh, _ = score_completions(model, batch, sampled.token_ids, sampled.lengths, **scored)
        if scored.get("temperature") == 0:
            scored["temperature"] = 1.0
        expected, _ = score_by_repetition(model, prompts, sampled.token_ids, **scored)
        assert sampled.logprobs.dtype == torch.float32
        torch.testing.assert_close(sampled.logprobs, expected.masked_fill(is_after, 0), rtol=0, atol=1e-5)
        torch.testing.assert_close(sampled.logprobs, fresh, rtol=0, atol=1e-5)
        return sampled

    @pytest.mark.parametrize("temperature", [0.0, 1.0, 0.7])
    @pytest.mark.parametrize("banned", [[], [428, 3, 198]])
    def test_logprobs(
        self,
        model: Any,
        processor: VLMProcessor,
        prompts: list[EncodedPrompt],
        temperature: float,
        banned: list[int],
    ) -> None:
        self.check(model, prompts, processor.collate(prompts), temperature=temperature, banned_token_ids=banned)

    @pytest.mark.parametrize("which", [[0], [2, 0, 1]])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_families(
        self, processor: VLMProcessor, prompts: list[EncodedPrompt], family: str, which: list[int]
    ) -> None:
        """Five answers each, some of which end early."""
        chosen = [prompts[n] for n in which]
        model, batch = make_model(family, processor), processor.collate(chosen)
        options: dict[str, Any] = {
            "num_completions": 5,
            "banned_token_ids": [token for token in range(512) if token % 41],
        }
        eos = int(draw(model, batch, **options).token_ids[0, 1, 2])
        sampled = self.check(model, chosen, batch, eos_token_id=eos, **options)
        assert sampled.lengths.min() < sampled.lengths.max() == 6

    @pytest.mark.parametrize("num_tokens", [1, 2])
    def test_short_completions(
        self, model: Any, processor: VLMProcessor, prompts: list[EncodedPrompt], num_tokens: int
    ) -> None:
        self.check(model, prompts, processor.collate(prompts), num_tokens=num_tokens)

    def test_adapters(self, model: Any, processor: VLMProcessor, prompts: list[EncodedPrompt]) -> None:
        lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        adapted = get_peft_model(copy.deepcopy(model), lora).eval()
        batch = processor.collate(prompts)
        sampled = draw(adapted, batch)
        expected, _ = score_by_repetition(adapted.merge_and_unload(), prompts, sampled.token_ids)
        torch.testing.assert_close(sampled.logprobs, expected, rtol=0, atol=1e-5)
        plain, _ = score_by_repetition(model, prompts, sampled.token_ids)
        assert (plain - expected).abs().max() > 1e-3


class TestIndependence:
    """A prompt's completions are its own."""

    @pytest.mark.parametrize("company", [[1], [0, 1], [1, 0], [2, 1, 0, 0, 1]])
    def test_neighbours_do_not_matter(
        self, model: Any, processor: VLMProcessor, prompts: list[EncodedPrompt], company: list[int]
    ) -> None:
        alone = draw(model, processor.collate(prompts[1:2]), seeds=[77], num_completions=3)
        seeds = [77 if n == 1 else 5 for n in company]
        together = draw(model, processor.collate([prompts[n] for n in company]), seeds=seeds, num_completions=3)
        for row, n in enumerate(company):
            if n == 1:
                assert together.token_ids[row].tolist() == alone.token_ids[0].tolist()
                torch.testing.assert_close(together.logprobs[row], alone.logprobs[0], rtol=0, atol=1e-5)

    def test_a_neighbour_that_goes_on_does_not_matter(
        self, model: Any, processor: VLMProcessor, prompts: list[EncodedPrompt]
    ) -> None:
        eos = draw(model, processor.collate(prompts[1:2]), seeds=[9]).token_ids[0, 0, 2].item()
        options: dict[str, Any] = {"eos_token_id": eos, "num_tokens": 8}
        alone = draw(model, processor.collate(prompts[1:2]), seeds=[9], **options)
        together = draw(model, processor.collate(prompts), seeds=[1, 9, 2], **options)
        assert alone.lengths[0, 0] <= 3
        assert tokens_of(together)[1] == tokens_of(alone)[0]

    def test_seeds_decide(self, model: Any, processor: VLMProcessor, prompts: list[EncodedPrompt]) -> None:
        batch = processor.collate([prompts[0]] * 3)
        first, second, third = draw(model, batch, seeds=[4, 4, 5]).token_ids.tolist()
        assert first == second != third
        assert first[0] != first[1], "completions of a group differ"

    def test_the_global_random_state_is_not_touched(
        self, model: Any, processor: VLMProcessor, prompts: list[EncodedPrompt]
    ) -> None:
        before = torch.random.get_rng_state()
        first = draw(model, processor.collate(prompts))
        assert torch.equal(torch.random.get_rng_state(), before)
        torch.rand(3)
        assert draw(model, processor.collate(prompts)).token_ids.tolist() == first.token_ids.tolist()

    @pytest.mark.parametrize("seeds", [[], [1], [1, 2, 3, 4]])
    def test_another_number_of_seeds_is_refused(
        self, model: Any, processor: VLMProcessor, prompts: list[EncodedPrompt], seeds: list[int]
    ) -> None:
        message = f"seeds: expected one for each of the 3 prompts, got {len(seeds)}"
        with pytest.raises(ValueError, match=message):
            draw(model, processor.collate(prompts), seeds=seeds)


class TestWhatIsSampled:
    """Ends, padding, banned tokens, temperature 0."""

    def test_ends_lengths_and_padding(self, model: Any, processor: VLMProcessor, prompts: list[EncodedPrompt]) -> None:
        batch = processor.collate(prompts)
        endless = draw(model, batch, num_tokens=8)
        eos = endless.token_ids[2, 0, 3].item()
        ended = draw(model, batch, num_tokens=8, eos_token_id=eos)
        expected = [
            [ids[: ids.index(eos) + 1] if eos in ids else ids for ids in group] for group in endless.token_ids.tolist()
        ]
        assert tokens_of(ended) == expected
        assert len({len(ids) for group in expected for ids in group}) > 1
        assert ended.token_ids.shape == ended.logprobs.shape == (3, 2, 8)
        is_after = torch.arange(8) >= ended.lengths[..., None]
        assert (ended.token_ids[is_after] == 428).all()
        assert (ended.logprobs[is_after] == 0).all()
        assert (ended.logprobs[~is_after] < 0).all()
        assert (ended.token_ids.dtype, ended.lengths.dtype) == (torch.int64, torch.int64)

    @pytest.mark.parametrize("end_at", [0, 2])
    def test_stops_when_all_have_ended(
        self, model: Any, processor: VLMProcessor, prompts: list[EncodedPrompt], end_at: int
    ) -> None:
        batch = processor.collate(prompts[:1])
        greedy: dict[str, Any] = {"temperature": 0.0, "num_tokens": 40}
        eos = draw(model, batch, **greedy).token_ids[0, 0, end_at].item()
        num_calls = 0

        def count(*_: Any) -> None:
            nonlocal num_calls
            num_calls += 1

        with model.model.register_forward_hook(count):
            sampled = draw(model, batch, eos_token_id=eos, **greedy)
        assert sampled.lengths.tolist() == [[end_at + 1] * 2]
        assert sampled.token_ids.shape == (1, 2, end_at + 1)
        assert num_calls == end_at + 1

    def test_pictures_are_encoded_once(self, model: Any, processor: VLMProcessor, prompts: list[EncodedPrompt]) -> None:
        batch = processor.collate(prompts)
        seen: list[int] = []
        with model.model.visual.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0]))):
            sampled = draw(model, batch, num_completions=4)
            score_completions(model, batch, sampled.token_ids, sampled.lengths)
        assert seen == [len(batch.images["pixel_values"])] * 2

    def test_temperature_0_takes_the_likeliest(
        self, model: Any, processor: VLMProcessor, prompts: list[EncodedPrompt]
    ) -> None:
        sampled = draw(model, processor.collate(prompts), temperature=0.0)
        assert sampled.token_ids[:, 0].tolist() == sampled.token_ids[:, 1].tolist()
        _, everything = score_by_repetition(model, prompts, sampled.token_ids)
        assert sampled.token_ids.tolist() == everything.argmax(-1).tolist()

    @pytest.mark.parametrize("temperature", [0.0, 0.1])
    def test_banned_tokens_are_never_sampled_however_likely(
        self, model: Any, processor: VLMProcessor, prompts: list[EncodedPrompt], temperature: float
    ) -> None:
        batch = processor.collate(prompts)
        likeliest = draw(model, batch, temperature=temperature, num_completions=1).token_ids
        banned = sorted(set(likeliest.flatten().tolist()))
        sampled = draw(model, batch, temperature=temperature, banned_token_ids=banned)
        assert not set(sampled.token_ids.flatten().tolist()) & set(banned)
        assert torch.isfinite(sampled.logprobs).all()

    def test_one_token_left(self, model: Any, processor: VLMProcessor, prompts: list[EncodedPrompt]) -> None:
        banned = [token for token in range(512) if token != 300]
        sampled = draw(model, processor.collate(prompts), banned_token_ids=banned)
        assert (sampled.token_ids == 300).all()
        assert (sampled.logprobs == 0).all()
        scored, entropies = score_completions(
            model, processor.collate(prompts), sampled.token_ids, sampled.lengths, banned_token_ids=banned
        )
        assert (scored == 0).all()
        assert (entropies == 0).all()

    def test_no_gradient_is_kept(self, model: Any, processor: VLMProcessor, prompts: list[EncodedPrompt]) -> None:
        assert not draw(model, processor.collate(prompts[:1])).logprobs.requires_grad


def test_from_a_given_prefix(model: Any, processor: VLMProcessor, prompts: list[EncodedPrompt]) -> None:
    """The same samples; the prompts are not run again, and their prefix is left for a learner, gradient and all."""
    batch = processor.collate(prompts)
    expected = draw(model, batch)
    prefix = prefill(model, batch)
    before = [(layer.keys.clone(), layer.values.clone()) for layer in prefix.cache.layers]
    calls: list[int] = []
    with model.model.register_forward_hook(
        lambda _, __, keywords, ___: calls.append(keywords["input_ids"].shape[1]), with_kwargs=True
    ):
        sampled = draw(model, batch, prefix=prefix)
    assert calls == [2] * 5
    assert sampled.token_ids.tolist() == expected.token_ids.tolist()
    torch.testing.assert_close(sampled.logprobs, expected.logprobs, rtol=0, atol=1e-6)
    assert len(before) == 3
    for layer, (keys, values) in zip(prefix.cache.layers, before, strict=True):
        assert torch.equal(layer.keys, keys)
        assert torch.equal(layer.values, values)
    scored, _ = score_completions(model, batch, sampled.token_ids, sampled.lengths, prefix=prefix)
    torch.testing.assert_close(scored, sampled.logprobs, rtol=0, atol=1e-5)
    (gradient,) = torch.autograd.grad(scored.sum(), [model.model.visual.patch_embed.proj.weight])
    assert gradient.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_that_are_encoded_before(processor: VLMProcessor, prompts: list[EncodedPrompt], family: str) -> None:
    """The same samples, without the vision tower."""
    model, batch = make_model(family, processor), processor.collate(prompts)
    expected = draw(model, batch)
    other = dataclasses.replace(batch, images={}, image_rows={}, image_features=encode_images(model, batch))
    calls: list[Any] = []
    with model.model.visual.register_forward_hook(lambda *call: calls.append(call)):
        sampled = draw(model, other)
    assert calls == []
    assert sampled.token_ids.tolist() == expected.token_ids.tolist()
    torch.testing.assert_close(sampled.logprobs, expected.logprobs, rtol=0, atol=1e-6)
