"""Work that is asked of the EnvRunners: jobs in batches, and what is known of their results."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import ray

Job = tuple[int, int]
"""(position of the result, episode index)."""
T = TypeVar("T")
Work = Callable[[Any, Sequence[Job]], tuple[dict[int, T], Any]]
"""The share of a runner's work: results by position, and metrics or None. As return values of a runner, results belong
to the driver, and outlive the runner. Ray's dashboard calls the task by the function's name."""


@dataclass
class Request(Generic[T]):
    """Work that goes on while the driver does something else.

    Attributes:
        jobs: All of it.
        work: What is done.
        batch_size: Jobs that a runner computes together. The batches are the same whatever the number of runners and
            their fate: what a batch is padded to is in the last digits of its results.
        state: The weights, as given to `Runners.push`, that it is done with.
        results: What is known of it, by position.
        calls: (runner, its answer to come).
        sizes: Results in each of these answers.
    """

    jobs: Sequence[Job]
    work: Work[T]
    batch_size: int
    state: ray.ObjectRef | None
    results: dict[int, T] = field(default_factory=dict)
    calls: Sequence[tuple[int, ray.ObjectRef]] = ()
    sizes: Sequence[int] = ()

    @classmethod
    def done(cls, results: Sequence[T]) -> Request[T]:
        """Return a request whose results are known, in the order of its jobs."""

        def nothing(runner: Any, jobs: Sequence[Job]) -> tuple[dict[int, T], None]:
            raise RuntimeError("a request that is done has no work")

        jobs = [(position, -1) for position in range(len(results))]
        return cls(jobs, nothing, 1, None, dict(enumerate(results)))

    def missing(self) -> list[Sequence[Job]]:
        """Return the batches that are to be done."""
        starts = range(0, len(self.jobs), self.batch_size)
        batches = [self.jobs[start : start + self.batch_size] for start in starts]
        return [batch for batch in batches if any(position not in self.results for position, _ in batch)]


def with_process(work: Work[T]) -> Callable[[Any, Sequence[Job]], tuple[tuple[dict[int, T], Any], str]]:
    """Return work whose results come with the name of the process that did it."""

    @functools.wraps(work)
    def done_here(runner: Any, jobs: Sequence[Job]) -> tuple[tuple[dict[int, T], Any], str]:
        return work(runner, jobs), process_here()

    return done_here


def process_here() -> str:
    """Return a name of this process that no other has."""
    return f"{socket.gethostname()}:{os.getpid()}"
