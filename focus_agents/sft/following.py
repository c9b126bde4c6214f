"""Show stage 1 while its workers train: the driver follows the files that they write."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from focus_agents.errors import CheckpointError
from focus_agents.monitoring.album import ValidationAlbum
from focus_agents.monitoring.lines import scores_table, show, show_validation
from focus_agents.monitoring.recorder import Recorder
from focus_agents.runs.answers import read_answers
from focus_agents.runs.files import NewLines, read_json_lines
from focus_agents.runs.folder import METRICS_FILE, RunDirectory
from focus_agents.runs.progress import Pace, UnitWatch, progress_bar
from focus_agents.runs.terminal import Beat, fitted, in_time, width_of
from focus_agents.runs.validations import list_validations
from focus_agents.sft import notices
from focus_agents.sft.restarts import describe_restarts
from focus_agents.sft.worker import SCORE, SKIPPED_FILE

LINE_INTERVAL = 25
"""Most steps between lines on the console; a shorter run has `NUM_LINES` all the same."""
NUM_LINES = 40
BEGINNING = "loading the model, and answering the validation episodes before training"
"""Words for the workers' tasks until there is a line of metrics."""
POLL_SECONDS = 0.5
"""Between two looks at the files."""


class Follower:
    """Shows each thing that the workers write once.

    Lines of steps come from the file that the first worker writes them to, so neither Ray Train's controller nor what
    is shown elsewhere keeps them back.

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
        self._lines, self._unseen = (NewLines(run.path / METRICS_FILE) for _ in range(2))
        self._window = deque[dict[str, Any]](maxlen=self._interval)
        self._step, self._num_restarts, self._is_begun = run.num_done or 0, 0, run.num_done is not None
        self._num_shown, self._beat = self._step, Beat()
        self._pace = Pace(self._step, num_steps, console, from_first=True)

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Follow in threads of their own, with a progress bar, until the block ends.

        One shows the steps. What takes its time, such as pictures and the report, is left to the other.
        """
        done = threading.Event()
        bar = progress_bar("SFT", self._num_steps, self._console, first=self._step, pace=self._pace, has_lines=True)
        with bar as move_to:

            def repeat(look: Callable[[], object]) -> None:
                is_over = False
                while not is_over:
                    is_over = done.wait(POLL_SECONDS)
                    look()

            looks = (lambda: move_to(self.look()), self.pass_on)
            followers = [threading.Thread(target=repeat, args=(look,), daemon=True) for look in looks]
            for follower in followers:
                follower.start()
            try:
                yield
            finally:
                done.set()
                for follower in followers:
                    follower.join()

    def look(self) -> int:
        """Show the steps that are new, and return the number of the last one."""
        lines, is_anew = self._lines.read()
        if lines and not self._is_begun:
            self._is_begun = True
            self._show_start()
        if not self._is_begun and not self._console.is_terminal and self._beat.is_due():
            show(self._console, f"{BEGINNING}: {in_time(self._beat.passed)} so far")
        steps = [line for line in lines if line["step"]]
        if is_anew:
            self._step = int(steps[-1]["step"]) if steps else 0
            self._num_shown = min(self._num_shown, self._step)  # a restart goes back
            self._window.clear()
        if steps:
            self._step = int(steps[-1]["step"])
            self._pace.reach(self._step)
        for line in steps:
            self._window.append(line)
            if line["step"] > self._num_shown:
                self._show_step(line)
        self._num_shown = max(self._num_shown, self._step)
        return self._step

    def pass_on(self) -> None:
        """Hand what is new to the recorder and the album, and print what else workers have to say."""
        self._tell()
        self._pass_on(self._unseen.read()[0])
        self._album.draw_new()

    def _show_start(self) -> None:
        """Print the validation before training."""
        with contextlib.suppress(CheckpointError):  # a full disk may have kept out the answers
            before = self._run.read_answers("before")
            show_validation("before", before, self._console, is_verbose=self._is_verbose)
            self._watch.look(before)

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

    def _show_step(self, line: Mapping[str, Any]) -> None:
        """Print a line every few steps, and one for each validation."""
        step, is_validated = int(line["step"]), line.get(SCORE) is not None
        if step % self._interval and step != self._num_steps and not is_validated:
            return
        left, width = self._pace.left(step), width_of(self._console)
        show(self._console, describe_steps([*self._window], total=self._num_steps, left=left, width=width))
        if self._is_verbose and is_validated and step < self._num_steps:
            self._show_answers(step)  # those after the last step come with the outcome

    def _show_answers(self, step: int) -> None:
        """Print the best and the worst answers of a validation, as far as they were kept."""
        if (file := list_validations(self._run.path).get(step)) is not None:
            with contextlib.suppress(CheckpointError):  # a full disk
                show(self._console, scores_table(read_answers(file), width=width_of(self._console)))


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


def describe_steps(
    window: Sequence[dict[str, Any]], *, total: int | None = None, left: str = "", width: int | None = None
) -> str:
    """Return what a person reads of a few steps: means over them, and the last one's validation.

    Args:
        window: Their metrics.
        total: Steps of the run.
        left: The time that is left, as `Pace` has it.
        width: Of a terminal, which the line fits in: what is of high rank is left out. None: all is there.
    """
    last = window[-1]

    def mean(name: str) -> float:
        values = [line[name] for line in window if line.get(name) is not None]
        return float(np.mean(values)) if values else float("nan")

    of = "" if total is None else f" of {total}"
    parts = [(0, f"{last['step']:>5}{of}"), (2, f"  LM loss {mean('lm_loss'):.3f}")]
    if "attention_loss" in last:
        parts.append((4, f"  attention loss {mean('attention_loss'):.3f}"))
        parts.append((5, f"  S {mean('support_mass'):.2f}"))
        parts.append((7, f"  past margin {mean('past_margin'):>4.0%}"))
    parts.append((6, f"  {mean('examples_per_second'):>4.0f} examples/s"))
    parts.append((0, left))
    if last["skipped_steps"]:
        parts.append((3, f"  skipped {last['skipped_steps']} steps"))
    if last.get(SCORE) is not None:
        parts.append((1, f"  validation mIoU {last[SCORE]:.3f}"))
    return fitted(parts, width)
