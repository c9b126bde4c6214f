"""The EnvRunners as one: jobs in, results out, whichever of them die on the way."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError
from ray.rllib.callbacks.utils import make_callback

from focus_agents.errors import SamplingError
from focus_agents.grpo.requests import Job, Request, Splitter, Work, as_task
from focus_agents.grpo.rllib_compat import mark_lost, runner_actors
from focus_agents.processes.names import where_logs_are
from focus_env.errors import FocusError

logger = logging.getLogger(__name__)
T = TypeVar("T")

MAX_ATTEMPTS = 5
FIRST_NOTICE_S = 60.0
"""So long nothing is said of a wait; from then on at twice the time of the last word."""


class Runners:
    """Spreads jobs over an algorithm's EnvRunners. What is lost with one of them goes to the others, or to its heir.

    One that does not answer within `sample_timeout_s` is ended, and then replaced as one that died.

    Args:
        algorithm: Owns the runners.
        group: RLlib's group of them.
        config: The settings that they were built with.
        log_metrics: Takes what runners report.

    Attributes:
        num_restarts: How often a new process has come in the place of a runner that was lost.
    """

    def __init__(
        self,
        algorithm: Any,
        group: Any,
        config: Any,
        log_metrics: Callable[[Sequence[Any]], None] = lambda metrics: None,
    ) -> None:
        self._algorithm = algorithm
        self._config = config
        self._group = group
        self._log_metrics = log_metrics
        self._state: Any = None
        self._last_fault = ""
        self._lost: set[int] = set()
        self._processes: dict[int, str] = {}
        self.num_restarts = 0

    @property
    def local(self) -> Any | None:
        """The runner in this process, if there are no others."""
        return self._group.local_env_runner if self._group.num_remote_env_runners() == 0 else None

    def push(self, state: dict[str, Any]) -> None:
        """Hand weights to all runners; those at work take them when they have done what they were asked before.

        RLlib's own `sync_weights` drops a push while an earlier one is being applied.

        Args:
            state: The weights, or a reference to them, and their number.
        """
        if self.local is not None:
            self.local.set_state(state)
            return
        self._state = ray.put(state)
        self._push(self._state)

    def run(self, jobs: Sequence[Job], work: Work[T], *, batch_size: int) -> list[T]:
        """Return results in the order of the jobs; see `Request`.

        Raises:
            SamplingError: If some are still missing after several attempts.
        """
        return self.collect(self.submit(jobs, work, batch_size=batch_size))

    def answer(self, method: str, episode_indices: Sequence[int], *, batch_size: int, **arguments: Any) -> list[Any]:
        """Return what a method of the runners makes of each episode, in the order given.

        Args:
            method: Takes `episode_indices` and `arguments`, and returns a list.
            episode_indices: Which episodes.
            batch_size: As in `Request`.
            arguments: The same for all.

        Raises:
            SamplingError: As `run`.
        """

        def answer(runner: Any, jobs: Sequence[Job]) -> tuple[dict[int, Any], None]:
            answers = getattr(runner, method)(episode_indices=[index for _, index in jobs], **arguments)
            return {position: answer for (position, _), answer in zip(jobs, answers, strict=True)}, None

        answer.__name__ = method
        return self.run(list(enumerate(episode_indices)), answer, batch_size=batch_size)

    def submit(
        self, jobs: Sequence[Job], work: Work[T], *, batch_size: int, splitter: Splitter[T] | None = None
    ) -> Request[T]:
        """Let the runners begin; see `Request`. With a runner in this process, everything is done at once."""
        request = Request(jobs, work, batch_size, self._state, splitter)
        if self.local is not None:
            request.results, metrics = work(self.local, jobs)
            self._log_metrics([metrics])
        else:
            self._spread(request)
        return request

    def collect(self, request: Request[T]) -> list[T]:
        """Wait for the results, in the order of the jobs.

        Raises:
            FocusError: What a runner raises of this kind, since any other would, too.
            SamplingError: If some are still missing after several attempts.
        """
        for _ in range(MAX_ATTEMPTS):
            self._gather(request)
            if len(request.results) == len(request.jobs):
                return [request.results[position] for position, _ in request.jobs]
            self._restore()
            is_older = request.state is not self._state
            if is_older:
                self._push(request.state)
            self._spread(request)
            if is_older:
                self._push(self._state)
        raise self._given_up(f"{len(request.jobs) - len(request.results)} of {len(request.jobs)} episodes are missing")

    def num_ready(self, request: Request[Any]) -> int:
        """Count the results of a request that are there already."""
        calls = [call for _, call in request.calls]
        ready, _ = ray.wait(calls, num_returns=len(calls), timeout=0, fetch_local=False) if calls else ([], [])
        return len(request.results) + sum(
            size for call, size in zip(calls, request.sizes, strict=True) if call in ready
        )

    def ask_one(self, method: str) -> Any:
        """Call a method of one runner; they are all alike.

        Raises:
            SamplingError: If none answers after several attempts.
        """
        if self.local is not None:
            return getattr(self.local, method)()
        for _ in range(MAX_ATTEMPTS):
            runner_id = self._await_ids()[0]
            call = getattr(runner_actors(self._group)[runner_id], method).remote()
            (is_done,) = self._wait([(runner_id, call)])
            try:
                if is_done:
                    return ray.get(call)
            except RayError as error:
                self._lose(runner_id, error)
            self._restore()
        raise self._given_up(f"{method} was not answered")

    def _given_up(self, what: str) -> SamplingError:
        return SamplingError(
            f"sampling processes: {what} after {MAX_ATTEMPTS} attempts, the last fault: "
            f"{self._last_fault or 'unknown'}; more is {where_logs_are()}. Go on with the run by `resume`"
        )

    def _spread(self, request: Request[Any]) -> None:
        """Send what is missing to the runners that there are."""
        ids = self._await_ids()
        batches, actors, work = request.missing(), runner_actors(self._group), as_task(request.work, request.splitter)
        shares = {
            runner_id: [job for batch in share for job in batch]
            for k, runner_id in enumerate(ids)
            if (share := batches[k :: len(ids)])
        }
        request.sizes = [len(share) for share in shares.values()]
        name, answers = request.work.__name__, []
        for runner_id, jobs in shares.items():
            num_returns = 1 if request.splitter is None else 1 + len(jobs)
            answer = actors[runner_id].apply.options(name=name, num_returns=num_returns).remote(work, jobs)
            answers.append([answer] if request.splitter is None else answer)
        request.calls = [(runner_id, answer[0]) for runner_id, answer in zip(shares, answers, strict=True)]
        request.contents = [answer[1:] for answer in answers]

    def _gather(self, request: Request[Any]) -> None:
        """Take what comes back, in the order of the runners. One that fails is out of service until it is restored."""
        calls, contents = request.calls, request.contents
        request.calls = request.contents = request.sizes = ()
        for (runner_id, call), parts, is_done in zip(calls, contents, self._wait(calls), strict=True):
            if not is_done:
                continue
            try:
                (results, metrics), process = ray.get(call)
            except RayError as error:
                self._lose(runner_id, error)
            else:
                self._recognize(runner_id, process)
                if request.splitter is not None:
                    for result, content in zip(results.values(), parts, strict=True):
                        request.splitter.refer(result, content)
                request.results.update(results)
                self._log_metrics([metrics])

    def _wait(self, calls: Sequence[tuple[int, ray.ObjectRef]]) -> list[bool]:
        """Tell which of these calls are answered in time, if by an error; the runners of the others are ended."""
        limit, started, notice = self._config.sample_timeout_s, time.monotonic(), FIRST_NOTICE_S
        pending = [call for _, call in calls]
        while pending:
            waited = time.monotonic() - started
            _, pending = ray.wait(
                pending, num_returns=len(pending), timeout=max(0.0, min(limit, notice) - waited), fetch_local=False
            )
            if not pending or time.monotonic() - started >= limit:
                break
            if time.monotonic() - started >= notice:
                late = [runner_id for runner_id, call in calls if call in pending]
                logger.warning(
                    "waiting for sampling processes %s, for %.0f s now of at most %g (`sample_timeout_s`)",
                    late, notice, limit,
                )  # fmt: skip
                notice *= 2
        for runner_id, call in calls:
            if call in pending:
                self._end(runner_id)
        return [call not in pending for _, call in calls]

    def _end(self, runner_id: int) -> None:
        """End the process of a runner that hangs; Ray starts another in its place."""
        self._last_fault = f"no answer within {self._config.sample_timeout_s:g} s (`sample_timeout_s`)"
        self._lost.add(runner_id)
        logger.warning(
            "sampler %d: %s; it is ended and replaced, and its share is sampled again", runner_id, self._last_fault
        )
        ray.kill(runner_actors(self._group)[runner_id], no_restart=False)
        mark_lost(self._group, runner_id)

    def _lose(self, runner_id: int, error: RayError) -> None:
        """Take a runner that has failed out of service.

        Raises:
            FocusError: If that is what it failed by: any other runner would raise it, too.
        """
        cause = getattr(error, "cause", None)
        if isinstance(cause, FocusError):
            raise cause from error
        self._last_fault = type(error).__name__ if cause is None else f"{type(cause).__name__}: {cause}"
        self._tell_of(runner_id)
        mark_lost(self._group, runner_id)

    def _tell_of(self, runner_id: int) -> None:
        """Say once that a runner is lost, and what follows."""
        if runner_id not in self._lost:
            self._lost.add(runner_id)
            logger.warning(
                "sampler %d has died (%s); nothing is lost but time: its share is sampled again, and a new process "
                "takes its place",
                runner_id, self._last_fault or "it does not answer",
            )  # fmt: skip

    def _notice(self, healthy: Sequence[int]) -> None:
        """Tell of runners whose death RLlib has found out first, and count those that are back."""
        for runner_id in runner_actors(self._group).keys() - set(healthy) - self._lost:
            self._tell_of(runner_id)
        back = self._lost & set(healthy)
        self.num_restarts += len(back)
        self._lost -= back
        for runner_id in back:  # another process, which is counted
            self._processes.pop(runner_id, None)

    def _recognize(self, runner_id: int, process: str) -> None:
        """Tell of a runner that Ray has replaced between two calls, so that no call failed, and count it."""
        if runner_id not in self._lost and self._processes.get(runner_id, process) != process:
            self._last_fault = "Ray has replaced it between two calls"
            self._tell_of(runner_id)
            self._lost.discard(runner_id)
            self.num_restarts += 1
        self._processes[runner_id] = process

    def _push(self, state: ray.ObjectRef) -> None:
        """Push without waiting: a runner answers its calls in their order, so what follows uses these weights."""
        for runner_id in self._group.healthy_env_runner_ids():
            runner_actors(self._group)[runner_id].set_state.remote(state)

    def _await_ids(self) -> list[int]:
        """Return the runners that can work. If there is none, wait for one: a call to a restarting one fails."""
        started, notice = time.monotonic(), FIRST_NOTICE_S
        deadline = started + self._config.env_runner_restore_timeout_s
        while not (ids := self._group.healthy_env_runner_ids()):
            if time.monotonic() > deadline:
                raise SamplingError(
                    f"sampling processes: none came back within {self._config.env_runner_restore_timeout_s:g} s "
                    f"(env_runner_restore_timeout_s), the last fault: {self._last_fault or 'unknown'}; more is "
                    f"{where_logs_are()}. Go on with the run by `resume`"
                )
            if time.monotonic() - started >= notice:
                logger.warning(
                    "no sampling process is there; waiting for one, for %.0f s now of at most %g",
                    notice, self._config.env_runner_restore_timeout_s,
                )  # fmt: skip
                notice *= 2
            self._restore()
        self._notice(ids)
        return list(ids)

    def _restore(self) -> None:
        """Take restarted runners back into service, if there are any yet."""
        time.sleep(self._config.delay_between_env_runner_restarts_s)
        if restored := self._algorithm.restore_env_runners(self._group):
            self._announce(restored)
        if self._state is not None:
            self._push(self._state)

    def _announce(self, restored: Sequence[int]) -> None:
        """Run the callbacks that RLlib runs for runners that it restores itself."""
        make_callback(
            "on_env_runners_recreated",
            callbacks_objects=self._algorithm.callbacks,
            callbacks_functions=self._config.callbacks_on_env_runners_recreated,
            kwargs={
                "algorithm": self._algorithm,
                "env_runner_group": self._group,
                "env_runner_indices": restored,
                "is_evaluation": self._config.in_evaluation,
            },
        )
