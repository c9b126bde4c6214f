"""A policy that asks the local server, and what it asks."""

from __future__ import annotations

from typing import Any

import numpy as np

from focus_agents.policies.openai.policy import OpenAIPolicy
from focus_agents.rollout.records import Completion, Policy, Sampling
from focus_env.types import ImagePart, Message, TextPart
from tests.focus_agents.policies.openai.chat_server import ChatServer

KEY = "sk-secret-0123456789"


def policy_for(server: ChatServer, **options: Any) -> OpenAIPolicy:
    options = {"timeout_s": 20.0, "max_retries": 0, "num_concurrent": 4} | options
    return OpenAIPolicy(model="a-model", base_url=server.url, **options)


def question(text: str, *images: np.ndarray[Any, np.dtype[np.uint8]]) -> list[Message]:
    return [Message("user", [TextPart(text), *map(ImagePart, images)])]


def ask(
    policy: Policy, *texts: str, num_completions: int = 1, sampling: Sampling | None = None, seed: int = 0
) -> list[Completion]:
    """The completions to all texts, one after the other."""
    generations = policy.generate(
        [question(text) for text in texts],
        num_completions=num_completions,
        sampling=sampling or Sampling(0.5, 9),
        seeds=[seed] * len(texts),
    )
    assert len(generations) == len(texts)
    assert all(len(generation.completions) == num_completions for generation in generations)
    return [completion for generation in generations for completion in generation.completions]


def noise(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
