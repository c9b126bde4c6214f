"""Tell a warning of a run once, and again only if it went away and came back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from focus_agents.monitoring.curves import Curves, Facts, Line
from focus_agents.monitoring.rules import RULES, Rule
from focus_agents.reports.measured import measured_lines
from focus_agents.runs.files import append_json_lines, read_json_lines
from focus_agents.runs.folder import WARNINGS_FILE, RunDirectory
from focus_env.errors import FocusError
from focus_env.types import ImageArray

QUIET_LINES = 10
"""So long must a warning have gone away before it is told again; doubled with each time."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A warning of a run.

    Attributes:
        position: The iteration or step after which it was told.
        kind: Its rule, a key of `RULES`.
        message: What was seen, the likely cause and the settings to try.
    """

    position: int
    kind: str
    message: str


@dataclass(slots=True)
class _State:
    num_told: int = 0
    is_active: bool = False
    num_quiet: int = 0


class Alarms:
    """Looks at each line of a run, and says once what is wrong; again only if it went away and came back.

    They depend on the run's lines alone, so a run that is gone on with looks at the earlier ones first.

    Args:
        facts: Of the run.
        rules: By kind.
    """

    def __init__(self, facts: Facts, rules: Mapping[str, Rule] = RULES) -> None:
        self.facts, self._rules, self._curves = facts, rules, Curves(facts.length)
        self._states = {kind: _State() for kind in rules}

    def look(self, line: Line) -> list[Alarm]:
        """Look at the next line; returns what is to be told of the run since it."""
        self._curves.add(line)
        position = int(line[self.facts.counter] or 0)
        told = []
        for kind, rule in self._rules.items() if position else ():
            message, state = rule(self._curves, self.facts), self._states[kind]
            if message is None:
                state.num_quiet += 1
                state.is_active &= state.num_quiet < QUIET_LINES * 2 ** max(0, state.num_told - 1)
                continue
            state.num_quiet = 0
            if not state.is_active:
                state.is_active, state.num_told = True, state.num_told + 1
                told.append(Alarm(position, kind, message))
        return told


class Watcher:
    """Tells the alarms of a run in the terminal, and keeps them in `warnings.jsonl`; a `Sink` of the recorder.

    Args:
        run: The run's folder.
        console: Where they are told.
        facts: Of the run.
    """

    name = WARNINGS_FILE

    def __init__(self, run: RunDirectory, console: Console, facts: Facts) -> None:
        self._run, self._console, self._facts = run, console, facts
        self._alarms, self._last = Alarms(facts), -1
        self._is_written = True

    def log(self, metrics: Line, position: int) -> None:
        """Look at the next line, and at those between the last one and it.

        A run that was gone on with, or has gone back to a checkpoint, is looked at from its start; what was wrong with
        it then has been told.
        """
        counter, is_known = self._facts.counter, 0 <= self._last < position
        if not is_known:
            self._alarms = Alarms(self._facts)
        if position != self._last + 1:
            for line in measured_lines(self._run.read_metrics())[1]:
                if (self._last if is_known else -1) < line.get(counter, -1) < position:
                    alarms = self._alarms.look(line)
                    self._tell(alarms if is_known else ())
        self._last = position
        self._tell(self._alarms.look({counter: position, **metrics}))

    def kept(self) -> list[dict[str, Any]]:
        """Return what `warnings.jsonl` holds."""
        return read_json_lines(self._run.path / WARNINGS_FILE)

    def show(self, name: str, picture: ImageArray, position: int) -> None:
        """Do nothing with pictures."""

    def close(self) -> None:
        """Do nothing at the end."""

    def _tell(self, alarms: Sequence[Alarm]) -> None:
        for alarm in alarms:
            self._print(alarm.message)
            record = {self._facts.counter: alarm.position, "kind": alarm.kind, "message": alarm.message}
            try:
                append_json_lines(self._run.path / WARNINGS_FILE, [record])
            except (OSError, FocusError) as error:
                if self._is_written:
                    self._print(f"{WARNINGS_FILE} cannot be written: {error}; the training goes on without")
                self._is_written = False

    def _print(self, message: str) -> None:
        self._console.print(f"warning: {message}", style="yellow", highlight=False, markup=False, soft_wrap=True)
