"""The records between a policy, its rollouts and the learner.

Axis letters: G completions per prompt, T completion tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from focus_env.errors import FocusError
from focus_env.metrics import ScoredAnswer
from focus_env.types import Box, Message

if TYPE_CHECKING:  # a command line is read without torch
    from focus_agents.models.inputs import EncodedPrompt
    from focus_agents.models.shared_prefix import PrefixRow

MAX_COMPLETION_TOKENS = 50
"""Tokens at which an answer is cut where a caller says nothing."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """The way in which completions are drawn.

    Attributes:
        temperature: Divides the logits; 0 takes the likeliest token.
        max_completion_tokens: Where a completion is cut if it has not ended.
    """

    temperature: float = 1.0
    max_completion_tokens: int = MAX_COMPLETION_TOKENS

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature: expected 0 (greedy) or more, got {self.temperature}")
        if self.max_completion_tokens < 1:
            raise ValueError(f"max_completion_tokens: expected 1 or more tokens, got {self.max_completion_tokens}")


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of a policy.

    Attributes:
        text: What the environment is given.
        token_ids: [T] int64 with the end token; empty for policies that do not speak in tokens.
        logprobs: [T] float32 under the distribution that was sampled from; empty likewise.
        is_finished: Whether it ended by itself rather than at the limit.
        error: Why there is no answer, where a policy could not get one or scoring it failed; None: there is one.
        score: How sure the policy is of it, 0 to 1, where it does not speak in tokens and says so; None: it does not.
    """

    text: str
    token_ids: npt.NDArray[np.int64]
    logprobs: npt.NDArray[np.float32]
    is_finished: bool
    error: str | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """The answer of a policy to one prompt.

    Attributes:
        completions: G answers.
        prompt: The prompt as the policy encoded it, for a learner; None for policies that do not speak in tokens.
        prefix: The forward pass over the prompt, with gradient, for a learner in the same process that trains the same
            weights; None: it runs its own.
    """

    completions: tuple[Completion, ...]
    prompt: EncodedPrompt | None = None
    prefix: PrefixRow | None = None


class Policy(Protocol):
    """Anything that answers prompts."""

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        *,
        num_completions: int,
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[Generation]:
        """Return `num_completions` answers to each prompt; answers depend on the prompt's seed, not on neighbours."""
        ...


class ShownSupport(NamedTuple):
    """A support as it was shown, without its pixels.

    Attributes:
        box: `xyxy` in pixels of its picture.
        image_wh: (width, height) of the picture.
    """

    box: Box
    image_wh: tuple[int, int]


class GoldAnswer(NamedTuple):
    """The right answer to an episode, as the policy would write it.

    Attributes:
        token_ids: [T] int64 with the end token.
        reward: What the environment's reward gives for it.
    """

    token_ids: npt.NDArray[np.int64]
    reward: float


@dataclass(eq=False, slots=True)
class PromptReference:
    """A reference to an encoded prompt in Ray's object store, for a process that has no use for the pictures.

    Attributes:
        num_tokens: Of the prompt.
        content: `ObjectRef` of the `EncodedPrompt`; replaced if the prompt was lost and sampled again. None: not
            stored yet, or not needed any more.
    """

    num_tokens: int
    content: Any = None


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """One episode with G answers to it and their scores; the unit that a learner gets.

    Attributes:
        episode_index: Which episode of the data set.
        generation: The policy's answers, and the prompt as it encoded it.
        rewards: [G] float64.
        reward_terms: [G] what each reward is made of.
        answers: [G] how the environment read and scored each answer. Empty where `error` is set and nobody knows what
            the right answer would have been.
        error: Why the episode could not be asked, or none of its answers be scored; its answers then count as unread.
            None: there is at least one answer.
        supports: The supports of the episode; empty where it could not be had.
        gold: The right answer, for a learner; None: nobody asked for it.
        prompt_reference: The prompt that `generation` lacks, if another process has sampled the group.
    """

    episode_index: int
    generation: Generation
    rewards: npt.NDArray[np.float64]
    reward_terms: tuple[dict[str, float], ...]
    answers: tuple[ScoredAnswer, ...]
    error: FocusError | None = None
    supports: tuple[ShownSupport, ...] = ()
    gold: GoldAnswer | None = None
    prompt_reference: PromptReference | None = None


def released(group: RolloutGroup) -> RolloutGroup:
    """Return the group without its policy's forward pass and without the content of its prompt's reference."""
    reference = None if group.prompt_reference is None else PromptReference(group.prompt_reference.num_tokens)
    return replace(group, generation=replace(group.generation, prefix=None), prompt_reference=reference)
