"""All that a report shows of a run, read from its folder. What is missing or damaged is left out, and named."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from focus_agents.errors import CheckpointError
from focus_agents.reports.measured import measured_lines
from focus_agents.reports.run_page.choice import choose_groups, choose_iterations, choose_positions
from focus_agents.runs.answers import read_answers
from focus_agents.runs.files import read_json, read_json_lines
from focus_agents.runs.folder import CODE, RunDirectory
from focus_agents.runs.samples import is_complete, read_samples, sampled_iterations
from focus_agents.runs.starts import GO_ON, STARTS, STOPPED_BY
from focus_agents.runs.validations import list_validations
from focus_env.metrics import ScoredAnswer

T = TypeVar("T")
MOST_WARNINGS = 50


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The answers of one validation.

    Attributes:
        label: "before", "after", or what the run had done.
        position: Iterations or steps before it.
        answers: In the order of the validation episodes.
    """

    label: str
    position: int
    answers: Sequence[ScoredAnswer]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run as its folder has it.

    Attributes:
        path: The folder.
        name: Tells it from the others of a page.
        arguments: Of the run, flat.
        code: The states of the code that it was started and gone on with.
        lines: Of `metrics.jsonl`.
        counter: "iteration" or "step".
        summary: The outcome; empty while there is none.
        warnings: Lines of `warnings.jsonl`, the newest of them.
        groups: Records of sampled groups that were chosen, see `runs.samples.group_record`.
        num_sampled: Iterations of which sampled groups are kept.
        validations: Those that were chosen, in the order of time.
        problems: What could not be read.
        given: Names of the settings that its command lines have named.
        unit: The unit of coordinates that was in force; empty where nothing says so.
        stopped_by: The signal that has stopped it, of its last start; empty if none has.
        go_on: The command line that goes on with it, likewise.
        saved: Iterations or steps of its newest checkpoint; None if it has none.
    """

    path: Path
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    code: Sequence[Mapping[str, Any]] = ()
    lines: Sequence[Mapping[str, Any]] = ()
    counter: str = "iteration"
    summary: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[Mapping[str, Any]] = ()
    groups: Sequence[Mapping[str, Any]] = ()
    num_sampled: int = 0
    validations: Sequence[Validation] = ()
    problems: Sequence[str] = ()
    given: Sequence[str] = ()
    unit: str = ""
    stopped_by: str = ""
    go_on: str = ""
    saved: int | None = None

    @property
    def last(self) -> int:
        """Iterations or steps that are done."""
        return max((int(line[self.counter]) for line in self.lines if line.get(self.counter)), default=0)

    @property
    def length(self) -> int | None:
        """Iterations or steps that it is to have."""
        found = self.arguments.get("num_iterations") or self.arguments.get("num_steps")
        return found if isinstance(found, int) else None


def read_run(path: Path, *, name: str | None = None) -> RunRecord:
    """Read what a report shows of a run.

    Args:
        path: The run's folder.
        name: Tells it from others; default: the folder's name.

    Raises:
        CheckpointError: If the folder is no run's.
    """
    run, problems = RunDirectory(path), list[str]()

    def tried(read: Callable[[], T], default: T) -> T:
        try:
            return read()
        except (CheckpointError, OSError, ValueError, KeyError, TypeError) as error:
            problems.append(str(error))
            return default

    arguments = run.config()
    config: dict[str, Any] = tried(lambda: read_json(path / "config.json", "the arguments of a run"), {})
    code, starts = config.get(CODE), config.get(STARTS)
    starts = [start for start in starts if isinstance(start, Mapping)] if isinstance(starts, list) else []
    counter, lines = measured_lines(tried(run.read_metrics, []))
    summary: dict[str, Any] = (
        tried(lambda: read_json(path / "summary.json", "a summary"), {}) if run.is_finished else {}
    )
    samples = path / "samples"
    iterations: list[int] = tried(lambda: sampled_iterations(samples), [])
    complete = [number for number in iterations if is_complete(number)]
    chosen = choose_iterations(complete, iterations[-1] if iterations else None)
    groups: list[dict[str, Any]] = tried(lambda: list(read_samples(samples, chosen)), [])
    warnings: list[dict[str, Any]] = tried(lambda: read_json_lines(path / "warnings.jsonl"), [])
    return RunRecord(
        path=path,
        name=name or path.resolve().name,
        arguments=arguments,
        code=[state for state in code if isinstance(state, Mapping)] if isinstance(code, list) else [],
        lines=lines,
        counter=counter,
        summary=summary,
        warnings=warnings[-MOST_WARNINGS:],
        groups=choose_groups(groups),
        num_sampled=len(iterations),
        validations=tried(lambda: _validations(run, lines, counter, problems), []),
        problems=problems,
        given=_given_names(starts),
        unit=str(starts[-1].get("unit") or "") if starts else "",
        stopped_by=str(starts[-1].get(STOPPED_BY) or "") if starts else "",
        go_on=str(starts[-1].get(GO_ON) or "") if starts else "",
        saved=tried(lambda: run.num_done, None),
    )


def _given_names(starts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the settings that the command lines of some starts have named, each once."""
    words = (word for start in starts for word in str(start.get("command_line", "")).split())
    flags = (word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--"))
    return [*dict.fromkeys(name for flag in flags for name in (flag, flag.removeprefix("no_")))]


def _validations(
    run: RunDirectory, lines: Sequence[Mapping[str, Any]], counter: str, problems: list[str]
) -> list[Validation]:
    """Return the validations before, after, and some of those between."""
    folder, last = run.path / "validation", max((int(line[counter]) for line in lines), default=0)
    files = {position: (f"{counter} {position}", file) for position, file in list_validations(run.path).items()}
    if (folder / "before.jsonl").exists():
        files[0] = ("before", folder / "before.jsonl")
    if (folder / "after.jsonl").exists() and run.is_finished:
        files[last] = ("after", folder / "after.jsonl")
    found = []
    for position in choose_positions(sorted(files)):
        label, file = files[position]
        with contextlib.suppress(FileNotFoundError):
            try:
                found.append(Validation(label=label, position=position, answers=read_answers(file)))
            except CheckpointError as error:
                problems.append(str(error))
    return found
