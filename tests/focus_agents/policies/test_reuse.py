"""Supports that are encoded once: the answers of the model itself, for less work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from focus_agents.models.processing import VLMProcessor
from focus_agents.policies import reuse
from focus_agents.policies.reuse import ReusingPolicy
from focus_agents.policies.vlm import VLMPolicy
from focus_agents.rollout.records import Generation, Sampling
from focus_env.env import observe
from focus_env.prompts import get_template
from focus_env.spaces import Observation
from focus_env.types import Message
from tests.fakes import make_episode, make_frame

TEMPLATE = get_template("compact")


def ask(about: int, *, shots: int = 2, box: Sequence[float] | None = None, query: int = 0) -> list[Message]:
    """A question whose supports are those of an episode."""
    observation: Observation = observe(make_episode(about, shots=shots))
    if box is not None:
        observation["support_boxes"] = np.array([box] * shots, dtype=np.float64)
    size = [(64, 48), (33, 70), (80, 80)][query % 3]
    observation["query_image"] = make_frame("query", size, seed=query).image()
    return TEMPLATE.render(observation)


def texts(generations: Sequence[Generation]) -> list[list[int]]:
    return [completion.token_ids.tolist() for generation in generations for completion in generation.completions]


def options(num: int, **changes: Any) -> dict[str, Any]:
    return {"num_completions": 2, "sampling": Sampling(0.7, 5), "seeds": range(num)} | changes


def test_questions_of_several_objects_in_one_call(model: Any, processor: VLMProcessor) -> None:
    """Two objects in the same pictures, others in other pictures; sampled answers depend on their seeds alone."""
    box = (4.0, 6.0, 20.0, 22.0)
    prompts = [
        ask(0), ask(0, box=box, query=1), ask(1, shots=3, query=2), ask(0, query=1), ask(0, box=box), ask(2, shots=1),
    ]  # fmt: skip
    plain = VLMPolicy(model, processor)
    reusing = ReusingPolicy(plain)
    for _ in range(2):
        found = reusing.generate(prompts, **options(6))
        assert texts(found) == texts(plain.generate(prompts, **options(6)))
        assert reusing.num_encoded == 4


def test_pictures_that_look_the_same_are_the_same(model: Any, processor: VLMProcessor) -> None:
    """Decoded anew for each question, as from files."""
    reusing = ReusingPolicy(VLMPolicy(model, processor))
    for query in range(3):
        reusing.generate([ask(0, query=query)], **options(1))
    assert reusing.num_encoded == 1


def test_memory_does_not_grow(model: Any, processor: VLMProcessor) -> None:
    reusing = ReusingPolicy(VLMPolicy(model, processor), max_starts=2)
    for about in (0, 1, 0, 2, 0, 1):  # 1 has gone when 2 came, since 0 was asked for later
        reusing.generate([ask(about)], **options(1))
    assert reusing.num_encoded == 4
    assert len(reusing._starts) == 2


def test_batches_of_few_tokens(model: Any, processor: VLMProcessor) -> None:
    prompts = [ask(0, query=query) for query in range(4)]
    plain = VLMPolicy(model, processor)
    expected = texts(plain.generate(prompts, **options(4)))
    few = VLMPolicy(model, processor, max_batch_tokens=1)
    assert texts(ReusingPolicy(few).generate(prompts, **options(4))) == expected


def test_what_cannot_be_shared_is_asked_as_ever(
    model: Any, processor: VLMProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reuse, "can_start_once", lambda *arguments: False)
    prompts = [ask(0, query=query) for query in range(2)]
    plain = VLMPolicy(model, processor)
    reusing = ReusingPolicy(plain)
    assert texts(reusing.generate(prompts, **options(2))) == texts(plain.generate(prompts, **options(2)))
    assert reusing.num_encoded == 0


def test_a_prompt_that_does_not_fit_and_seeds_that_are_missing(model: Any, processor: VLMProcessor) -> None:
    reusing = ReusingPolicy(VLMPolicy(model, processor))
    with pytest.raises(ValueError, match="seeds: expected one for each of the 1 prompts, got 2"):
        reusing.generate([ask(0)], **options(2))
    with pytest.raises(ValueError, match="the model's context"):
        reusing.generate([ask(0)], **options(1, sampling=Sampling(0.0, 10**6)))
