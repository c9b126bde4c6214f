"""Episodes from the environment, answers from a policy, scores from the environment. No learning, no Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from focus_agents.rollout.records import Generation, Policy, RolloutGroup, Sampling
from focus_env.metrics import score_answer
from focus_env.types import Box, Episode, Message, ParseResult, ParseStatus


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
    """Answer each episode `group_size` times and let the environment score every answer.

    Args:
        env: `focus_env/InContextLocalization-v0` with text actions; its template words the prompts.
        policy: Answers all episodes in one call.
        episode_indices: Which episodes.
        group_size: G, answers per episode.
        sampling: How they are drawn.
        seeds: One for each episode.
        progress: How far the training is, from 0 to 1, for rewards with a curriculum.
    """
    template = env.get_wrapper_attr("template")
    prompts: list[list[Message]] = []
    episodes: list[Episode] = []
    for index in episode_indices:
        prompts.append(template.render(env.reset(options={"episode_index": index})[0]))
        episodes.append(env.get_wrapper_attr("episode"))
    generations = policy.generate(prompts, num_completions=group_size, sampling=sampling, seeds=seeds)
    return [
        _score(env, index, episode, generation, progress)
        for index, episode, generation in zip(episode_indices, episodes, generations, strict=True)
    ]


def _score(
    env: gymnasium.Env[Any, Any], episode_index: int, episode: Episode, generation: Generation, progress: float
) -> RolloutGroup:
    """One environment step for each answer to an episode."""
    rewards: list[float] = []
    infos: list[dict[str, Any]] = []
    options = {"episode_index": episode_index, "episode": episode, "progress": progress}
    for completion in generation.completions:
        env.reset(options=options)
        _, reward, _, _, info = env.step(completion.text)
        rewards.append(float(reward))
        infos.append(info)
    return RolloutGroup(
        episode_index=episode_index,
        generation=generation,
        rewards=np.array(rewards),
        reward_terms=tuple(info["reward_terms"] for info in infos),
        answers=tuple(score_answer(episode, _parse_result(info)) for info in infos),
    )


def _parse_result(info: dict[str, Any]) -> ParseResult:
    """How the environment read an answer."""
    box = None if info["box"] is None else Box(*info["box"])
    return ParseResult(ParseStatus(info["parse_status"]), box, info["is_strict"])
