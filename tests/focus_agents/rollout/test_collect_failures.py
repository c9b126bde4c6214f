"""One bad item never takes others with it: what fails has a reason, all else is as without it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from focus_agents.errors import CheckpointError, EpisodeError
from focus_agents.evaluation import evaluate
from focus_agents.models.loading import load_model, load_processor
from focus_agents.policies.vlm import VLMPolicy
from focus_agents.rollout.collect import collect_groups
from focus_agents.rollout.records import Generation, RolloutGroup, Sampling
from focus_env.errors import DatasetError, MissingDependencyError, RewardError
from focus_env.prompts import PromptTemplate, get_template
from focus_env.rewards.answers import AnswerBatch
from focus_env.rewards.weighted import WeightedReward
from focus_env.types import Box, Episode, Exemplar, Frame, ParseResult, ParseStatus
from tests.fakes import FakeDataset, make_episode, make_frame
from tests.focus_agents.rollout.fakes import GOLD, ScriptedPolicy, make_env

BAD = 1
"""The episode with something wrong."""


class Changed(FakeDataset):
    """Fake episodes, of which one is changed, or raises."""

    def __init__(self, change: Callable[[Episode], Episode], num_episodes: int = 4) -> None:
        super().__init__(num_episodes, shots=1)
        self.change = change

    def __getitem__(self, index: int) -> Episode:
        episode = super().__getitem__(index)
        return self.change(episode) if index == BAD else episode


class Broken:
    """A picture whose bytes cannot be had."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def read(self) -> bytes:
        raise self.error


def with_query(image_wh: tuple[int, int]) -> Callable[[Episode], Episode]:
    return lambda episode: replace(episode, query_frame=make_frame("odd", image_wh), target_box=Box(0, 0, 1, 1))


def with_support(image_wh: tuple[int, int], box: Box) -> Callable[[Episode], Episode]:
    return lambda episode: replace(episode, support=(Exemplar(make_frame("odd", image_wh), box),))


def with_broken_picture(error: Exception) -> Callable[[Episode], Episode]:
    return lambda episode: replace(episode, query_frame=Frame("odd", (80, 60), Broken(error)))


def raising(error: Exception) -> Callable[[Episode], Episode]:
    def change(episode: Episode) -> Episode:
        raise error

    return change


def collect(dataset: FakeDataset, policy: Any, *, group_size: int = 2, **options: Any) -> list[RolloutGroup]:
    indices = range(len(dataset))
    env, sampling = make_env(dataset, template="compact", **options), Sampling(1.0, 4)
    return collect_groups(env, policy, indices, group_size=group_size, sampling=sampling, seeds=list(indices))


@pytest.fixture(scope="module")
def tiny() -> VLMPolicy:
    return VLMPolicy(load_model("tiny"), load_processor("tiny"))


BAD_EPISODES = [
    (with_query((1300, 6)), r"'fake/1': ValueError: picture 2 of 2, 1300 x 6 pixels: .*aspect ratio.*leave it out"),
    (with_support((2, 3000), Box(0, 0, 1, 1)), r"picture 1 of 2, 2 x 3000 pixels: the model's image processor cannot"),
    (with_support((40, 40), Box(3, 3, 3, 3)), r"'fake/1': .*\(3, 3, 3, 3\)"),
    (with_support((40, 40), Box(float("nan"), 3, 9, 9)), r"'fake/1': .*nan"),
    (with_support((40, 40), Box(20, 3, 9, 9)), r"'fake/1': .*"),
    (with_broken_picture(DatasetError("odd.jpg: cut")), r"^episode 'fake/1': query: odd\.jpg: cut$"),
    (with_broken_picture(OSError("disk")), r"'fake/1': OSError: disk"),
    (raising(DatasetError("row 1: no such column")), r"^row 1: no such column$"),
    (raising(KeyError("name")), r"episode 1: KeyError: 'name'"),
]


class TestBadEpisodes:
    """Asked beside good ones."""

    @pytest.mark.parametrize(("change", "message"), BAD_EPISODES)
    def test_a_model_answers_the_others_as_without_it(
        self, tiny: VLMPolicy, change: Callable[[Episode], Episode], message: str
    ) -> None:
        groups = collect(Changed(change), tiny)
        with pytest.raises(Exception, match=message) as caught:
            raise groups[BAD].error or AssertionError
        assert isinstance(caught.value, (DatasetError, EpisodeError))
        assert [group.episode_index for group in groups] == [0, 1, 2, 3]
        assert [completion.text for completion in groups[BAD].generation.completions] == ["", ""]
        assert all(completion.error for completion in groups[BAD].generation.completions)
        assert {answer.status for answer in groups[BAD].answers} <= {ParseStatus.NO_BOX}
        good = [group for group in groups if group.error is None]
        assert [group.episode_index for group in good] == [0, 2, 3]
        expected = collect(Changed(lambda episode: episode), tiny)
        for group in good:
            assert group.generation.completions[0].text == expected[group.episode_index].generation.completions[0].text

    @pytest.mark.parametrize(
        "change",
        [
            with_query((1, 1)),
            with_support((1, 1), Box(0, 0, 1, 1)),
            with_support((40, 40), Box(3, 3, 3.1, 3.1)),
            with_query((1000, 6)),
        ],
    )
    def test_odd_episodes_that_can_be_asked(self, tiny: VLMPolicy, change: Callable[[Episode], Episode]) -> None:
        assert [group.error for group in collect(Changed(change), tiny)] == [None] * 4

    def test_nothing_that_can_be_asked(self, tiny: VLMPolicy) -> None:
        """A model takes no empty batch."""
        (group,) = collect(Changed(raising(OSError("disk"))), tiny)[BAD : BAD + 1]
        env = make_env(Changed(raising(OSError("disk"))))
        (alone,) = collect_groups(env, tiny, [BAD], group_size=2, sampling=Sampling(), seeds=[0])
        assert str(alone.error) == str(group.error) == "episode 1: OSError: disk"

    def test_a_prompt_beyond_the_context(self) -> None:
        model = load_model("tiny")
        model.config.text_config.max_position_embeddings = 80
        dataset = Changed(lambda episode: make_episode(BAD, shots=4))
        groups = collect(dataset, VLMPolicy(model, load_processor("tiny")))
        assert [group.error is None for group in groups] == [True, False, True, True]
        assert "at most 80 tokens, the model's context" in str(groups[BAD].error)

    def test_weights_that_are_no_numbers(self) -> None:
        """A likeliest token of nothing but NaN would be the first, and an answer like any other."""
        model = load_model("tiny")
        model.lm_head.weight.data.fill_(float("nan"))
        policy = VLMPolicy(model, load_processor("tiny"))
        for temperature in (0.0, 1.0):
            (group,) = collect_groups(
                make_env(), policy, [0], group_size=1, sampling=Sampling(temperature, 4), seeds=[0]
            )
            assert "FloatingPointError: model: expected probabilities of tokens, got NaN" in str(group.error)


class RaisingPolicy(ScriptedPolicy):
    """Raises where a seed is among those that it is asked."""

    def __init__(self, error: Exception, *bad_seeds: int) -> None:
        super().__init__(GOLD, "?")
        self.error, self.bad_seeds = error, bad_seeds

    def generate(self, prompts: Sequence[Any], **options: Any) -> list[Generation]:
        if set(options["seeds"]) & set(self.bad_seeds):
            raise self.error
        return super().generate(prompts, **options)


class TestPolicies:
    """That raise, or give another number of answers than was asked for."""

    def test_one_that_raises_for_an_episode_is_asked_the_others(self) -> None:
        policy = RaisingPolicy(RuntimeError("the camera is broken"), 5)
        groups = collect(FakeDataset(8, shots=1), policy)
        assert [group.error is None for group in groups] == [index != 5 for index in range(8)]
        assert str(groups[5].error) == "episode 'fake/5': RuntimeError: the camera is broken"
        assert [list(call["seeds"]) for call in policy.calls] == [[0, 1, 2, 3], [4], [6, 7]]
        assert groups[0].rewards[0] > 1.4

    @pytest.mark.parametrize(
        "error", [CheckpointError("no such model"), MissingDependencyError("pip install"), MemoryError("memory")]
    )
    def test_what_is_no_fault_of_an_episode_is_raised(self, error: Exception) -> None:
        policy = RaisingPolicy(error, 0, 1, 2, 3)
        with pytest.raises(type(error)):
            collect(FakeDataset(), policy)

    def test_answers_too_many(self) -> None:
        policy = ScriptedPolicy()
        policy.generate = lambda prompts, **options: [Generation(())] * len(prompts)
        groups = collect(FakeDataset(), policy)
        assert all(
            "expected 2 completions with texts of the policy for each prompt, got 0" in str(group.error)
            for group in groups
        )


class FailingTemplate(PromptTemplate):
    """Cannot read one text."""

    def parse(self, text: str, image_wh: tuple[int, int]) -> ParseResult:
        if text == "boom":
            raise ValueError("could not convert string to float")
        return super().parse(text, image_wh)


def fails_at_boom(answers: AnswerBatch) -> np.ndarray[Any, Any]:
    if "boom" in answers.texts:
        raise ZeroDivisionError("by my own term")
    return np.arange(len(answers)) + 1.0


def not_finite_at_boom(value: Any) -> Callable[[AnswerBatch], Any]:
    return lambda answers: np.array([value if text == "boom" else 1.0 for text in answers.texts])


class TestScores:
    """An answer that cannot be scored is one failed answer."""

    def test_of_a_parser_that_raises(self) -> None:
        plain = get_template("compact")
        template = FailingTemplate(**{name: getattr(plain, name) for name in plain.__dataclass_fields__})
        env, policy = make_env(template=template), ScriptedPolicy(GOLD, "boom", "?")
        (group,) = collect_groups(env, policy, [0], group_size=3, sampling=Sampling(), seeds=[0])
        assert group.error is None
        errors = [completion.error for completion in group.generation.completions]
        assert errors == [None, "ValueError: could not convert string to float", None]
        assert [answer.status for answer in group.answers] == [ParseStatus.OK, *[ParseStatus.NO_BOX] * 2]
        assert group.rewards[1] == pytest.approx((group.rewards[0] + group.rewards[2]) / 2)
        (alone,) = collect_groups(env, ScriptedPolicy("boom"), [0], group_size=1, sampling=Sampling(), seeds=[0])
        assert str(alone.error) == "episode 'fake/0': ValueError: could not convert string to float"
        assert alone.answers[0].target_box == Box(20.0, 10.0, 60.0, 40.0)

    @pytest.mark.parametrize(
        ("term", "message"),
        [
            (fails_at_boom, "raised ZeroDivisionError: by my own term"),
            (not_finite_at_boom(float("nan")), "must give finite numbers, got nan"),
            (not_finite_at_boom(float("inf")), "must give finite numbers, got inf"),
            (not_finite_at_boom(1 + 2j), "complex"),
        ],
    )
    def test_of_a_term_that_raises(self, term: Any, message: str) -> None:
        env = make_env(reward=WeightedReward({"mine": (term, 2.0)}))
        policy = ScriptedPolicy("boom", "a", "b")
        (group,) = collect_groups(env, policy, [0], group_size=3, sampling=Sampling(), seeds=[0])
        first, *others = [completion.error for completion in group.generation.completions]
        assert message in str(first)
        assert others == [None, None]
        scored = [2.0, 4.0] if term is fails_at_boom else [2.0, 2.0]
        assert group.rewards.tolist() == [np.mean(scored), *scored]
        assert [answer.status for answer in group.answers] == [ParseStatus.NO_BOX] * 3

    def test_of_a_term_that_fails_for_all(self) -> None:
        env = make_env(reward=WeightedReward({"mine": (fails_at_boom, 1.0)}))
        (group,) = collect_groups(env, ScriptedPolicy("boom"), [0], group_size=1, sampling=Sampling(), seeds=[0])
        assert isinstance(group.error, RewardError)


class TestEvaluations:
    """Count what fails, and stop where all does."""

    def test_an_episode_that_cannot_be_asked_is_one_unread_answer(
        self, tiny: VLMPolicy, caplog: pytest.LogCaptureFixture
    ) -> None:
        env = make_env(Changed(with_query((1300, 6))))
        with caplog.at_level(logging.WARNING):
            answers = evaluate(env, tiny, range(4), max_completion_tokens=4)
        assert [answer.episode_id for answer in answers] == [f"fake/{index}" for index in range(4)]
        assert (answers[BAD].status, answers[BAD].iou) == (ParseStatus.NO_BOX, 0.0)
        assert [record.message.split(":")[0] for record in caplog.records] == ["episode 'fake/1'"]

    def test_nothing_but_failures(self) -> None:
        policy = RaisingPolicy(RuntimeError("the camera is broken"), *range(4))
        with pytest.raises(EpisodeError, match="'fake/0': RuntimeError: the camera is broken"):
            evaluate(make_env(), policy, range(4))
