"""What a person sees of stage 1 while its workers train: the driver follows the files that they write."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from focus_agents.errors import CheckpointError
from focus_agents.monitoring.album import ValidationAlbum
from focus_agents.monitoring.lines import scores_table, show, show_validation
from focus_agents.monitoring.recorder import Recorder
from focus_agents.runs.answers import read_answers
from focus_agents.runs.files import read_json_lines
from focus_agents.runs.folder import RunDirectory
from focus_agents.runs.progress import Pace, UnitWatch, progress_bar
from focus_agents.runs.validations import list_validations
from focus_agents.sft import notices
from focus_agents.sft.restarts import describe_restarts
from focus_agents.sft.worker import SCORE, SKIPPED_FILE

LINE_INTERVAL = 25
"""Most steps between lines on the console; a shorter run has `NUM_LINES` all the same."""
NUM_LINES = 40
POLL_SECONDS = 0.5
POLL_FACTOR = 20
"""A look at the files is followed by a pause of so many times its length, however long the files have become."""


class Follower:
    """Shows each thing that the workers write once.

    Args:
        run: Their folder.
        num_steps: Steps of the training.
        console: Where lines are printed.
        recorder: Gets each line of metrics.
        album: Draws each validation.
        is_verbose: Print tables of validations too.
    """

    def __init__(
        self,
        run: RunDirectory,
        num_steps: int,
        console: Console,
        recorder: Recorder,
        album: ValidationAlbum,
        *,
        is_verbose: bool = False,
    ) -> None:
        self._run, self._num_steps, self._console, self._album = run, num_steps, console, album
        self._is_verbose, self._watch, self._told = is_verbose, UnitWatch(console), set[str]()
        self._pass_on = each_once(recorder, run.num_done)
        self._interval = max(1, min(LINE_INTERVAL, num_steps // NUM_LINES))
        self._num_shown, self._num_restarts, self._is_begun = 0, 0, False
        self._pace = Pace(run.num_done or 0, num_steps, console)

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Follow in a thread, with a progress bar, until the block ends."""
        done = threading.Event()
        with progress_bar("SFT", self._num_steps, self._console) as move_to:

            def follow() -> None:
                pause, is_over = POLL_SECONDS, False
                while not is_over:
                    is_over = done.wait(pause)
                    started = time.perf_counter()
                    move_to(self.look())
                    pause = max(POLL_SECONDS, POLL_FACTOR * (time.perf_counter() - started))

            follower = threading.Thread(target=follow, daemon=True)
            follower.start()
            try:
                yield
            finally:
                done.set()
                follower.join()

    def look(self) -> int:
        """Show what is new, and return the steps done."""
        self._pass_on(metrics := self._run.read_metrics())
        self._album.draw_new()
        if metrics and not self._is_begun:
            self._is_begun = True
            with contextlib.suppress(CheckpointError):  # a full disk may have kept out the answers
                before = self._run.read_answers("before")
                show_validation("before", before, self._console, is_verbose=self._is_verbose)
                self._watch.look(before)
        self._tell()
        return self._show_steps([line for line in metrics if line["step"]])

    def _tell(self) -> None:
        """Print notices, episodes that were skipped, and workers that were replaced, each once."""
        said = [name for name in notices.read(self._run.path) if name not in (notices.FAILURE, notices.FULL)]
        skipped = [f"skipped: {line['reason']}" for line in read_json_lines(self._run.path / SKIPPED_FILE)]
        for notice in [*said, *skipped]:
            if notice not in self._told:
                self._told.add(notice)
                show(self._console, notice, style="yellow")
        restarts = describe_restarts(self._run.path)
        for restart in restarts[self._num_restarts :]:
            show(self._console, f"warning: {restart}", style="yellow")
        self._num_restarts = len(restarts)

    def _show_steps(self, lines: Sequence[dict[str, Any]]) -> int:
        """Print a line every few steps, and return the number of the last one."""
        step = int(lines[-1]["step"]) if lines else 0
        self._num_shown = min(self._num_shown, step)  # a restart goes back
        for end, line in enumerate(lines, start=1):
            is_due = line["step"] % self._interval == 0 or line["step"] == self._num_steps
            if line["step"] > self._num_shown and (is_due or line.get(SCORE) is not None):
                window, left = lines[max(0, end - self._interval) : end], self._pace.left(int(line["step"]))
                show(self._console, describe_steps(window, total=self._num_steps, left=left))
                if self._is_verbose and line.get(SCORE) is not None and line["step"] < self._num_steps:
                    self._show_answers(int(line["step"]))  # those after the last step come with the outcome
        self._num_shown = step
        return step

    def _show_answers(self, step: int) -> None:
        """Print the best and the worst answers of a validation, as far as they were kept."""
        if (file := list_validations(self._run.path).get(step)) is not None:
            with contextlib.suppress(CheckpointError):  # a full disk
                show(self._console, scores_table(read_answers(file)))


def each_once(recorder: Recorder, num_done: int | None) -> Callable[[Sequence[dict[str, Any]]], None]:
    """Return what passes on lines that were not seen before; those that a restarted worker writes again, were.

    Args:
        recorder: Where to.
        num_done: Steps that an earlier process has passed on; None: not even the validation before training.
    """
    last = -1 if num_done is None else num_done

    def pass_on(lines: Sequence[dict[str, Any]]) -> None:
        nonlocal last
        for line in lines:
            if line["step"] > last:
                recorder.pass_on(line)
                last = line["step"]

    return pass_on


def describe_steps(window: Sequence[dict[str, Any]], *, total: int | None = None, left: str = "") -> str:
    """Return what a person reads of a few steps: means over them, and the last one's validation.

    Args:
        window: Their metrics.
        total: Steps of the run.
        left: The time that is left, as `Pace` has it.
    """
    last = window[-1]

    def mean(name: str) -> float:
        values = [line[name] for line in window if line.get(name) is not None]
        return float(np.mean(values)) if values else float("nan")

    of = "" if total is None else f" of {total}"
    line = f"{last['step']:>5}{of}  LM loss {mean('lm_loss'):.3f}"
    if "attention_loss" in last:
        line += f"  attention loss {mean('attention_loss'):.3f}  S {mean('support_mass'):.2f}"
        line += f"  past margin {mean('past_margin'):>4.0%}"
    line += f"  {mean('examples_per_second'):>4.0f} examples/s{left}"
    if last["skipped_steps"]:
        line += f"  skipped {last['skipped_steps']} steps"
    return line + (f"  validation mIoU {last[SCORE]:.3f}" if last.get(SCORE) is not None else "")
