"""Episodes from the environment, answers from a policy, scores for whole groups. No learning, no Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium

from focus_agents.rollout.records import Generation, Policy, RolloutGroup, Sampling
from focus_env.rewards.scores import AnswerScores, score_answers
from focus_env.types import Episode, Message


def collect_groups(
    env: gymnasium.Env[Any, Any],
    policy: Policy,
    episode_indices: Sequence[int],
    *,
    group_size: int,
    sampling: Sampling,
    seeds: Sequence[int],
    progress: float = 1.0,
) -> list[RolloutGroup]:
    """Answer each episode `group_size` times and score every answer.

    Args:
        env: `focus_env/InContextLocalization-v0` with text actions. It gives the episodes; its template words the
            prompts and reads the answers, and its reward scores them, as its `step` would.
        policy: Answers all episodes in one call.
        episode_indices: Which episodes.
        group_size: G, answers per episode.
        sampling: How they are drawn.
        seeds: One for each episode.
        progress: How far the training is, from 0 to 1, for rewards with a curriculum.

    Raises:
        ValueError: If an index is outside of the data set, or a wrapper changes actions or rewards.
    """
    _check_wrappers(env)  # before an answer is paid for
    template = env.get_wrapper_attr("template")
    prompts: list[list[Message]] = []
    episodes: list[Episode] = []
    for index in episode_indices:
        prompts.append(template.render(env.reset(options={"episode_index": index})[0]))
        episodes.append(env.get_wrapper_attr("episode"))
    generations = ask_policy(policy, prompts, num_completions=group_size, sampling=sampling, seeds=seeds)
    return [
        _group(env, index, episode, generation, progress)
        for index, episode, generation in zip(episode_indices, episodes, generations, strict=True)
    ]


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
    """
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
    """
    _check_wrappers(env)
    template, reward = env.get_wrapper_attr("template"), env.get_wrapper_attr("reward")
    return score_answers(episode, texts, template=template, reward=reward, progress=progress)


def _group(
    env: gymnasium.Env[Any, Any], episode_index: int, episode: Episode, generation: Generation, progress: float
) -> RolloutGroup:
    texts = [completion.text for completion in generation.completions]
    scores = score_texts(env, episode, texts, progress=progress)
    return RolloutGroup(
        episode_index=episode_index,
        generation=generation,
        rewards=scores.rewards,
        reward_terms=tuple(
            {name: float(values[place]) for name, values in scores.terms.items()} for place in range(len(texts))
        ),
        answers=scores.answers,
    )


def _check_wrappers(env: gymnasium.Env[Any, Any]) -> None:
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, gymnasium.ActionWrapper | gymnasium.RewardWrapper):
            raise ValueError(
                f"env: expected no wrapper that changes actions or rewards, got {type(env).__name__}; answers are "
                "scored without a step: give the environment a `template` that reads them, or a `reward` with your term"
            )
        env = env.env
