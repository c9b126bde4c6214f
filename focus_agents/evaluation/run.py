"""Policies answer the cells of a table, in this process or in Ray's; the driver alone writes what they answer.

Episodes are cut into chunks that do not depend on the workers, so the number of workers changes no answer.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from focus_agents.errors import EvaluationError, PolicyError, RunInterrupted
from focus_agents.evaluation.answerer import Answerer, Chunk
from focus_agents.evaluation.episodes import check_shots, digest_episodes, is_sampled, read_episode
from focus_agents.evaluation.published import why_not_published
from focus_agents.evaluation.records import AnswerRecord, Cell
from focus_agents.evaluation.results import ResultsFolder
from focus_agents.policies.identity import identity
from focus_agents.policies.registry import PolicySpec
from focus_agents.runs.interruption import stop_requests
from focus_agents.runs.provenance import sources_of_users
from focus_env.types import EpisodeDataset

MAX_FAILED_FIRST = 32
"""Answers of a policy that may fail, all alike, before there is any. These are what a policy counts as failed itself; a
bug, which raises and meets every question, needs fewer to be told from a bad episode: `answerer.MAX_RAISED_FIRST`."""
MAX_RESTARTS = 3
"""How often a worker that dies is started again, and its chunk asked again."""


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """The questions of an evaluation.

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
        """Return a row of the table after the other, so that each worker loads a policy once."""
        return [
            Cell(policy=policy, dataset=self.dataset, shots=shots, num_episodes=min(self.num_episodes, len(episodes)))
            for policy in self.policies
            for shots, episodes in self.episodes.items()
        ]

    def policy_settings(self) -> dict[str, dict[str, Any]]:
        """Return by name of a policy the settings that decide its answers; where and how fast it computes does not."""
        return {
            name: {
                **identity(spec),
                "max_completion_tokens": self.max_completion_tokens,
                "code": _code_of(spec),
            }
            for name, spec in self.policies.items()
        }

    def check_supports(self) -> None:
        """See that episodes have as many supports as is asked for, at a sample of them.

        Raises:
            ValueError: If not.
        """
        for shots, episodes in self.episodes.items():
            for index in filter(is_sampled, range(min(self.num_episodes, len(episodes)))):
                if (episode := read_episode(episodes, index)) is not None:
                    check_shots(episode, shots, name=self.dataset)


def _code_of(spec: PolicySpec) -> dict[str, str]:
    """Return digests of the modules that a policy of the user's own, or of an installed package, is made of."""
    entry = spec.entry
    is_own = ":" in entry.name
    if is_own:
        spec.check()  # imports it
    return sources_of_users([entry.name if is_own else entry.build])


def pending_chunks(plan: EvaluationPlan, results: ResultsFolder, *, retry_failed: bool = False) -> list[Chunk]:
    """Return the chunks still to be answered; files are made ready for them.

    Args:
        plan: What is asked.
        results: What is answered.
        retry_failed: Ask again what failed.

    Raises:
        ValueError: If the data set is not the one that was answered.
        CheckpointError: If a file cannot be read.
    """
    for cell in {cell.shots: cell for cell in plan.cells()}.values():
        _check_episodes(plan, results, cell)
    chunks = []
    for cell in plan.cells():
        known = {record.index for record in results.reopen(cell, drop_failed=retry_failed)}
        for start in range(0, cell.num_episodes, plan.batch_size):
            batch = range(start, min(start + plan.batch_size, cell.num_episodes))
            if missing := tuple(index for index in batch if index not in known):
                chunks.append(Chunk(cell, plan.policies[cell.policy], missing))
    return chunks


def _check_episodes(plan: EvaluationPlan, results: ResultsFolder, cell: Cell) -> None:
    """Compare the episodes with those that were answered, by whatever policy; then keep what they are now."""
    episodes, name = plan.episodes[cell.shots], f"data set {cell.dataset!r}, {cell.shots} shots"
    cells = [known for known in results.cells() if (known.dataset, known.shots) == (cell.dataset, cell.shots)]
    answered = {record.index: record.answer for known in cells for record in results.read(known)}
    for index, answer in sorted(answered.items(), reverse=True):
        episode = read_episode(episodes, index) if index < len(episodes) else None
        if episode is None and index < len(episodes):
            continue
        if episode is None or episode.episode_id != answer.episode_id:
            found = "none" if episode is None else episode.episode_id
            raise ValueError(
                f"{name}: episode {index} was {answer.episode_id!r} when it was answered, and is {found!r} now; choose "
                "another `output_dir`"
            )
        if episode.target_box != answer.target_box:
            raise _changed(name, answer.episode_id, "labels")
    num_episodes = min(len(episodes), max(known.num_episodes for known in cells))
    now = digest_episodes(episodes, num_episodes, shots=cell.shots, name=cell.dataset)
    before, _ = results.read_episodes(cell)
    if before is not None and (change := before.first_change(now, sorted(answered))) is not None:
        raise _changed(name, answered[change[0]].episode_id, change[1])
    settings = results.data_settings().get(cell.dataset, {})
    results.write_episodes(cell, now, why_not_published(settings, now.identities))


def _changed(name: str, episode_id: str, what: str) -> ValueError:
    return ValueError(
        f"{name}: the {what} of episode {episode_id!r} have changed since it was answered; choose another "
        "`output_dir`, or for a data set another `label`"
    )


class _RemoteAnswerer:
    """An `Answerer` in Ray.

    The data set comes with each chunk, as a reference in a list of one, and is fetched once: Ray warns of references in
    constructors, which a restarted worker may not find.
    """

    def __init__(self, max_completion_tokens: int) -> None:
        self._max_completion_tokens = max_completion_tokens
        self._answerer: Answerer | None = None

    def answer(self, chunk: Chunk, episodes: Sequence[Any]) -> list[AnswerRecord]:
        import ray

        if self._answerer is None:
            self._answerer = Answerer(ray.get(episodes[0]), self._max_completion_tokens)
        return self._answerer.answer(chunk)


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
        EvaluationError: If a policy raises too often, or workers die too often.
        PolicyError: If a policy cannot be made, or gives nothing but failures.
        RunInterrupted: After a chunk, if a signal asks to stop.
    """
    num_done = 0
    tallies: dict[str, _Tally] = {}
    answers = _answer_on_ray(plan, chunks) if plan.num_workers else _answer_here(plan, chunks)
    with contextlib.closing(answers), stop_requests(lambda name: None) as stop:
        for chunk, records in answers:
            tallies.setdefault(chunk.cell.policy, _Tally()).add(chunk.cell.policy, records)
            results.append(chunk.cell, records)
            num_done += len(records)
            on_done(num_done)
            if stop.received is not None:
                raise RunInterrupted(
                    f"stopped by {stop.received.name} after {num_done} episodes, which are kept; to go on, repeat the "
                    f"command with `output_dir` {results.path}",
                    signal_number=stop.received,
                )

    for policy, tally in tallies.items():
        if not tally.num_answered and not _has_answers(results, policy):
            raise PolicyError(
                f"policy {policy!r}: none of {len(tally.errors)} episodes was answered ({tally.errors[0]}); they are "
                "kept as failed, `retry_failed` asks them again"
            )


@dataclass(slots=True)
class _Tally:
    """The results of a policy so far.

    Attributes:
        num_answered: Answers.
        errors: Why there was none, for each that failed.
    """

    num_answered: int = 0
    errors: list[str] = field(default_factory=list)

    def add(self, policy: str, records: Sequence[AnswerRecord]) -> None:
        """Count answers, and give up where there are none.

        Raises:
            PolicyError: If the first `MAX_FAILED_FIRST` answers failed alike.
        """
        failed = [record.error for record in records if record.error is not None]
        self.errors += failed
        self.num_answered += len(records) - len(failed)
        kinds = {error.partition(":")[0] for error in self.errors}
        if not self.num_answered and len(self.errors) >= MAX_FAILED_FIRST and len(kinds) == 1:
            raise PolicyError(
                f"policy {policy!r}: the first {len(self.errors)} answers failed alike ({self.errors[0]}); no "
                "more are asked. Correct the policy, and repeat the command"
            )


def _has_answers(results: ResultsFolder, policy: str) -> bool:
    cells = (cell for cell in results.cells() if cell.policy == policy)
    return any(record.error is None for cell in cells for record in results.read(cell))


def _answer_here(plan: EvaluationPlan, chunks: Sequence[Chunk]) -> Answers:
    answerer = Answerer(plan.episodes, plan.max_completion_tokens)
    for chunk in chunks:
        yield chunk, answerer.answer(chunk)


def _answer_on_ray(plan: EvaluationPlan, chunks: Sequence[Chunk]) -> Answers:
    """Yield answers in the order in which workers are done; each has one chunk at a time."""
    import ray  # here and below: without workers nothing needs it

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
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        records: list[AnswerRecord] = ray.get(call)
    except RayTaskError as error:
        raise error.cause from error
    except RayError as error:
        raise EvaluationError(
            f"{chunk}: its worker died {MAX_RESTARTS + 1} times ({type(error).__name__}), often for lack of memory. "
            "The answers so far are kept: repeat the command with their folder as `output_dir`, perhaps with fewer "
            "`num_workers` or a smaller `batch_size`"
        ) from error
    return records
