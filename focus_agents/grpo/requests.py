"""Work that is asked of the EnvRunners: jobs in batches, and what is known of their results."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import ray

Job = tuple[int, int]
"""(position of the result, episode index)."""
T = TypeVar("T")
Work = Callable[[Any, Sequence[Job]], tuple[dict[int, T], Any]]
"""The share of a runner's work: results by position, and metrics or None. As return values of a runner, results belong
to the driver, and outlive the runner. Ray's dashboard calls the task by the function's name."""


class Splitter(Protocol[T]):
    """A split of each result into a part for the driver and a part that stays in the runner's object store.

    The second part is a return value of its own. The driver owns a reference to it, so the part outlives its runner,
    but not the loss of the runner's machine.
    """

    def split(self, result: T) -> tuple[T, Any]:
        """Return the part for the driver, and the part that stays. Runners call this."""
        ...

    def refer(self, result: T, content: ray.ObjectRef) -> None:
        """Put the reference to the part that stays into the driver's part. The driver calls this."""
        ...


@dataclass
class Request(Generic[T]):
    """Work that goes on while the driver does something else.

    Attributes:
        jobs: All of it.
        work: What is done.
        batch_size: Jobs that a runner computes together. The batches are the same whatever the number of runners and
            their fate: what a batch is padded to is in the last digits of its results.
        state: The weights, as given to `Runners.push`, that it is done with.
        splitter: Splits the results of other processes; None: results come whole.
        results: What is known of it, by position.
        calls: (runner, its answer to come).
        contents: For each of these answers, references to the parts of its results that stay.
        sizes: Results in each of these answers.
    """

    jobs: Sequence[Job]
    work: Work[T]
    batch_size: int
    state: ray.ObjectRef | None
    splitter: Splitter[T] | None = None
    results: dict[int, T] = field(default_factory=dict)
    calls: Sequence[tuple[int, ray.ObjectRef]] = ()
    contents: Sequence[Sequence[ray.ObjectRef]] = ()
    sizes: Sequence[int] = ()

    @classmethod
    def done(cls, results: Sequence[T]) -> Request[T]:
        """Return a request whose results are known, in the order of its jobs."""

        def nothing(runner: Any, jobs: Sequence[Job]) -> tuple[dict[int, T], None]:
            raise RuntimeError("a request that is done has no work")

        jobs = [(position, -1) for position in range(len(results))]
        return cls(jobs, nothing, 1, None, results=dict(enumerate(results)))

    def missing(self) -> list[Sequence[Job]]:
        """Return the batches that are to be done."""
        starts = range(0, len(self.jobs), self.batch_size)
        batches = [self.jobs[start : start + self.batch_size] for start in starts]
        return [batch for batch in batches if any(position not in self.results for position, _ in batch)]


def as_task(work: Work[T], splitter: Splitter[T] | None) -> Callable[[Any, Sequence[Job]], tuple[Any, ...]]:
    """Return work as a task: the results, with the name of their process, and then the part of each that stays."""

    @functools.wraps(work)
    def done_here(runner: Any, jobs: Sequence[Job]) -> tuple[Any, ...]:
        results, metrics = work(runner, jobs)
        if splitter is None:
            return (results, metrics), process_here()
        halves = {position: splitter.split(results[position]) for position, _ in jobs}
        own = {position: half for position, (half, _) in halves.items()}
        return ((own, metrics), process_here()), *(content for _, content in halves.values())

    return done_here


def process_here() -> str:
    """Return a name of this process that no other has."""
    return f"{socket.gethostname()}:{os.getpid()}"
