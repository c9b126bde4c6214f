"""Answers to an episode in, rewards and scores out; what raises on one answer takes no other with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from focus_env.metrics import ScoredAnswer
from focus_env.rewards.scores import AnswerScores, score_answers
from focus_env.types import Episode, ParseStatus


def score_texts(
    env: gymnasium.Env[Any, Any], episode: Episode, texts: Sequence[str], *, progress: float = 1.0
) -> AnswerScores:
    """Score answers to an episode by an environment's template and reward, without a step of it.

    Args:
        env: As in `collect_groups`. Its current question stays as it is.
        episode: What is answered.
        texts: [N] the answers.
        progress: How far the training is, from 0 to 1.

    Raises:
        ValueError: If a wrapper changes actions or rewards, which only a step would do.
        RewardError: If a term of the reward raises an error or breaks its contract for any answer; see `score_apart`.
    """
    check_wrappers(env)
    template, reward = env.get_wrapper_attr("template"), env.get_wrapper_attr("reward")
    return score_answers(episode, texts, template=template, reward=reward, progress=progress)


def score_apart(
    env: gymnasium.Env[Any, Any], episode: Episode, texts: Sequence[str], *, progress: float = 1.0
) -> tuple[AnswerScores, tuple[Exception | None, ...]]:
    """Score answers as `score_texts` does, of which some may fail.

    Args:
        env: As in `score_texts`.
        episode: Likewise.
        texts: Likewise.
        progress: Likewise.

    Returns:
        The scores; and for each answer the error that scoring it raised, None where there is none. An answer with an
        error counts as unread, and has the mean reward and terms of the others.

    Raises:
        ValueError: As in `score_texts`.
        RewardError: If a term of the reward fails for every answer.
        Exception: Whatever else is raised for every answer.
    """

    def score(some: Sequence[str]) -> AnswerScores:
        return score_texts(env, episode, some, progress=progress)

    try:
        return score(texts), (None,) * len(texts)
    except Exception:
        errors = tuple(error_of(score, [text]) for text in texts)
        if all(error is not None for error in errors) or not any(errors):
            raise
    # Together, since a term may compare the answers of a group.
    scored = [place for place, error in enumerate(errors) if error is None]
    return _spread(score([texts[place] for place in scored]), scored, len(texts), episode), errors


def _spread(scores: AnswerScores, scored: Sequence[int], count: int, episode: Episode) -> AnswerScores:
    """Return the scores of `count` answers, of which those at `scored` have some."""

    def filled(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        everyones = np.full(count, values.mean())
        everyones[list(scored)] = values
        return everyones

    known = dict(zip(scored, scores.answers, strict=True))
    return AnswerScores(
        rewards=filled(scores.rewards),
        terms={name: filled(values) for name, values in scores.terms.items()},
        answers=tuple(known.get(place) or unread_answer(episode) for place in range(count)),
    )


def unread_answer(episode: Episode) -> ScoredAnswer:
    """Return an answer in which nothing could be read; made without looking at the episode's supports or pictures."""
    return ScoredAnswer(
        episode_id=episode.episode_id,
        status=ParseStatus.NO_BOX,
        is_strict=False,
        box=None,
        target_box=episode.target_box,
        iou=0.0,
        is_whole_image=False,
        is_support_copy=False,
    )


def error_of(function: Callable[[Any], Any], argument: Any) -> Exception | None:
    """Return what a call raises; None: nothing."""
    try:
        function(argument)
    except Exception as error:
        return error
    return None


def check_wrappers(env: gymnasium.Env[Any, Any]) -> None:
    """Refuse an environment whose answers cannot be scored without a step.

    Raises:
        ValueError: If a wrapper changes actions or rewards.
    """
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, gymnasium.ActionWrapper | gymnasium.RewardWrapper):
            raise ValueError(
                f"env: expected no wrapper that changes actions or rewards, got {type(env).__name__}; answers are "
                "scored without a step: give the environment a `template` that reads them, or a `reward` with your term"
            )
        env = env.env
