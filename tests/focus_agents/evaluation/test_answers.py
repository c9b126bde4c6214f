"""Evaluation: one greedy answer for each episode, in the order asked for."""

from __future__ import annotations

from typing import Any

import pytest

from focus_agents.evaluation import evaluate
from focus_agents.models.processing import VLMProcessor
from focus_agents.policies.vlm import VLMPolicy
from focus_agents.rollout.records import Generation, Sampling
from focus_env.types import ParseStatus
from tests.fakes import FakeDataset
from tests.focus_agents.rollout.fakes import GOLD, ScriptedPolicy, make_env


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 100])
def test_order_is_kept(batch_size: int) -> None:
    indices = [3, 0, 2, 0, 1]
    policy = ScriptedPolicy(GOLD)
    done: list[int] = []
    answers = evaluate(
        make_env(), policy, indices, max_completion_tokens=7, batch_size=batch_size, on_batch=done.append
    )
    assert [answer.episode_id for answer in answers] == [f"fake/{index}" for index in indices]
    best = [answer.iou > 0.99 for answer in answers]
    assert best == [index == 0 for index in indices], "the scripted answer is right for episode 0 alone"
    assert done == [*range(batch_size, 5, batch_size), 5]
    sizes = [len(call["prompts"]) for call in policy.calls]
    assert sum(sizes) == 5
    assert max(sizes) <= batch_size
    for call in policy.calls:
        assert call["sampling"] == Sampling(temperature=0.0, max_completion_tokens=7)
        assert call["num_completions"] == 1
        assert len(call["seeds"]) == len(call["prompts"])


def test_a_range_of_episodes_and_none() -> None:
    answers = evaluate(make_env(), ScriptedPolicy(""), range(1, 3), max_completion_tokens=1)
    assert [answer.episode_id for answer in answers] == ["fake/1", "fake/2"]
    assert {answer.status for answer in answers} == {ParseStatus.NO_BOX}
    assert evaluate(make_env(), ScriptedPolicy(""), [], max_completion_tokens=1) == []


def test_absent_targets_are_scored_by_saying_so() -> None:
    env = make_env(FakeDataset(with_absent=True))
    answers = evaluate(env, ScriptedPolicy("<answer>none</answer>"), range(4), max_completion_tokens=1)
    assert [answer.credit for answer in answers] == [0.0, 0.0, 0.0, 1.0]


class ListeningPolicy(VLMPolicy):
    """A model that remembers its answers."""

    def generate(self, *args: Any, **kwargs: Any) -> list[Generation]:
        generations = super().generate(*args, **kwargs)
        self.texts = [*getattr(self, "texts", []), *(g.completions[0].text for g in generations)]
        return generations


def test_a_models_answers_do_not_depend_on_the_batch_size(model: Any, processor: VLMProcessor) -> None:
    alone, together = (ListeningPolicy(model, processor) for _ in range(2))
    for policy, batch_size in ((alone, 1), (together, 3)):
        evaluate(make_env(template="compact"), policy, range(4), max_completion_tokens=5, batch_size=batch_size)
    assert alone.texts == together.texts
    assert len(set(alone.texts)) > 1, "a model that says the same of all episodes shows nothing"
