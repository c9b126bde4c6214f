"""Policies answer the cells of a table, in this process or in Ray's; the driver alone writes what they answer.

Episodes are cut into chunks that do not depend on who answers them, so the number of workers changes no answer.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import ray
from ray.exceptions import RayError, RayTaskError

from focus_agents.errors import EpisodeError, EvaluationError, RunInterrupted
from focus_agents.evaluation.answers import answer_episodes
from focus_agents.evaluation.results import MAX_TEXT, AnswerRecord, Cell, ResultsFolder
from focus_agents.policies.registry import PolicySpec
from focus_agents.rollout.records import Generation, Policy
from focus_agents.runs.interruption import stop_requests
from focus_env.env import ENV_ID
from focus_env.errors import FocusError
from focus_env.types import EpisodeDataset

MAX_RESTARTS = 3
"""How often a worker that dies is started again, and its chunk asked again."""


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """What is asked.

    Attributes:
        policies: By their names in tables.
        dataset: The data set's name in tables.
        episodes: The data set, by number of shots.
        num_episodes: Episodes from its front; fewer if it has fewer.
        max_completion_tokens: Where an answer is cut.
        batch_size: Episodes that a policy answers together.
        num_workers: Ray processes that answer; 0: this process.
        num_gpus_per_worker: GPUs of each, fractions allowed.
    """

    policies: Mapping[str, PolicySpec]
    dataset: str
    episodes: Mapping[int, EpisodeDataset]
    num_episodes: int
    max_completion_tokens: int
    batch_size: int
    num_workers: int = 0
    num_gpus_per_worker: float = 0

    def cells(self) -> list[Cell]:
        """A row of the table after the other, so that each worker loads a policy once."""
        return [
            Cell(policy=policy, dataset=self.dataset, shots=shots, num_episodes=min(self.num_episodes, len(episodes)))
            for policy in self.policies
            for shots, episodes in self.episodes.items()
        ]

    def policy_settings(self) -> dict[str, dict[str, Any]]:
        """By name of a policy, what decides its answers. Where and how fast it computes does not, up to rounding."""
        settings = {}
        for name, spec in self.policies.items():
            template = spec.load_template()
            settings[name] = {
                "policy": spec.text,
                "weights": spec.model_digest(),
                "template": template.name,
                "frame": template.frame.value,
                "max_image_tokens": spec.max_image_tokens,
                "precision": spec.precision,
                "max_completion_tokens": self.max_completion_tokens,
            }
        return settings


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


def pending_chunks(plan: EvaluationPlan, results: ResultsFolder, *, retry_failed: bool = False) -> list[Chunk]:
    """What is still to be answered; files are made ready for it.

    Args:
        plan: What is asked.
        results: What is answered.
        retry_failed: Ask again what failed.

    Raises:
        ValueError: If the data set is not the one that was answered.
        CheckpointError: If a file cannot be read.
    """
    chunks = []
    for cell in plan.cells():
        answered = results.reopen(cell, drop_failed=retry_failed)
        _check_episodes(cell, answered, plan.episodes[cell.shots])
        known = {record.index for record in answered}
        for start in range(0, cell.num_episodes, plan.batch_size):
            batch = range(start, min(start + plan.batch_size, cell.num_episodes))
            if missing := tuple(index for index in batch if index not in known):
                chunks.append(Chunk(cell, plan.policies[cell.policy], missing))
    return chunks


def _check_episodes(cell: Cell, answered: Sequence[AnswerRecord], episodes: EpisodeDataset) -> None:
    """Look at the last answered episode: files may have changed below settings that have not."""
    if not answered:
        return
    last = answered[-1]
    found = episodes[last.index].episode_id if last.index < len(episodes) else "none"
    if found != last.answer.episode_id:
        raise ValueError(
            f"data set {cell.dataset!r}, {cell.shots} shots: episode {last.index} was {last.answer.episode_id!r} when "
            f"it was answered, and is {found!r} now; choose another `output_dir`"
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

    def answer(self, chunk: Chunk) -> list[AnswerRecord]:
        """Answer the episodes of a chunk.

        Raises:
            EvaluationError: If the policy raises for every episode; the message names it and the episodes.
            FocusError: If the policy cannot be made, or an episode not be read.
            ValueError: Likewise.
        """
        if self._spec != chunk.spec or self._policy is None:
            self._policy = None  # its memory is needed for the next one
            self._policy, self._spec = _Timed(chunk.spec.build()), chunk.spec
        dataset, template = self._episodes[chunk.cell.shots], chunk.spec.load_template()
        env = gymnasium.make(ENV_ID, dataset=dataset, template=template)
        try:
            (groups,) = answer_episodes(
                env,
                self._policy,
                chunk.indices,
                max_completion_tokens=self._max_completion_tokens,
                batch_size=len(chunk.indices),
            )
        except Exception as error:
            if isinstance(error, FocusError) and not isinstance(error, EpisodeError):
                raise
            cause = error.__cause__ or error if isinstance(error, EpisodeError) else error
            raise EvaluationError(
                f"{chunk}: {type(cause).__name__}: {cause}. The answers so far are kept: mend it, and repeat the "
                "command with their folder as `output_dir`"
            ) from cause
        records = []
        for group in groups:
            completion = group.generation.completions[0]
            record = AnswerRecord(
                policy=chunk.cell.policy,
                dataset=chunk.cell.dataset,
                shots=chunk.cell.shots,
                index=group.episode_index,
                text=completion.text[:MAX_TEXT],
                error=completion.error,
                seconds=self._policy.seconds / len(groups),
                answer=group.answers[0],
            )
            records.append(record)
        return records


class _RemoteAnswerer:
    """An `Answerer` in Ray.

    The data set comes with each chunk, as a reference in a list of one, and is fetched once: Ray warns of references in
    constructors, which a restarted worker may not find.
    """

    def __init__(self, max_completion_tokens: int) -> None:
        self._max_completion_tokens = max_completion_tokens
        self._answerer: Answerer | None = None

    def answer(self, chunk: Chunk, episodes: Sequence[Any]) -> list[AnswerRecord]:
        if self._answerer is None:
            self._answerer = Answerer(ray.get(episodes[0]), self._max_completion_tokens)
        return self._answerer.answer(chunk)


class _Timed:
    """A policy whose last call's duration is known."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.seconds = 0.0

    def generate(self, *args: Any, **options: Any) -> list[Generation]:
        started = time.perf_counter()
        generations = self._policy.generate(*args, **options)
        self.seconds = time.perf_counter() - started
        return generations


Answers = Generator[tuple[Chunk, list[AnswerRecord]], None, None]


def run_chunks(
    plan: EvaluationPlan, results: ResultsFolder, chunks: Sequence[Chunk], *, on_done: Callable[[int], None]
) -> None:
    """Answer chunks and keep the answers. With workers, Ray is running.

    Args:
        plan: What is asked.
        results: Where answers go.
        chunks: What is to be answered.
        on_done: Called with the number of episodes that were answered, after each chunk.

    Raises:
        EvaluationError: If a policy raises, or workers die too often.
        RunInterrupted: After a chunk, if a signal asks to stop.
    """
    num_done = 0
    answers = _answer_on_ray(plan, chunks) if plan.num_workers else _answer_here(plan, chunks)
    with contextlib.closing(answers), stop_requests(lambda name: None) as stop:
        for chunk, records in answers:
            results.append(chunk.cell, records)
            num_done += len(records)
            on_done(num_done)
            if stop.received is not None:
                raise RunInterrupted(
                    f"stopped by {stop.received.name} after {num_done} episodes, which are kept; to go on, repeat the "
                    f"command with `output_dir` {results.path}",
                    signal_number=stop.received,
                )


def _answer_here(plan: EvaluationPlan, chunks: Sequence[Chunk]) -> Answers:
    answerer = Answerer(plan.episodes, plan.max_completion_tokens)
    for chunk in chunks:
        yield chunk, answerer.answer(chunk)


def _answer_on_ray(plan: EvaluationPlan, chunks: Sequence[Chunk]) -> Answers:
    """In the order in which workers are done; each has one chunk at a time."""
    worker_class = ray.remote(
        num_cpus=1, num_gpus=plan.num_gpus_per_worker, max_restarts=MAX_RESTARTS, max_task_retries=MAX_RESTARTS
    )(_RemoteAnswerer)
    episodes = ray.put(dict(plan.episodes))
    num_workers = min(plan.num_workers, len(chunks))
    workers = [worker_class.remote(plan.max_completion_tokens) for _ in range(num_workers)]
    waiting, running = deque(chunks), {}

    def ask(worker: Any) -> None:
        if waiting:
            chunk = waiting.popleft()
            running[worker.answer.remote(chunk, [episodes])] = worker, chunk

    try:
        for worker in workers:
            ask(worker)
        while running:
            (call,), _ = ray.wait(list(running), num_returns=1)
            worker, chunk = running.pop(call)
            records = _result(call, chunk)
            ask(worker)
            yield chunk, records
    finally:
        for worker in workers:
            ray.kill(worker)


def _result(call: Any, chunk: Chunk) -> list[AnswerRecord]:
    try:
        records: list[AnswerRecord] = ray.get(call)
    except RayTaskError as error:
        raise error.cause from error
    except RayError as error:
        raise EvaluationError(
            f"{chunk}: its worker died {MAX_RESTARTS + 1} times ({type(error).__name__}), often for want of memory. "
            "The answers so far are kept: repeat the command with their folder as `output_dir`, perhaps with fewer "
            "`num_workers` or a smaller `batch_size`"
        ) from error
    return records
