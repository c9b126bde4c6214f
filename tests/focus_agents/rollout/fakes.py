"""A policy that reads its answers from a script, and the environment that scores them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from focus_agents.rollout.records import Completion, Generation, Sampling
from focus_env import ENV_ID
from focus_env.types import Box, Message
from tests.fakes import FakeDataset

GOLD = "<answer>[250, 167, 750, 667]</answer>"
"""For the fake episode 0, whose target is (20, 10, 60, 40) in 80 x 60."""
GOLD_BOX = Box(20.0, 167 * 60 / 1000, 60.0, 667 * 60 / 1000)
GOLD_IOU = (40 - 10.02) / (40.02 - 10)


class ScriptedPolicy:
    """Gives written texts, the same for each prompt or by prompt, and remembers what it was asked."""

    def __init__(self, *texts: str, by_prompt: Sequence[Sequence[str]] = ()) -> None:
        self.texts = texts
        self.by_prompt = list(by_prompt)
        self.calls: list[dict[str, Any]] = []

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        *,
        num_completions: int,
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[Generation]:
        self.calls.append(
            {"prompts": prompts, "num_completions": num_completions, "sampling": sampling, "seeds": seeds}
        )
        scripts = [self.by_prompt.pop(0) if self.by_prompt else self.texts for _ in prompts]
        assert all(len(script) == num_completions for script in scripts)
        nothing = np.empty(0)
        return [
            Generation(
                tuple(Completion(text, nothing.astype(np.int64), nothing.astype(np.float32), True) for text in s)
            )
            for s in scripts
        ]


def make_env(dataset: FakeDataset | None = None, **options: Any) -> gymnasium.Env[Any, Any]:
    return gymnasium.make(ENV_ID, dataset=dataset or FakeDataset(), **options)
