"""The places that a run writes to while it goes on, none of which may end it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from rich.console import Console

from focus_agents.rollout.records import RolloutGroup
from focus_agents.runs.folder import COUNTERS, RunDirectory
from focus_agents.runs.metrics import check_names, declared_order
from focus_env.errors import FocusError
from focus_env.files import reason_of
from focus_env.metrics import ScoredAnswer
from focus_env.types import ImageArray


class Sink(Protocol):
    """A place that shows metrics and pictures, such as TensorBoard or Ray's endpoint; each method may raise.

    Attributes:
        name: What people call it.
    """

    name: str

    def log(self, metrics: Mapping[str, float], position: int) -> None:
        """Show what was measured.

        Args:
            metrics: By their names in `runs.metrics.METRICS`, without the counter; all are finite.
            position: The iteration or step; 0 is before training.
        """

    def show(self, name: str, picture: ImageArray, position: int) -> None:
        """Show a picture.

        Args:
            name: What it shows.
            picture: [H, W, 3] uint8.
            position: As of `log`.
        """

    def close(self) -> None:
        """Let go of files and connections; called once."""


MOST_SKIPPED = 63
"""Calls that a sink misses after a failure; a service that is away may let each of them wait for long."""


@dataclass(slots=True)
class _Pause:
    """The failures of a sink in a row, and the number of calls for which it is still left alone."""

    num_failures: int = 0
    num_left: int = 0


class Recorder:
    """Writes what a run measures to its folder and to every sink.

    What cannot be written is named once, and the run goes on. The folder is tried again each time, since a full disk
    may have room later; a sink that failed is tried again after a while, which doubles with each failure in a row, and
    at the end.

    Args:
        run: The run's folder.
        console: Where failures are told.
        sinks: Further places.
    """

    def __init__(self, run: RunDirectory, console: Console, sinks: Sequence[Sink] = ()) -> None:
        self._run, self._console, self._sinks = run, console, [*sinks]
        self._pauses = [_Pause() for _ in self._sinks]
        self._told: set[str] = set()
        self._unwritten: dict[str, Sequence[ScoredAnswer]] = {}

    def log(self, metrics: Mapping[str, float]) -> None:
        """Write the metrics of an iteration or step, or of the validation before training.

        Args:
            metrics: By their names in `METRICS`, among them one of `COUNTERS`.

        Raises:
            ValueError: If a name is not declared.
        """
        check_names([*metrics])
        metrics = {name: metrics[name] for name in declared_order(metrics)}  # as the table has them
        self.attempt("metrics.jsonl", lambda: self._run.log(metrics))
        self.pass_on(metrics)
        for name, answers in self._unwritten.items():  # without those before training no run is gone on with
            self.answers(name, answers)

    def pass_on(self, metrics: Mapping[str, float | None]) -> None:
        """Show on every sink what is in the folder already, such as a line that another process wrote.

        Args:
            metrics: As of `log`; None is a value that was not finite.
        """
        (counter,) = (name for name in COUNTERS if name in metrics)
        values = {name: float(value) for name, value in metrics.items() if name != counter and value is not None}
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self._tell(lambda sink: sink.log(finite, int(metrics[counter] or 0)))

    def samples(
        self, iteration: int, groups: Sequence[RolloutGroup], advantages: npt.NDArray[np.float64] | None = None
    ) -> None:
        """Keep what was sampled in an iteration, with the advantages [N, G] of its groups."""
        self.attempt("samples", lambda: self._run.write_samples(iteration, groups, advantages))

    def answers(self, name: str, answers: Sequence[ScoredAnswer]) -> bool:
        """Keep the answers of a validation, now or as soon as there is room; returns whether they are in the folder."""
        is_written = self.attempt("validation answers", lambda: self._run.write_answers(name, answers))
        self._unwritten = {key: kept for key, kept in self._unwritten.items() if key != name}
        if not is_written:
            self._unwritten[name] = answers
        return is_written

    def show(self, name: str, picture: ImageArray, position: int) -> None:
        """Show a picture on every sink; arguments as of `Sink.show`."""
        self._tell(lambda sink: sink.show(name, picture, position))

    def close(self) -> None:
        """Close every sink."""
        self._tell(lambda sink: sink.close(), is_last=True)
        self._sinks.clear()

    def attempt(self, what: str, write: Callable[[], object]) -> bool:
        """Write to the run's folder; what is no storage error is a fault of the caller, and raises.

        Args:
            what: Is written; a person is told of it once.
            write: Writes it.

        Returns:
            Whether it was written.
        """
        try:
            write()
        except (OSError, FocusError) as error:
            self._warn_once(what, f"{what} cannot be written: {reason_of(error)}; the training goes on without")
            return False
        return True

    def checkpoint(self, at: str, write: Callable[[], object], *, kept: str) -> bool:
        """Write a checkpoint; without room for it the training goes on, and whatever else is wrong ends it.

        Args:
            at: What it has behind it, such as "step 100".
            write: Writes it, or leaves all as it was.
            kept: What there is without it, as `Checkpoints.describe_kept` says it.

        Returns:
            Whether it was written.
        """
        try:
            write()
        except OSError as error:
            what = f"the checkpoint of {at}"
            self._warn_once(what, f"{what} cannot be written: {reason_of(error)}; {kept}, and the training goes on")
            return False
        return True

    def _tell(self, tell: Callable[[Sink], None], *, is_last: bool = False) -> None:
        for sink, pause in zip(self._sinks, self._pauses, strict=False):
            if pause.num_left and not is_last:
                pause.num_left -= 1
                continue
            try:
                tell(sink)
                pause.num_failures = 0
            except Exception as error:  # of somebody else's library, whatever it is
                pause.num_failures += 1
                pause.num_left = min(MOST_SKIPPED, 2**pause.num_failures - 1)
                reason = f"{type(error).__name__}: {error}"
                self._warn_once(
                    sink.name, f"{sink.name} cannot be written ({reason}); the training goes on, and it is tried again"
                )

    def _warn_once(self, key: str, message: str) -> None:
        if key not in self._told:
            self._told.add(key)
            self._console.print(f"warning: {message}", style="yellow", highlight=False, markup=False, soft_wrap=True)
