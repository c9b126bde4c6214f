"""Prompts by reference: a prompt stays in the object store of its sampler's machine until a learner fetches it.

A prompt with its pictures is nearly all of a group. The driver needs the rest, to choose, count and show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import ObjectLostError

from focus_agents.models.inputs import EncodedPrompt
from focus_agents.rollout.records import PromptReference, RolloutGroup


class PromptSplitter:
    """The split of a group into a group without its prompt, and the prompt; see `requests.Splitter`."""

    @staticmethod
    def split(group: RolloutGroup) -> tuple[RolloutGroup, EncodedPrompt | None]:
        """Return the group without its prompt, and the prompt."""
        prompt = group.generation.prompt
        if prompt is None:  # nobody could ask the episode
            return group, None
        generation = replace(group.generation, prompt=None)
        return replace(group, generation=generation, prompt_reference=PromptReference(prompt.num_tokens)), prompt

    @staticmethod
    def refer(group: RolloutGroup, content: ray.ObjectRef) -> None:
        """Put the reference to its prompt into a group."""
        if group.prompt_reference is not None:
            group.prompt_reference.content = content


def fetch(references: Sequence[PromptReference]) -> list[EncodedPrompt]:
    """Return the prompts that references name, all fetched at once."""
    # Without any, there may be no Ray, which `get` would start.
    return ray.get([reference.content for reference in references]) if references else []


def with_prompts(groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
    """Return groups with their prompts, which are fetched into this process."""
    references = [group.prompt_reference for group in groups]
    fetched = iter(fetch([reference for reference in references if reference is not None]))
    return [
        group
        if group.prompt_reference is None
        else replace(group, generation=replace(group.generation, prompt=next(fetched)), prompt_reference=None)
        for group in groups
    ]


def find_lost(learner: Any, contents: Sequence[ray.ObjectRef]) -> list[int]:
    """Fetch prompts into this machine's object store, and return the positions of lost ones.

    Args:
        learner: As RLlib's `apply` gives it; not used.
        contents: References to the prompts.
    """
    if contents:  # all at once
        ray.wait(list(contents), num_returns=len(contents))
    lost = []
    for position, content in enumerate(contents):
        try:
            ray.get(content)
        except ObjectLostError:
            lost.append(position)
    return lost
