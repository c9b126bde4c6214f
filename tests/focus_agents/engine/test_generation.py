"""Sampling from one prefill, against transformers' own generation and against fresh forward passes.

Axis letters: N prompts, G completions per prompt, T completion tokens, P prompt tokens, V vocabulary.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from focus_agents.engine.forward import encode_images, prefill, token_logprobs
from focus_agents.engine.generation import SampledBatch, sample_completions
from focus_agents.engine.grammar import AnswerGrammar
from focus_agents.engine.scoring import score_completions
from focus_agents.models.inputs import EncodedPrompt, PromptBatch
from focus_agents.models.processing import VLMProcessor
from focus_agents.rollout.records import Sampling
from focus_env.boxes import CoordinateFrame
from focus_env.parsing import parse_answer
from tests.focus_agents.engine.oracle import score_by_repetition
from tests.focus_agents.models.families import FAMILIES, make_model, patch_grid, picture_inputs

NO_END = -1  # an end token that no model samples: every completion runs to the limit


def draw(
    model: Any, batch: PromptBatch, *, num_tokens: int = 6, temperature: float = 1.0, **options: Any
) -> SampledBatch:
    """Sample with everything that a test does not care about filled in."""
    arguments: dict[str, Any] = {
        "num_completions": 2,
        "seeds": list(range(len(batch.input_ids))),
        "eos_token_id": NO_END,
        "pad_token_id": 428,
    }
    return sample_completions(model, batch, sampling=Sampling(temperature, num_tokens), **(arguments | options))


def tokens_of(sampled: SampledBatch) -> list[list[list[int]]]:
    """The completions without padding."""
    return [
        [ids[:length].tolist() for ids, length in zip(*group, strict=True)]
        for group in zip(sampled.token_ids, sampled.lengths.tolist(), strict=True)
    ]


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": -0.1}, r"temperature: expected 0 \(greedy\) or more, got -0\.1"),
        ({"max_completion_tokens": 0}, "max_completion_tokens: expected 1 or more tokens, got 0"),
        ({"max_completion_tokens": -3}, "max_completion_tokens: expected 1 or more tokens, got -3"),
    ],
)
def test_sampling_out_of_range_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**arguments)
