"""From answers to scores: the one way from texts or boxes to rewards, terms and scored answers.

The environment's `step` and the rollouts of training score here. Scoring reads an episode's boxes and the sizes of its
pictures. No picture is decoded or copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from focus_env.metrics import ScoredAnswer
from focus_env.prompts import PromptTemplate
from focus_env.rewards.answers import AnswerBatch
from focus_env.rewards.terms import Values
from focus_env.rewards.weighted import WeightedReward
from focus_env.types import Episode, ParseResult


@dataclass(frozen=True, eq=False, kw_only=True)
class AnswerScores:
    """The scores of N answers to one episode.

    Attributes:
        rewards: [N] float64 weighted sums of the terms.
        terms: By name of a term, [N] float64 values before weighting.
        answers: [N] what each answer held, for metrics.
    """

    rewards: Values
    terms: Mapping[str, Values]
    answers: tuple[ScoredAnswer, ...]


def score_answers(
    episode: Episode,
    texts: Sequence[str],
    *,
    template: PromptTemplate,
    reward: WeightedReward,
    progress: float = 1.0,
) -> AnswerScores:
    """Read and score N texts that answer one episode.

    Args:
        episode: The question, with its answer.
        texts: [N] whatever a policy wrote.
        template: Its frame is the one in which boxes are read.
        reward: Called once, with all answers.
        progress: How far the training is, from 0 to 1, for rewards with a curriculum.

    Raises:
        RewardError: If a term of the reward raises an error or breaks its contract.
        ValueError: If `progress` is outside of 0 to 1.
    """
    if isinstance(texts, str):  # else each of its characters would be an answer
        raise TypeError(f"texts: expected a sequence of answers, got one string {texts[:40]!r}; put it into a list")
    parses = [template.parse(text, episode.query_frame.image_wh) for text in texts]
    return score_parses(episode, parses, texts, reward=reward, progress=progress)


def score_parses(
    episode: Episode,
    parses: Sequence[ParseResult],
    texts: Sequence[str | None] | None = None,
    *,
    reward: WeightedReward,
    progress: float = 1.0,
) -> AnswerScores:
    """Score N answers to one episode that have been read already, such as box actions.

    Args:
        episode: The question, with its answer.
        parses: [N] what was read.
        texts: [N] what was written, for terms that look at it; None: box actions.
        reward: Called once, with all answers.
        progress: How far the training is, from 0 to 1, for rewards with a curriculum.

    Raises:
        RewardError: If a term of the reward raises an error or breaks its contract.
        ValueError: If the lengths differ, or `progress` is outside of 0 to 1.
    """
    batch = AnswerBatch.from_parses([episode] * len(parses), parses, texts, progress=progress)
    rewards, terms = reward(batch)
    return AnswerScores(rewards=rewards, terms=terms, answers=_scored(episode, parses, batch))


def score_answer(episode: Episode, parse: ParseResult) -> ScoredAnswer:
    """Score one answer for metrics alone, without a reward."""
    return _scored(episode, [parse], AnswerBatch.from_parses([episode], [parse]))[0]


def _scored(episode: Episode, parses: Sequence[ParseResult], batch: AnswerBatch) -> tuple[ScoredAnswer, ...]:
    """Return the values that metrics need of each answer, from those that the terms of the reward have used."""
    ious, are_whole = batch.ious.tolist(), batch.is_whole_image.tolist()
    are_copies: list[bool] = np.any(batch.copies_support, axis=1).tolist()
    return tuple(
        ScoredAnswer(
            episode_id=episode.episode_id,
            status=parse.status,
            is_strict=parse.is_strict,
            box=parse.box,
            target_box=episode.target_box,
            iou=ious[place],
            is_whole_image=are_whole[place],
            is_support_copy=are_copies[place],
            numbers=parse.numbers,
            image_wh=episode.query_frame.image_wh,
        )
        for place, parse in enumerate(parses)
    )
