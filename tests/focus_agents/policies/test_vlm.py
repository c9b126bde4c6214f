"""A model as a policy: its answers as records."""

from __future__ import annotations

import copy
import os
import threading
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from focus_agents.engine.generation import sample_completions
from focus_agents.models.inputs import PromptBatch
from focus_agents.models.processing import VLMProcessor
from focus_agents.policies import vlm
from focus_agents.policies.vlm import VLMPolicy
from focus_agents.rollout.records import Policy, Sampling
from focus_env.env import observe
from focus_env.prompts import get_template
from focus_env.types import Message
from tests.fakes import make_episode


@pytest.fixture(scope="module")
def questions() -> list[list[Message]]:
    template = get_template("compact")
    return [template.render(observe(make_episode(index, shots=1 + index))) for index in range(2)]


def test_records_hold_what_was_sampled(model: Any, processor: VLMProcessor, questions: list[list[Message]]) -> None:
    policy: Policy = VLMPolicy(model, processor)
    generations = policy.generate(questions, num_completions=3, sampling=Sampling(0.8, 5), seeds=[8, 9])
    encoded = [processor.encode(question) for question in questions]
    sampled = sample_completions(
        model,
        processor.collate(encoded),
        num_completions=3,
        sampling=Sampling(0.8, 5),
        seeds=[8, 9],
        eos_token_id=processor.eos_token_id,
        pad_token_id=processor.pad_token_id,
        banned_token_ids=processor.banned_token_ids,
    )
    for n, generation in enumerate(generations):
        assert generation.prompt is not None
        np.testing.assert_array_equal(generation.prompt.input_ids, encoded[n].input_ids)
        np.testing.assert_array_equal(generation.prompt.images["pixel_values"], encoded[n].images["pixel_values"])
        assert len(generation.completions) == 3
        for g, completion in enumerate(generation.completions):
            length = int(sampled.lengths[n, g])
            assert completion.token_ids.tolist() == sampled.token_ids[n, g, :length].tolist()
            assert completion.logprobs.tolist() == sampled.logprobs[n, g, :length].tolist()
            assert completion.text == processor.decode(completion.token_ids.tolist())
            assert completion.token_ids.dtype == np.dtype(np.int64)
            assert completion.logprobs.dtype == np.dtype(np.float32)


def test_completions_end_at_their_end_token(
    model: Any, processor: VLMProcessor, questions: list[list[Message]]
) -> None:
    """A processor whose end token is one that the model says: some answers end early, others are cut."""
    sampling = Sampling(0.0, 6)
    policy = VLMPolicy(model, processor)
    endless = policy.generate(questions, num_completions=1, sampling=sampling, seeds=[0, 0])
    first, second = (generation.completions[0].token_ids.tolist() for generation in endless)
    early = copy.copy(processor)
    early.eos_token_id = next(token for token in first if token not in second)
    expected = [first[: first.index(early.eos_token_id) + 1], second]
    generations = VLMPolicy(model, early).generate(questions, num_completions=1, sampling=sampling, seeds=[0, 0])
    completions = [generation.completions[0] for generation in generations]
    assert [completion.token_ids.tolist() for completion in completions] == expected
    assert [completion.is_finished for completion in completions] == [True, False]
    assert [len(completion.logprobs) for completion in completions] == [len(ids) for ids in expected]


def test_an_end_token_at_the_limit_counts_as_finished(
    model: Any, processor: VLMProcessor, questions: list[list[Message]]
) -> None:
    ask: dict[str, Any] = {"num_completions": 1, "sampling": Sampling(0.0, 1), "seeds": [0]}
    (generation,) = VLMPolicy(model, processor).generate(questions[:1], **ask)
    ending = copy.copy(processor)
    ending.eos_token_id = int(generation.completions[0].token_ids[0])
    assert not generation.completions[0].is_finished
    (generation,) = VLMPolicy(model, ending).generate(questions[:1], **ask)
    assert generation.completions[0].is_finished


def test_tokens_of_pictures_are_never_said(model: Any, processor: VLMProcessor, questions: list[list[Message]]) -> None:
    everything = copy.copy(processor)
    everything.banned_token_ids = ()
    ask: dict[str, Any] = {"num_completions": 40, "sampling": Sampling(5.0, 8), "seeds": [0, 1]}
    banned = set(processor.banned_token_ids)

    def said(policy: VLMPolicy) -> set[int]:
        generations = policy.generate(questions, **ask)
        return {int(t) for generation in generations for c in generation.completions for t in c.token_ids}

    assert said(VLMPolicy(model, everything)) & banned
    assert not said(VLMPolicy(model, processor)) & banned


@pytest.mark.parametrize("is_training", [True, False])
def test_the_models_mode_is_given_back(
    model: Any, processor: VLMProcessor, questions: list[list[Message]], is_training: bool
) -> None:
    seen: list[bool] = []
    model.train(is_training)
    with model.model.register_forward_pre_hook(lambda module, _: seen.append(module.training)):
        VLMPolicy(model, processor).generate(questions, num_completions=1, sampling=Sampling(1.0, 2), seeds=[0, 1])
    was_training = model.training
    model.eval()
    assert was_training == is_training
    assert set(seen) == {False}


def test_another_number_of_seeds_is_refused(
    model: Any, processor: VLMProcessor, questions: list[list[Message]]
) -> None:
    with pytest.raises(ValueError, match="seeds: expected one for each of the 2 prompts, got 1"):
        VLMPolicy(model, processor).generate(questions, num_completions=1, sampling=Sampling(), seeds=[0])


class TestBatches:
    """Prompts of many tokens in all are answered one batch after the other."""

    ASK: ClassVar[dict[str, Any]] = {"num_completions": 2, "sampling": Sampling(0.8, 5), "seeds": [8, 9]}

    @pytest.mark.parametrize("limit", [1, 10_000])
    def test_the_answers_are_the_same(
        self, model: Any, processor: VLMProcessor, questions: list[list[Message]], limit: int
    ) -> None:
        expected = VLMPolicy(model, processor).generate(questions, **self.ASK)
        found = VLMPolicy(model, processor, max_batch_tokens=limit).generate(questions, **self.ASK)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.prompt is not None
            assert theirs.prompt is not None
            np.testing.assert_array_equal(ours.prompt.input_ids, theirs.prompt.input_ids)
            for own, other in zip(ours.completions, theirs.completions, strict=True):
                assert own.token_ids.tolist() == other.token_ids.tolist()
                np.testing.assert_allclose(own.logprobs, other.logprobs, atol=1e-5)

    def test_no_batch_is_larger_than_it_may_be(
        self, model: Any, processor: VLMProcessor, questions: list[list[Message]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shapes: list[tuple[int, ...]] = []
        sample = vlm.sample_completions

        def watch(model: Any, prompts: PromptBatch, **options: Any) -> Any:
            shapes.append(tuple(prompts.input_ids.shape))
            return sample(model, prompts, **options)

        monkeypatch.setattr(vlm, "sample_completions", watch)
        long, short = (len(processor.encode(question).input_ids) for question in (questions[1], questions[0]))
        assert short < long
        many = [questions[0], questions[0], questions[1], questions[0]]
        ask = self.ASK | {"seeds": [1, 2, 3, 4]}
        assert len(VLMPolicy(model, processor, max_batch_tokens=2 * long).generate(many, **ask)) == 4
        assert shapes == [(2, short), (2, long)]
        shapes.clear()
        VLMPolicy(model, processor, keeps_prefix=True, max_batch_tokens=1).generate(many, **ask)
        assert shapes == [(4, long)], "a learner takes them as one"

    def test_a_seed_for_each(self, model: Any, processor: VLMProcessor, questions: list[list[Message]]) -> None:
        for seeds in ([1], [1, 2, 3]):
            with pytest.raises(ValueError, match=f"seeds: expected one for each of the 2 prompts, got {len(seeds)}"):
                VLMPolicy(model, processor).generate(questions, **(self.ASK | {"seeds": seeds}))


def test_prompts_of_a_gpu_are_encoded_in_threads(
    model: Any, processor: VLMProcessor, questions: list[list[Message]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same arrays in the same order, and the first error as it would be without threads."""

    class OnGPU(torch.nn.Module):
        def parameters(self, recurse: bool = True) -> Any:
            return iter([torch.nn.Parameter(torch.zeros(1, device="meta"))])

    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    names: set[str] = set()
    encode = processor.encode

    def watch(prompt: Any) -> Any:
        names.add(threading.current_thread().name)
        return encode(prompt)

    own = copy.copy(processor)
    monkeypatch.setattr(own, "encode", watch, raising=False)
    policy = VLMPolicy(OnGPU(), own)
    many = questions * 6
    for ours, question in zip(policy._encode(many), many, strict=True):
        expected = encode(question)
        np.testing.assert_array_equal(ours.input_ids, expected.input_ids)
        np.testing.assert_array_equal(ours.images["pixel_values"], expected.images["pixel_values"])
    assert names.isdisjoint({threading.main_thread().name})
    with pytest.raises(ValueError, match="expected at least one picture"):
        policy._encode([*many, [], questions[0]])
    names.clear()
    VLMPolicy(model, own)._encode(many)
    assert names == {threading.main_thread().name}, "a CPU has no core to spare"
