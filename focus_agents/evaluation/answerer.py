"""A policy answers chunks of episodes, in whatever process.

An exception on one answer is one failed answer, counted, whatever it was; several of them end the work.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium

from focus_agents.errors import EpisodeError, EvaluationError, PolicyError
from focus_agents.evaluation.answers import answer_episodes
from focus_agents.evaluation.records import MAX_TEXT, AnswerRecord, Cell
from focus_agents.policies.registry import PolicySpec
from focus_agents.rollout.records import Generation, Policy, RolloutGroup
from focus_agents.rollout.scores import completion_score
from focus_env.env import ENV_ID
from focus_env.errors import FocusError
from focus_env.types import EpisodeDataset

MAX_RAISED = 16
"""Episodes that may end in an exception, each counted as failed, whatever their share; where more do, and as many as do
not, the evaluation ends."""
MEMORY_ADVICE = "lower `batch_size`, `max_image_tokens` or `shots`, or set `precision` bf16"
"""Advice where a model that answers runs out of memory."""
MAX_RAISED_FIRST = 3
"""Exceptions that end it where there is no answer yet: a bug that meets every question."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Episodes that are answered in one call of a policy."""

    cell: Cell
    spec: PolicySpec
    indices: tuple[int, ...]

    def __str__(self) -> str:
        return (
            f"policy {self.cell.policy!r} on episodes {self.indices[0]} to {self.indices[-1]} of "
            f"{self.cell.dataset!r} with {self.cell.shots} shots"
        )


class Answerer:
    """Answers chunks, in whatever process; it holds one policy at a time.

    Args:
        episodes: The data set, by number of shots.
        max_completion_tokens: Where an answer is cut.
    """

    def __init__(self, episodes: Mapping[int, EpisodeDataset], max_completion_tokens: int) -> None:
        self._episodes = episodes
        self._max_completion_tokens = max_completion_tokens
        self._spec: PolicySpec | None = None
        self._policy: _Timed | None = None
        self._num_raised = self._num_answered = 0

    def answer(self, chunk: Chunk) -> list[AnswerRecord]:
        """Answer the episodes of a chunk.

        An episode that cannot be asked or scored, or from which the policy raises, is one failed answer.

        Raises:
            EvaluationError: If the policy raises too often, see `MAX_RAISED` and `MAX_RAISED_FIRST`; the message names
                it and the episodes.
            PolicyError: If the policy cannot be made.
            FocusError: If an episode cannot be read, or an endpoint refuses all questions.
        """
        if self._spec != chunk.spec or self._policy is None:
            self._policy = None  # its memory is needed for the next one
            self._policy, self._spec = _Timed(_build(chunk)), chunk.spec
            self._num_raised = self._num_answered = 0
        self._policy.seconds = 0.0
        groups = self._ask(chunk, self._policy, chunk.indices)
        errors = [group.error for group in groups if group.error is not None]
        self._num_raised += len(errors)
        self._num_answered += len(groups) - len(errors)
        most = MAX_RAISED if self._num_answered else MAX_RAISED_FIRST - 1
        if errors and self._num_raised > most and self._num_raised >= self._num_answered:
            raise _gives_up(chunk, errors[0]) from errors[0].__cause__ or errors[0]
        return self._records(chunk, groups, self._policy.seconds)

    def _ask(self, chunk: Chunk, policy: Policy, indices: tuple[int, ...]) -> list[RolloutGroup]:
        dataset, template = self._episodes[chunk.cell.shots], chunk.spec.load_template()
        env = gymnasium.make(ENV_ID, dataset=dataset, template=template)
        try:
            with _memory_advice():
                (groups,) = answer_episodes(
                    env, policy, indices, max_completion_tokens=self._max_completion_tokens, batch_size=len(indices)
                )
        except EpisodeError as error:
            raise _gives_up(chunk, error) from error.__cause__ or error
        return groups

    def _records(self, chunk: Chunk, groups: list[RolloutGroup], seconds: float) -> list[AnswerRecord]:
        records = []
        processor = None if self._policy is None else self._policy.processor
        decode = None if processor is None else processor.decode
        for group in groups:
            completion = group.generation.completions[0]
            record = AnswerRecord(
                policy=chunk.cell.policy,
                dataset=chunk.cell.dataset,
                shots=chunk.cell.shots,
                index=group.episode_index,
                text=completion.text[:MAX_TEXT],
                error=completion.error,
                seconds=seconds / len(groups),
                is_cut=not completion.is_finished and completion.error is None,
                answer=group.answers[0],
                score=completion_score(completion, has_box=group.answers[0].box is not None, decode=decode),
            )
            records.append(record)
        return records


def _memory_advice() -> contextlib.AbstractContextManager[None]:
    """Around the answers of a model, say what helps where memory runs out; other policies answer without torch."""
    if "torch" not in sys.modules:
        return contextlib.nullcontext()
    from focus_agents.models.devices import memory_advice

    return memory_advice(MEMORY_ADVICE)


def _build(chunk: Chunk) -> Policy:
    """Return the policy of a chunk."""
    try:
        return chunk.spec.build()
    except FocusError:
        raise
    except (Exception, SystemExit) as error:
        told, named = str(error), f"policy {chunk.spec.text!r}: "
        reason = told.removeprefix(named) if told.startswith(named) else f"{type(error).__name__}: {told}"
        raise PolicyError(f"policy {chunk.cell.policy!r} could not be made: {reason}") from error


def _gives_up(chunk: Chunk, error: Exception) -> EvaluationError:
    cause = error.__cause__ or error
    return EvaluationError(
        f"{chunk}: {type(cause).__name__}: {cause}. The answers so far are kept: mend it, and repeat the command with "
        "their folder as `output_dir`"
    )


class _Timed:
    """A policy that adds up how long its calls take."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.processor = getattr(policy, "processor", None)
        self.seconds = 0.0

    def generate(self, *args: Any, **options: Any) -> list[Generation]:
        started = time.perf_counter()
        try:
            return self._policy.generate(*args, **options)
        finally:
            self.seconds += time.perf_counter() - started
