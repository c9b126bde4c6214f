"""Scores of a group: the same as one step for each answer, from one reading and one IoU of each."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from focus_env import overlap
from focus_env.boxes import CoordinateFrame, iou
from focus_env.env import InContextLocalizationEnv
from focus_env.errors import RewardError
from focus_env.prompts import TEMPLATES, PromptTemplate
from focus_env.rewards import answers as answers_module
from focus_env.rewards.answers import AnswerBatch
from focus_env.rewards.scores import AnswerScores, score_answer, score_answers, score_parses
from focus_env.rewards.terms import REWARD_TERMS, IoUAt, Piecewise
from focus_env.rewards.weighted import WeightedReward
from focus_env.types import Box, Episode, Frame, ImageArray, ParseResult, ParseStatus
from tests.fakes import make_episode

TEMPLATE = TEMPLATES["default"]
GOLD = "<answer>[250, 167, 750, 667]</answer>"  # of the fake episode: (20, 10, 60, 40) in 80 x 60
TEXTS = [
    "",
    "\x00\ud800",
    "<answer>[1, 2, x, 4]</answer>",
    "<answer>[0, 0, 0, 1001]</answer>",
    "<answer>[750, 167, 250, 667]</answer>",
    "<answer>[250, 167, 250, 667]</answer>",
    f"{GOLD} {GOLD}",
    "<answer>none</answer>",
    "<answer>[0, 0, 1000, 1000]</answer>",
    "<answer>[100, 188, 500, 688]</answer>",  # the first support's place
    f"It is at {GOLD}.",
    GOLD,
    GOLD,
]
ALL_TERMS = ",".join([*REWARD_TERMS, "iou_at(0.5)", "piecewise(0.5, 0.75)", "length(60)", "random(3)"])


class Spy(PromptTemplate):
    """Counts what it reads."""

    read: list[str] = []  # noqa: RUF012  # a frozen dataclass has no place of its own for it

    def parse(self, text: str, *args: Any, **options: Any) -> ParseResult:
        self.read.append(text)
        return super().parse(text, *args, **options)


def score(texts: list[str], episode: Episode | None = None, **options: Any) -> AnswerScores:
    given = {"template": TEMPLATE, "reward": WeightedReward.default()} | options
    return score_answers(episode or make_episode(), texts, **given)


@pytest.mark.parametrize("target", [Box(20, 10, 60, 40), Box(8, 11.25, 40, 41.25), None], ids=str)
@pytest.mark.parametrize("spec", ["iou:1,format:0.5", ALL_TERMS, "whole_image:0.5"])
@pytest.mark.parametrize("progress", [0.25, 1.0])
def test_a_group_scores_as_its_answers_do_in_steps(spec: str, target: Box | None, progress: float) -> None:
    episode, reward = make_episode(target_box=target), WeightedReward.from_spec(spec)
    env = InContextLocalizationEnv(dataset=[episode], reward=reward)
    scores = score(TEXTS, episode, reward=reward, progress=progress)
    assert scores.rewards.shape == (len(TEXTS),)
    assert scores.rewards.dtype == np.float64
    assert list(scores.terms) == list(reward.terms)
    for place, text in enumerate(TEXTS):
        env.reset(options={"episode_index": 0, "progress": progress})
        *_, paid, _, _, info = env.step(text)
        found = scores.answers[place]
        assert scores.rewards[place] == paid
        assert {name: values[place] for name, values in scores.terms.items()} == info["reward_terms"]
        assert found == score_answer(episode, TEMPLATE.parse(text, (80, 60)))
        assert (found.status, found.is_strict, found.iou, found.box, found.target_box) == (
            info["parse_status"],
            info["is_strict"],
            info["iou"],
            info["box"],
            info["target_box"],
        )


def test_facts_are_of_pythons_own_types() -> None:
    for scored in score(TEXTS).answers:
        assert type(scored.iou) is float
        assert type(scored.is_whole_image) is type(scored.is_support_copy) is bool


def test_by_hand() -> None:
    scores = score([GOLD, "<answer>[0, 0, 1000, 1000]</answer>", "<answer>[100, 188, 500, 688]</answer>", "?"])
    copy_iou = 20 * 28.72 / (32 * 30 + 40 * 30 - 20 * 28.72)  # the copy is (8, 11.28, 40, 41.28)
    assert scores.rewards.tolist() == pytest.approx([1.5, 0.75, 0.5 + copy_iou, 0], abs=0.002)
    assert scores.terms["format"].tolist() == [1, 1, 1, 0]
    assert [scored.is_whole_image for scored in scores.answers] == [False, True, False, False]
    assert [scored.is_support_copy for scored in scores.answers] == [False, False, True, False]
    assert [scored.status for scored in scores.answers] == [ParseStatus.OK] * 3 + [ParseStatus.NO_BOX]


def test_no_answers_no_scores() -> None:
    scores = score([])
    assert (scores.rewards.tolist(), scores.answers) == ([], ())
    assert [values.tolist() for values in scores.terms.values()] == [[], []]


def test_one_text_is_not_taken_for_many() -> None:
    with pytest.raises(TypeError, match=r"texts: expected a sequence of answers, got one string 'no box'; put it into"):
        score("no box")  # type: ignore[arg-type]


def test_each_text_is_read_once() -> None:
    fields = {field.name: getattr(TEMPLATE, field.name) for field in dataclasses.fields(TEMPLATE)}
    spy = Spy(**fields)
    spy.read.clear()
    score(TEXTS, template=spy)
    assert spy.read == TEXTS


def test_the_templates_frame_is_that_of_the_texts() -> None:
    template = dataclasses.replace(TEMPLATES["compact"], frame=CoordinateFrame.PIXEL)
    assert score(["<answer>[20, 10, 60, 40]</answer>"], template=template).rewards.tolist() == [1.5]


def test_iou_is_computed_once_for_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever terms ask for it, and the metrics; likewise the two shortcuts."""
    calls: list[str] = []

    def counted(name: str, function: Any) -> Any:
        def count(*args: Any) -> Any:
            calls.append(name)
            return function(*args)

        return count

    monkeypatch.setattr(answers_module, "iou", counted("iou", iou))
    for name in ("covers_image", "repeats_support"):
        monkeypatch.setattr(answers_module, name, counted(name, getattr(overlap, name)))
    score(TEXTS, reward=WeightedReward.from_spec(ALL_TERMS))
    assert sorted(calls) == ["covers_image", "iou", "repeats_support"]


def test_what_is_kept_is_what_was_computed() -> None:
    batch = AnswerBatch.from_parses([make_episode()] * 2, [TEMPLATE.parse(text, (80, 60)) for text in (GOLD, "?")])
    assert batch.ious is batch.ious
    np.testing.assert_array_equal(batch.ious, iou(batch.boxes, batch.target_boxes))
    for values in (batch.ious, batch.is_whole_image, batch.copies_support):
        with pytest.raises(ValueError, match="read-only"):
            values[:] = 0
    for term in (REWARD_TERMS["iou"], REWARD_TERMS["iou_squared"], IoUAt(0.5), Piecewise(0.1, 0.2)):
        values = term(batch)
        values[:] = -1  # the term's own
    assert batch.ious[0] > 0.99


def test_no_picture_is_decoded_or_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(frame: Frame) -> ImageArray:
        raise AssertionError(f"{frame.name} was decoded")

    monkeypatch.setattr(Frame, "image", refuse)
    episode = make_episode()
    missing = Frame("missing", (80, 60), Path("missing.jpg"))
    scores = score(TEXTS, dataclasses.replace(episode, query_frame=missing))
    assert scores.rewards.tolist() == score(TEXTS, episode).rewards.tolist()


def test_a_reward_is_called_once_with_all_answers() -> None:
    seen: list[AnswerBatch] = []

    def term(answers: AnswerBatch) -> np.ndarray[Any, Any]:
        seen.append(answers)
        return np.arange(len(answers), dtype=np.float64)

    scores = score(["a", "b", "c"], reward=WeightedReward({"mine": (term, 2.0)}), progress=0.3)
    assert scores.rewards.tolist() == [0, 2, 4]
    (batch,) = seen
    assert (batch.texts, batch.progress) == (("a", "b", "c"), 0.3)


def test_a_term_that_fails_for_one_names_it() -> None:
    def term(answers: AnswerBatch) -> np.ndarray[Any, Any]:
        return np.array([np.nan if text == "b" else 0.0 for text in answers.texts])

    with pytest.raises(RewardError, match=r"term 'mine' must give finite numbers, got nan, for episode .*'b'"):
        score(["a", "b"], reward=WeightedReward({"mine": (term, 1.0)}))


def test_progress_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"progress must be from 0 .* got 1.5"):
        score(["a"], progress=1.5)


def test_boxes_without_texts() -> None:
    episode = make_episode()
    parses = [ParseResult(ParseStatus.OK, Box(20, 10, 60, 25), True), ParseResult(ParseStatus.REVERSED, None, False)]
    scores = score_parses(episode, parses, reward=WeightedReward.from_spec("iou,format:0.5,length(1)"))
    assert scores.rewards.tolist() == [0.5 + 0.5 + 1, 1]
    assert [scored.box for scored in scores.answers] == [Box(20, 10, 60, 25), None]
    with pytest.raises(ValueError, match="an episode, a parse and a text for each, got 2, 2 and 1"):
        score_parses(episode, parses, ["a"], reward=WeightedReward.default())
