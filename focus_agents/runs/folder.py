"""The folder of a run: its files, and the display during the run.

runs/<name>/
  config.json      every argument of the run, its code under `code`, and each start under `starts`
  metrics.jsonl    one object per iteration, with the names of METRICS; metrics.csv is the same as a table
  warnings.jsonl   the warnings of the run, if any
  validation/      one line per answer, before, during and after the training; see `validations`
  samples/         pictures of validation episodes, and sampled groups of the training; see `samples`
  checkpoints/     iteration_000050/ to continue from; final/ holds the policy in transformers' format
  summary.json     the outcome
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from focus_agents.errors import CheckpointError
from focus_agents.rollout.records import RolloutGroup
from focus_agents.runs.answers import read_answers, write_answers
from focus_agents.runs.files import append_json_lines, keep_json_lines, read_json, read_json_lines, write_json
from focus_agents.runs.lock import hold_folder
from focus_agents.runs.metrics import check_names, counted
from focus_agents.runs.provenance import differences, provenance
from focus_agents.runs.samples import append_samples, rewind_samples
from focus_agents.runs.scores import compare_validation
from focus_agents.runs.starts import STARTS
from focus_agents.runs.summary import SUMMARY_FILE, replace_summary
from focus_agents.runs.table import add_to_table, drop_table
from focus_agents.runs.validations import rewind_validations
from focus_env.files import remove_unfinished
from focus_env.metrics import ScoredAnswer
from focus_env.regular_files import require_possible
from focus_env.rendering import ANSWER_COLOUR, TARGET_COLOUR, Colour, render_row, stack_rows, write_picture
from focus_env.types import EpisodeDataset
from focus_env.units import find_unit

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
WARNINGS_FILE = "warnings.jsonl"
COUNTERS = ("iteration", "step")
"""Metrics that count how far a run is; 0 is a validation before training."""
FOLDERS, SHOWN = ("samples", "checkpoints", "validation"), ("tensorboard", "wandb", "mlflow", "trackio")
"""In a run's folder; the latter are of the sinks in `monitoring`."""
CODE = "code"
"""In that file: the code that the run was started with, and each other that it was gone on with."""
ARGUMENTS = "the arguments of a run"

BEFORE_COLOUR: Colour = (230, 140, 0)
AFTER_COLOUR = ANSWER_COLOUR
NUM_SHEET_EPISODES = 8


class RunDirectory:
    """The folder of one run; see the module's docstring.

    Args:
        path: The folder.

    Raises:
        FileExistsError: If `create` would write into another run's folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(
        cls,
        path: Path,
        config: Mapping[str, Any],
        *,
        is_resumed: bool,
        used: Sequence[Any] = (),
        warn: Callable[[str], None],
    ) -> RunDirectory:
        """Start a run or go on with one, as the only process that writes to its folder until it ends.

        Args:
            path: The folder.
            config: The arguments of a new run.
            is_resumed: Go on with the run that is there.
            used: As for `create`.
            warn: Told of each change of the code since the run was started.

        Raises:
            FileExistsError: If a new run would be written into another run's folder.
            ValueError: If another process is at work in the folder.
            CheckpointError: If a run that is gone on with has no readable `config.json`.
        """
        run = cls(path)
        if is_resumed:
            run.config()
        else:
            run.check_new()
        hold_folder(path)
        for folder in (path, *(path / name for name in FOLDERS)):
            remove_unfinished(folder, "*")  # before anything is written, since the disk may be full of it
        if not is_resumed:
            return cls.create(path, config, used=used)
        for line in run.note_code(*used):
            warn(f"run {path}: {line}; what follows is by the code of now")
        return run

    def check_new(self) -> None:
        """See that there is no run yet, or one that ended before anything was trained, and that a run can be there.

        Raises:
            FileExistsError: If there is another run.
            OSError: If nothing can lie there, as below a file.
        """
        require_possible(self.path / CONFIG_FILE)
        if not (self.path / CONFIG_FILE).exists() or self.is_blank:
            return
        advice = f"go on with it by `resume` {self.path}"
        if self.num_done is None and not self.is_finished:
            advice = "delete the folder, which has no checkpoint to go on from"
        raise FileExistsError(f"run folder {self.path} holds a run already; choose another `name`, or {advice}")

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any], *, used: Sequence[Any] = ()) -> RunDirectory:
        """Start a new run; one in which something was trained is never written over.

        Args:
            path: The folder.
            config: The arguments of the run.
            used: A user's own objects whose source decides the run; see `provenance`.
        """
        run = cls(path)
        run.check_new()
        if run.is_blank:
            for name in (*FOLDERS, *SHOWN):
                shutil.rmtree(path / name, ignore_errors=True)
            for name in (METRICS_FILE, WARNINGS_FILE):
                (path / name).unlink(missing_ok=True)
            drop_table(path / METRICS_FILE)
        for name in FOLDERS:
            (path / name).mkdir(parents=True, exist_ok=True)
        write_json(path / CONFIG_FILE, {**config, CODE: [provenance(*used)]})
        return cls(path)

    def note_code(self, *used: Any) -> list[str]:
        """Say what of the code has changed since the run was started, and add the code of now to `config.json`.

        Args:
            used: As for `create`.

        Returns:
            A sentence without a full stop for each difference; see `differences`.
        """
        config, now = read_json(self.path / CONFIG_FILE, ARGUMENTS), provenance(*used)
        states = _states_of(config)
        if differences(states[-1], now):
            write_json(self.path / CONFIG_FILE, {**config, CODE: [*states, now]})
        return differences(states[0], now)

    def changes_of_code(self, now: Mapping[str, Any]) -> list[str]:
        """Say what has changed between the code that the run was started with and another state of `provenance`.

        Raises:
            CheckpointError: If the folder is not a run's, or its `config.json` is damaged.
        """
        return differences(_states_of(read_json(self.path / CONFIG_FILE, ARGUMENTS))[0], now)

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def num_done(self) -> int | None:
        """Steps or iterations that the newest checkpoint has behind it; None if there is none."""
        names = (path.name.rpartition("_") for path in self.checkpoints.glob("[!.]*_*"))
        return max((int(number) for _, _, number in names if number.isdecimal()), default=None)

    @property
    def is_finished(self) -> bool:
        """Whether the run has come to its end."""
        return (self.path / SUMMARY_FILE).exists()

    @property
    def is_blank(self) -> bool:
        """Whether a run was started here and ended before anything was trained, so that it may be started again."""
        try:
            self.config()
        except CheckpointError:
            return False
        traces = (self.path / SUMMARY_FILE, self.checkpoints / "final")
        if self.num_done is not None or any(trace.exists() for trace in traces):
            return False
        return not self.read_steps()

    def abandon(self) -> None:
        """Set aside what was logged before the first checkpoint, since nothing can go on from there."""
        if self.num_done is None and not self.is_finished and (self.path / METRICS_FILE).exists():
            (self.path / METRICS_FILE).rename(self.path / "metrics.stopped.jsonl")
            drop_table(self.path / METRICS_FILE)

    def config(self) -> dict[str, Any]:
        """Return the arguments with which the run was started.

        Raises:
            CheckpointError: If the folder is not a run's, or the file is damaged.
        """
        if not (self.path / CONFIG_FILE).exists():
            raise CheckpointError(f"run {self.path}: expected a run's folder with {CONFIG_FILE}, found none")
        config = read_json(self.path / CONFIG_FILE, ARGUMENTS)
        return {name: value for name, value in config.items() if name not in (CODE, STARTS)}

    def log(self, metrics: Mapping[str, float | None]) -> None:
        """Append the metrics of one iteration or step, what is not finite as null.

        Raises:
            ValueError: If a name is not in `METRICS`.
        """
        check_names([*metrics])
        append_json_lines(self.path / METRICS_FILE, [{name: counted(name, each) for name, each in metrics.items()}])
        add_to_table(self.path / METRICS_FILE, metrics)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the lines that `log` has appended so far; a line that is being written is left out."""
        return read_json_lines(self.path / METRICS_FILE)

    def read_steps(self) -> list[dict[str, Any]]:
        """Return the lines of iterations or steps, without that of the validation before training."""
        return [line for line in self.read_metrics() if any(line.get(counter) for counter in COUNTERS)]

    def rewind(self, num_done: int, *, counter: str) -> None:
        """Drop what was logged after a checkpoint, since the run goes on from there.

        Args:
            num_done: Iterations or steps that the checkpoint has behind it.
            counter: Which of `METRICS` counts them.
        """
        for file in (self.path / METRICS_FILE, self.path / WARNINGS_FILE):
            if file.exists():
                keep_json_lines(file, lambda line, file=file: _count(line, counter, file) <= num_done)  # type: ignore[misc]
        drop_table(self.path / METRICS_FILE)
        rewind_samples(self.path / "samples", num_done)
        rewind_validations(self.path, num_done)

    def write_answers(self, name: str, answers: Sequence[ScoredAnswer]) -> None:
        """Keep validation answers, one JSON object a line."""
        write_answers(self.path / "validation" / f"{name}.jsonl", answers)

    def read_answers(self, name: str) -> list[ScoredAnswer]:
        """Return the answers that `write_answers` kept; see `focus_agents.runs.answers.read_answers`."""
        return read_answers(self.path / "validation" / f"{name}.jsonl")

    def write_sheet(
        self,
        name: str,
        episodes: EpisodeDataset,
        indices: Sequence[int],
        answers: Mapping[str, tuple[Sequence[ScoredAnswer], Colour]],
    ) -> Path:
        """Draw episodes with the answers to them.

        Args:
            name: Of the picture in `samples/`.
            episodes: Where the episodes come from.
            indices: Which; the answers are in this order.
            answers: By label, the answers and their colour.
        """
        rows = [
            render_row(
                episodes,
                index,
                [(label, given[row].box, colour) for label, (given, colour) in answers.items()],
            )
            for row, index in enumerate(indices)
        ]
        path = self.path / "samples" / f"{name}.png"
        legend = [("target", TARGET_COLOUR), *((label, colour) for label, (_, colour) in answers.items())]
        write_picture(path, stack_rows(rows, legend=legend))
        return path

    def write_samples(
        self, iteration: int, groups: Sequence[RolloutGroup], advantages: npt.NDArray[np.float64] | None = None
    ) -> None:
        """Keep what was sampled, the first thing to read when a run misbehaves; see `samples.append_samples`."""
        append_samples(self.path / "samples", iteration, groups, advantages)

    def finish(
        self,
        episodes: EpisodeDataset,
        indices: Sequence[int],
        before: Sequence[ScoredAnswer],
        after: Sequence[ScoredAnswer],
        **outcome: Any,
    ) -> dict[str, Any]:
        """Write the validation answers, the picture sheet and the summary.

        Args:
            episodes: The validation data.
            indices: Which of its episodes were answered.
            before: Answers before training, in the order of `indices`.
            after: Answers after it.
            outcome: What else the summary should hold.

        Returns:
            The summary: `compare_validation`, the paths `checkpoint` and `sheet`, `outcome`, `warnings`, and as
            `unit_hint` what `focus_env.units.find_unit` has found, if anything.
        """
        self.write_answers("before", before)
        self.write_answers("after", after)
        hint = find_unit(after) or find_unit(before)
        shown = {"before": (before, BEFORE_COLOUR), "after": (after, AFTER_COLOUR)}
        summary = compare_validation(before, after) | {
            "checkpoint": str(self.checkpoints / "final"),
            "sheet": str(self.write_sheet("validation", episodes, indices[:NUM_SHEET_EPISODES], shown)),
            **({} if hint is None else {"unit_hint": str(hint)}),
            "warnings": read_json_lines(self.path / WARNINGS_FILE),
            **outcome,
        }
        return self.write_summary(summary)

    def write_summary(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Write the outcome, unless nothing has been done since the one that is there was written.

        Args:
            summary: The outcome; `seconds` are those of this call, and those of an earlier end are added to them.

        Returns:
            The summary that is in the folder now.
        """
        return replace_summary(self.path / SUMMARY_FILE, summary)


def _states_of(config: Mapping[str, Any]) -> list[Any]:
    """Return the code that a run was started and gone on with; None stands for what is not recorded."""
    states = config.get(CODE)
    return states if isinstance(states, list) and states else [None]


def _count(line: Mapping[str, Any], counter: str, file: Path) -> float:
    """Return the number that a line of metrics or samples counts."""
    if not isinstance(count := line.get(counter), int | float):
        raise CheckpointError(f"{file}: expected a number as {counter!r} in each line, got {line!r:.80}")
    return count
