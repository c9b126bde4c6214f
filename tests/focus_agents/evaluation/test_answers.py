"""Evaluation: one greedy answer for each episode, in the order asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest

from focus_agents.errors import PolicyError
from focus_agents.evaluation import evaluate
from focus_agents.evaluation.answers import answer_episodes
from focus_agents.models.processing import VLMProcessor
from focus_agents.policies.registry import PolicySpec
from focus_agents.policies.vlm import VLMPolicy
from focus_agents.rollout.records import MAX_COMPLETION_TOKENS, Completion, Generation, Sampling
from focus_env import ENV_ID
from focus_env.metrics import summarize
from focus_env.types import ParseStatus
from tests.fakes import FakeDataset
from tests.focus_agents.rollout.fakes import GOLD, ScriptedPolicy, make_env
from tests.places import ROOT


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


class DrawnBox:
    """Answers a box that depends on the seed alone."""

    def generate(self, prompts: Sequence[Any], *, seeds: Sequence[int], **_: Any) -> list[Generation]:
        def draw(seed: int) -> Generation:
            x1, y1, x2, y2 = np.random.default_rng(seed).integers(0, 1000, 4).tolist()
            nothing = np.empty(0)
            text = f"<answer>[{min(x1, x2)}, {min(y1, y2)}, {max(x1, x2)}, {max(y1, y2)}]</answer>"
            return Generation((Completion(text, nothing.astype(np.int64), nothing.astype(np.float32), True),))

        return [draw(seed) for _, seed in zip(prompts, seeds, strict=True)]


@pytest.mark.parametrize("build", [DrawnBox, PolicySpec(text="random").build], ids=["drawn", "random"])
class TestPoliciesThatDraw:
    """An episode's seed is its index."""

    def test_answers_differ_between_episodes(self, build: Callable[[], Any]) -> None:
        boxes = [answer.box for answer in evaluate(make_env(FakeDataset(20)), build(), range(20))]
        assert len(set(boxes)) == 20

    def test_answers_depend_on_neither_batches_nor_order(self, build: Callable[[], Any]) -> None:
        env = make_env(FakeDataset(20))
        expected = evaluate(env, build(), range(20))
        for batch_size in (1, 3, 100):
            assert evaluate(env, build(), range(20), batch_size=batch_size) == expected
        order = np.random.default_rng(0).permutation(20).tolist()
        assert evaluate(env, build(), order, batch_size=7) == [expected[index] for index in order]
        assert evaluate(env, build(), range(11, 14), batch_size=2) == expected[11:14]

    def test_who_looks_sees_the_seeds(self, build: Callable[[], Any]) -> None:
        asked: list[list[int]] = []
        policy = build()
        generate = policy.generate

        def listen(*args: Any, **options: Any) -> list[Generation]:
            asked.append(list(options["seeds"]))
            return generate(*args, **options)

        policy.generate = listen
        evaluate(make_env(), policy, [3, 0, 2, 0], batch_size=3)
        assert asked == [[3, 0, 2], [0]]


@pytest.mark.parametrize("shots", [1, 4])
def test_random_boxes_earn_what_the_table_of_policies_says(shots: int) -> None:
    """In docs/policies.json, which the command wrote by way of an `EvaluationPlan`."""
    summary = json.loads((ROOT / "docs/policies.json").read_text())
    place = ("random", "built-in", shots)
    (cell,) = (cell for cell in summary["cells"] if (cell["policy"], cell["dataset"], cell["shots"]) == place)
    given = summary["data"]["built-in"]
    options = {name: given[name] for name in ("split", "level", "distractors", "image_size")}
    env = gymnasium.make(ENV_ID, dataset_options={**options, "seed": given["data_seed"], "shots": shots})
    answers = evaluate(env, PolicySpec(text="random").build(), range(cell["num_episodes"]), batch_size=64)
    assert len(answers) == 512
    found = summarize(answers)
    assert {name: found[name] for name in cell["metrics"]} == {
        name: pytest.approx(value["mean"], rel=1e-12) for name, value in cell["metrics"].items()
    }
    assert round(100 * found["miou_all"], 1) == 5.0


def test_without_a_word_answers_are_cut_late() -> None:
    policy = ScriptedPolicy(GOLD)
    evaluate(make_env(), policy, [0])
    assert policy.calls[0]["sampling"] == Sampling(0.0, MAX_COMPLETION_TOKENS)


def test_answer_episodes_hands_out_texts_batch_by_batch() -> None:
    policy = ScriptedPolicy(by_prompt=[["a"], ["b"], [GOLD]])
    batches = answer_episodes(make_env(), policy, [2, 1, 0], batch_size=2)
    assert policy.calls == []
    first = next(batches)
    assert len(policy.calls) == 1
    (last,) = batches
    groups = [*first, *last]
    assert [group.episode_index for group in groups] == [2, 1, 0]
    assert [group.generation.completions[0].text for group in groups] == ["a", "b", GOLD]
    assert [len(group.answers) for group in groups] == [1, 1, 1]
    assert groups[2].answers[0].iou > 0.99


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


def test_one_place_draws_greedy_answers_of_episodes() -> None:
    """Elsewhere a greedy answer is to a question without a right answer, or to one that `focus doctor` times."""
    callers = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "focus_agents").rglob("*.py")
        if "temperature=0.0" in path.read_text()
    }
    assert callers == {
        "focus_agents/evaluation/answers.py",
        "focus_agents/finding/looking.py",
        "focus_agents/policies/focus.py",
        "focus_agents/diagnosis/examination.py",
    }


@pytest.mark.parametrize("policy", [None, lambda question, rng: None, "vlm:focus-small"], ids=type)
def test_what_is_no_policy_is_named(policy: Any) -> None:
    env = gymnasium.make(ENV_ID, dataset=FakeDataset(4))
    with pytest.raises(PolicyError, match="policy: expected an object with a method `generate`"):
        evaluate(env, policy, range(4))
