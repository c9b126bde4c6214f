"""A model answered by vLLM: its contract, kept by vLLM itself where it is installed and by a stand-in elsewhere."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from focus_agents.errors import PolicyError
from focus_agents.models.loading import load_model
from focus_agents.models.processing import VLMProcessor
from focus_agents.policies.registry import PolicySpec
from focus_agents.policies.vllm.engine import EngineOptions, VLLMEngine
from focus_agents.policies.vllm.policy import VLLMPolicy
from focus_agents.policies.vllm.weights import EngineFiles, processor_options
from focus_agents.policies.vlm import VLMPolicy
from focus_agents.rollout.records import Policy, Sampling
from focus_env.types import Message
from tests.focus_agents.policies.vllm import stub
from tests.focus_agents.policies.vllm.checks import (
    CLOSE,
    Start,
    check_logprobs,
    teacher_forced,
)


def test_log_probabilities_are_those_that_tokens_were_drawn_from(
    start: Start, kind: str, model: Any, processor: VLMProcessor, questions: list[list[Message]]
) -> None:
    policy: Policy = VLLMPolicy(start(), processor)
    assert isinstance(policy, VLLMPolicy)
    answers = check_logprobs(policy, model, processor, questions, CLOSE[kind])
    assert len({tuple(answer.token_ids) for answer in answers}) == 4
    for answer in answers:
        assert answer.token_ids.dtype == np.dtype(np.int64)
        assert answer.logprobs.dtype == np.dtype(np.float32)
        assert answer.text == processor.decode(answer.token_ids.tolist())


def test_greedy_answers_and_prompts_are_those_of_the_own_sampling(
    start: Start, kind: str, model: Any, processor: VLMProcessor, questions: list[list[Message]]
) -> None:
    ask: dict[str, Any] = {"num_completions": 1, "sampling": Sampling(0.0, 6), "seeds": [0, 0]}
    theirs = VLLMPolicy(start(), processor).generate(questions, **ask)
    ours = VLMPolicy(model, processor).generate(questions, **ask)
    for one, other in zip(theirs, ours, strict=True):
        assert one.completions[0].token_ids.tolist() == other.completions[0].token_ids.tolist()
        np.testing.assert_allclose(one.completions[0].logprobs, other.completions[0].logprobs, atol=CLOSE[kind])
        assert one.prompt is not None
        assert other.prompt is not None
        np.testing.assert_array_equal(one.prompt.input_ids, other.prompt.input_ids)
        np.testing.assert_array_equal(one.prompt.images["pixel_values"], other.prompt.images["pixel_values"])
        assert one.prefix is None


def test_a_prompts_answers_depend_on_its_seed_alone(
    start: Start, processor: VLMProcessor, questions: list[list[Message]]
) -> None:
    policy, sampling = VLLMPolicy(start(), processor), Sampling(1.0, 5)

    def ask(numbers: list[int], seeds: list[int]) -> list[list[list[int]]]:
        generations = policy.generate(
            [questions[n] for n in numbers], num_completions=2, sampling=sampling, seeds=seeds
        )
        return [[answer.token_ids.tolist() for answer in generation.completions] for generation in generations]

    both = ask([0, 1], [7, 8])
    assert ask([1], [8]) == both[1:]
    assert ask([1, 0], [8, 7]) == both[::-1]
    first, second = ask([0, 0], [7, 8])  # the engine counts seeds up: the next prompt's must lie elsewhere
    assert first == both[0]
    assert first[1] != second[0]


def test_completions_end_at_the_processors_end_token_and_no_other(
    start: Start, processor: VLMProcessor, questions: list[list[Message]]
) -> None:
    engine, sampling = start(), Sampling(0.0, 6)
    (endless,) = VLLMPolicy(engine, processor).generate(questions[:1], num_completions=1, sampling=sampling, seeds=[0])
    ids = endless.completions[0].token_ids.tolist()
    early = copy.copy(processor)
    early.eos_token_id = ids[2]
    (generation,) = VLLMPolicy(engine, early).generate(questions[:1], num_completions=1, sampling=sampling, seeds=[0])
    (answer,) = generation.completions
    assert answer.token_ids.tolist() == ids[: ids.index(ids[2]) + 1]
    assert answer.is_finished
    assert not endless.completions[0].is_finished
    assert len(answer.logprobs) == len(answer.token_ids)


def test_tokens_that_are_banned_have_no_share(
    start: Start, kind: str, model: Any, processor: VLMProcessor, questions: list[list[Message]]
) -> None:
    engine, sampling = start(), Sampling(0.0, 1)
    (free,) = VLLMPolicy(engine, processor).generate(questions[:1], num_completions=1, sampling=sampling, seeds=[0])
    strict = copy.copy(processor)
    strict.banned_token_ids = (*processor.banned_token_ids, int(free.completions[0].token_ids[0]))
    (other,) = VLLMPolicy(engine, strict).generate(questions[:1], num_completions=1, sampling=sampling, seeds=[0])
    assert other.completions[0].token_ids[0] not in strict.banned_token_ids
    expected = teacher_forced(model, strict, questions[0], other.completions[0], 0.0)
    np.testing.assert_allclose(other.completions[0].logprobs, expected, atol=CLOSE[kind])


def test_the_budget_of_pictures_is_handed_on(start: Start, folder: Path, questions: list[list[Message]]) -> None:
    from focus_agents.models.loading import load_processor

    small = load_processor(folder, max_image_tokens=4)
    options = processor_options(EngineFiles(str(folder)), small)
    assert set(options) == {"size"}
    ask: dict[str, Any] = {"num_completions": 1, "sampling": Sampling(0.0, 2), "seeds": [0, 0]}
    generations = VLLMPolicy(start(processor_options=options), small).generate(questions, **ask)
    counts = [int((g.prompt.input_ids == small.image_token_id).sum()) for g in generations if g.prompt is not None]
    assert counts == [6, 8]
    both = start()
    generations = VLLMPolicy(both, small, options).generate(questions, **ask)  # of one prompt alone
    assert all(g.completions[0].error is None for g in generations)
    with pytest.raises(PolicyError, match=r"prompt 1 .* with 6 image tokens for 2 pictures, got \d+ from vLLM's"):
        VLLMPolicy(both, small).generate(questions, **ask)


def test_a_prompt_that_was_expanded_before_is_noticed(
    start: Start, processor: VLMProcessor, questions: list[list[Message]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As other frameworks have sent it: vLLM expands the first tokens of the first picture."""
    policy = VLLMPolicy(start(), processor)
    monkeypatch.setattr(VLMProcessor, "chat_token_ids", lambda self, messages: self.encode(messages).input_ids.tolist())
    with pytest.raises(PolicyError, match="would see different prompts"):
        policy.generate(questions, num_completions=1, sampling=Sampling(0.0, 2), seeds=[0, 0])


@pytest.mark.parametrize("temperature", [0.005, 2.5])
def test_temperatures_that_vllm_changes_are_refused(
    start: Start, processor: VLMProcessor, questions: list[list[Message]], temperature: float
) -> None:
    with pytest.raises(
        ValueError, match=f"temperature: expected 0 or 0.01 to 2.0 for the engine vllm, got {temperature}"
    ):
        VLLMPolicy(start(), processor).generate(
            questions, num_completions=1, sampling=Sampling(temperature, 2), seeds=[0, 0]
        )


def test_probabilities_that_are_no_numbers_are_an_error(
    monkeypatch: pytest.MonkeyPatch, folder: Path, processor: VLMProcessor, questions: list[list[Message]]
) -> None:
    stub.install(monkeypatch)
    engine = VLLMEngine(str(folder), EngineOptions())
    engine._llm._model.lm_head.weight.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="got NaN from the engine vllm"):
        VLLMPolicy(engine, processor).generate(questions, num_completions=1, sampling=Sampling(0.0, 2), seeds=[0, 0])


def test_a_request_that_vllm_ends_is_an_answer_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, folder: Path, processor: VLMProcessor, questions: list[list[Message]]
) -> None:
    stub.install(monkeypatch)
    engine = VLLMEngine(str(folder), EngineOptions())
    generate = engine._llm.generate

    def aborted(*args: Any, **options: Any) -> Any:
        outputs = generate(*args, **options)
        outputs[0].outputs[0].finish_reason = "abort"
        return outputs

    monkeypatch.setattr(engine._llm, "generate", aborted)
    first, second = VLLMPolicy(engine, processor).generate(
        questions, num_completions=1, sampling=Sampling(0.0, 2), seeds=[0, 0]
    )
    assert first.completions[0].error == "engine vllm: the request ended with 'abort'"
    assert len(first.completions[0].token_ids) == 0
    assert second.completions[0].error is None


def test_a_policy_of_a_name_is_answered_by_the_engine(
    monkeypatch: pytest.MonkeyPatch, questions: list[list[Message]]
) -> None:
    stub.install(monkeypatch)
    policy = PolicySpec(text="vlm:tiny", engine="vllm").build()
    assert isinstance(policy, VLLMPolicy)
    ask: dict[str, Any] = {"num_completions": 1, "sampling": Sampling(0.0, 3), "seeds": [0, 0]}
    ours = VLMPolicy(load_model("tiny"), policy.processor).generate(questions, **ask)
    theirs = policy.generate(questions, **ask)
    assert [g.completions[0].text for g in theirs] == [g.completions[0].text for g in ours]
