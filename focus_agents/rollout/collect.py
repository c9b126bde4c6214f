"""Episodes from the environment, answers from a policy, scores for whole groups. No learning, no Ray.

One bad item never takes others with it. A picture that cannot be decoded or encoded, a policy that raises on an
episode, a parser or a term of the reward that raises on an answer: what it strikes has an error, all else is as
without it. Callers count errors, and stop where nothing but errors comes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import gymnasium
import numpy as np

from focus_agents.errors import EpisodeError, PolicyError
from focus_agents.rollout.records import (
    Completion,
    Generation,
    GoldAnswer,
    Policy,
    RolloutGroup,
    Sampling,
    ShownSupport,
)
from focus_agents.rollout.scoring import check_wrappers, error_of, score_apart, score_texts, unread_answer
from focus_env.errors import FocusError, MissingDependencyError
from focus_env.metrics import ScoredAnswer
from focus_env.prompts import PromptTemplate
from focus_env.types import Box, Episode, EpisodeDataset, Message

MAX_FAILED_IN_A_ROW = 16
"""So many episodes in a row that cannot be used end a training: the fault is then not theirs."""


EncodeAnswer: TypeAlias = Callable[[str], Sequence[int]]
"""The tokens by which a policy would write an answer, the end token last."""


def errors_of_no_episode() -> tuple[type[BaseException], ...]:
    """Return the errors that any other episode would bring, too; torch's where it is imported."""
    torch = sys.modules.get("torch")
    return (MissingDependencyError, MemoryError, *([] if torch is None else [torch.OutOfMemoryError]))


@dataclass(frozen=True, slots=True)
class _Question:
    """An episode as it is asked.

    Attributes:
        index: Which episode of the data set.
        seed: Of its answers.
        episode: None where the data set cannot give it.
        messages: The prompt; empty where there is an error.
        error: Why it cannot be asked.
    """

    index: int
    seed: int
    episode: Episode | None
    messages: Sequence[Message] = ()
    error: FocusError | None = None


def collect_groups(
    env: gymnasium.Env[Any, Any],
    policy: Policy,
    episode_indices: Sequence[int],
    *,
    group_size: int,
    sampling: Sampling,
    seeds: Sequence[int],
    progress: float = 1.0,
    shots: int | None = None,
    encode_answer: EncodeAnswer | None = None,
) -> list[RolloutGroup]:
    """Answer each episode `group_size` times and score every answer.

    Args:
        env: `focus_env/InContextLocalization-v0` with text actions. It gives the episodes; its template words the
            prompts and reads the answers, and its reward scores them, as its `step` would.
        policy: Answers all episodes in one call; where that raises, the halves of them, down to each alone.
        episode_indices: Which episodes.
        group_size: G, answers per episode.
        sampling: How they are drawn.
        seeds: One for each episode.
        progress: How far the training is, from 0 to 1, for rewards with a curriculum.
        shots: Supports that episodes are shown with; None: those that they have.
        encode_answer: If given, each group has the right answer, too, in these tokens and scored like the others; an
            episode whose right answer cannot be scored has failed.

    Returns:
        A group for each episode, in their order. One that failed has an `error`. So has a completion alone, where
        others of its group could be scored; its reward is then their mean, so that it pulls none of them.

    Raises:
        ValueError: If an index is outside of the data set, or a wrapper changes actions or rewards.
        FocusError: If the policy raises one, which is about more than an episode.
    """
    check_wrappers(env)  # before an answer is paid for
    questions = [_ask(env, index, seed, shots) for index, seed in zip(episode_indices, seeds, strict=True)]

    def generate(asked: Sequence[_Question]) -> list[Generation]:
        prompts, chosen = [question.messages for question in asked], [question.seed for question in asked]
        return ask_policy(policy, prompts, num_completions=group_size, sampling=sampling, seeds=chosen)

    asked = [question for question in questions if question.error is None]
    generations = iter(_generate_apart(generate, asked) if asked else [])
    groups = []
    for question in questions:
        generation = question.error or next(generations)
        if isinstance(generation, Exception):
            groups.append(_failed_group(question, generation, group_size))
        else:
            groups.append(_group(env, question, generation, progress, encode_answer))
    return groups


def ask_policy(
    policy: Policy,
    prompts: Sequence[Sequence[Message]],
    *,
    num_completions: int,
    sampling: Sampling,
    seeds: Sequence[int],
) -> list[Generation]:
    """Call a policy's `generate`, and see that it gives what `focus_agents.rollout.records.Policy` says.

    Raises:
        ValueError: If it gives another number of generations or of completions, or other objects.
        RuntimeError: If it ends the process by `sys.exit`, which would look like an end of the work.
        PolicyError: If it is no policy.
    """
    if not callable(getattr(policy, "generate", None)):
        raise PolicyError(
            f"policy: expected an object with a method `generate`, see focus_agents.Policy, got {policy!r:.80}; a "
            "function that finds a box becomes one by focus_agents.policies.localizers.LocalizerPolicy"
        )
    try:
        generations = policy.generate(prompts, num_completions=num_completions, sampling=sampling, seeds=seeds)
    except SystemExit as error:
        raise RuntimeError(
            f"expected answers of the policy, got a call of sys.exit({error.code!r}); return a Completion with an "
            "`error` for an answer that cannot be had"
        ) from error
    if not isinstance(generations, Sequence) or not all(isinstance(one, Generation) for one in generations):
        raise ValueError(f"expected a list of Generation of the policy, got {generations!r:.200}")
    if len(generations) != len(prompts):
        raise ValueError(
            f"expected a Generation of the policy for each of {len(prompts)} prompts, got {len(generations)}"
        )
    for one in generations:
        if len(one.completions) != num_completions or not all(isinstance(c.text, str) for c in one.completions):
            raise ValueError(
                f"expected {num_completions} completions with texts of the policy for each prompt, got "
                f"{len(one.completions)}: {one.completions!r:.200}"
            )
    return list(generations)


def _ask(env: gymnasium.Env[Any, Any], index: int, seed: int, shots: int | None) -> _Question:
    """Word an episode's question, or say why there is none."""
    dataset = env.get_wrapper_attr("dataset")
    try:
        of_shots = {} if shots is None else {"shots": shots}
        observation, _ = env.reset(options={"episode_index": index, **of_shots})
        episode: Episode = env.get_wrapper_attr("episode")
        template: PromptTemplate = env.get_wrapper_attr("template").for_question(episode)
        return _Question(index, seed, episode, template.render(observation))
    except errors_of_no_episode():
        raise
    except Exception as error:
        if not 0 <= index < len(dataset):
            raise
        known = _episode(dataset, index)
        return _Question(index, seed, known, error=_named_error(error, _name(index, known)))


def _generate_apart(
    generate: Callable[[Sequence[_Question]], list[Generation]], asked: Sequence[_Question]
) -> list[Generation | Exception]:
    """Return all generations of one call; if that raises, of as few calls as part the bad questions from the good."""
    try:
        return [*generate(asked)]
    except FocusError:
        raise
    except errors_of_no_episode():
        raise
    except Exception as error:
        if len(asked) == 1:
            return [error]
    middle = len(asked) // 2
    return [*_generate_apart(generate, asked[:middle]), *_generate_apart(generate, asked[middle:])]


def _group(
    env: gymnasium.Env[Any, Any],
    question: _Question,
    generation: Generation,
    progress: float,
    encode_answer: EncodeAnswer | None,
) -> RolloutGroup:
    texts = [completion.text for completion in generation.completions]
    assert question.episode is not None
    try:
        scores, errors = score_apart(env, question.episode, texts, progress=progress)
        gold = None if encode_answer is None else _gold_answer(env, question.episode, progress, encode_answer)
    except Exception as error:
        return _failed_group(question, error, len(texts))
    if any(errors):
        completions = tuple(
            completion if error is None else replace(completion, error=completion.error or _text(error))
            for completion, error in zip(generation.completions, errors, strict=True)
        )
        generation = replace(generation, completions=completions)
    return RolloutGroup(
        episode_index=question.index,
        generation=generation,
        rewards=scores.rewards,
        reward_terms=tuple(
            {name: float(values[place]) for name, values in scores.terms.items()} for place in range(len(texts))
        ),
        answers=scores.answers,
        supports=_supports(question.episode),
        gold=gold,
    )


def _gold_answer(
    env: gymnasium.Env[Any, Any], episode: Episode, progress: float, encode_answer: EncodeAnswer
) -> GoldAnswer:
    """Return the right answer, in the words of the question's template."""
    template: PromptTemplate = env.get_wrapper_attr("template").for_question(episode)
    text = template.answer(episode.target_box, episode.query_frame.image_wh)
    scores = score_texts(env, episode, [text], progress=progress)
    return GoldAnswer(np.array(encode_answer(text), dtype=np.int64), float(scores.rewards[0]))


def _failed_group(question: _Question, error: Exception, group_size: int) -> RolloutGroup:
    """Return a group whose answers are not there, or could not be scored."""
    named = _named_error(error, _name(question.index, question.episode))
    nothing = Completion("", np.empty(0, np.int64), np.empty(0, np.float32), is_finished=True, error=_text(named))
    answers: tuple[ScoredAnswer, ...] = ()
    if question.episode is not None and _has_target(question.episode):
        answers = (unread_answer(question.episode),) * group_size
    return RolloutGroup(
        episode_index=question.index,
        generation=Generation((nothing,) * group_size),
        rewards=np.zeros(group_size),
        reward_terms=({},) * group_size,
        answers=answers,
        error=named,
        supports=_supports(question.episode),
    )


def _supports(episode: Episode | None) -> tuple[ShownSupport, ...]:
    shown = () if episode is None else episode.support
    return tuple(ShownSupport(exemplar.box, exemplar.frame.image_wh) for exemplar in shown)


def _has_target(episode: Episode) -> bool:
    """Return whether the right answer is known: a box, or that there is none."""
    box: Box | None = episode.target_box
    return box is None or (all(map(math.isfinite, box)) and box[0] < box[2] and box[1] < box[3])


def describe_failure(group: RolloutGroup) -> str:
    """Say in a sentence which episode failed, and why."""
    if isinstance(group.error, EpisodeError):
        return str(group.error)
    name = repr(group.answers[0].episode_id) if group.answers else str(group.episode_index)
    return _after(f"episode {name}", str(group.error))


def describe_error(error: Exception, index: int, dataset: EpisodeDataset) -> str:
    """Say which episode of a data set cannot be used, and why."""
    if isinstance(error, EpisodeError):
        return str(error)
    return _after(_name(index, _episode(dataset, index)), _text(error))


def _episode(dataset: EpisodeDataset, index: int) -> Episode | None:
    """Return an episode after an error; the pictures may be what is broken, and the episode all right."""
    return None if error_of(dataset.__getitem__, index) else dataset[index]


def _named_error(error: Exception, name: str) -> FocusError:
    """Return an error of this package as it is, and any other as an `EpisodeError` that names what it struck."""
    if isinstance(error, FocusError):
        return error
    named = EpisodeError(f"{name}: {_text(error)}")
    named.__cause__ = error
    return named


def _name(index: int, episode: Episode | None) -> str:
    return f"episode {index}" if episode is None else f"episode {episode.episode_id!r}"


def _after(name: str, text: str) -> str:
    """Return the text of an error behind the name of its episode, which it may begin with."""
    return text if text.startswith(f"{name}: ") else f"{name}: {text}"


def _text(error: Exception) -> str:
    """Return an error in words, for records."""
    return str(error) if isinstance(error, FocusError) else f"{type(error).__name__}: {error}"
