"""Answers on disk, so that no episode is answered twice and none is lost.

runs/<evaluation>/
  config.json               what was asked: data sets, policies, and the cells of the table
  answers/<cell>.jsonl      one line per answered episode, in the order in which they were answered
  sheets/<cell>.png         the best, the worst and some other episodes
  summary.json              every figure
  report.md, report.html    the tables
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from focus_agents.errors import CheckpointError
from focus_agents.runs.files import write_json
from focus_agents.runs.folder import read_answer
from focus_env.files import append_text, write_text
from focus_env.metrics import ScoredAnswer

MAX_TEXT = 2000
"""Characters kept of an answer."""
_MAX_NAME = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell of the table.

    Attributes:
        policy: Its name in tables, as the user wrote it.
        dataset: Likewise.
        shots: Supports per episode.
        num_episodes: How many are to be answered, from index 0 on.
    """

    policy: str
    dataset: str
    shots: int
    num_episodes: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{_file_name(self.policy)}__{_file_name(self.dataset)}__{self.shots}-shot"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRecord:
    """One answered episode.

    Attributes:
        policy: As in `Cell`.
        dataset: As in `Cell`.
        shots: As in `Cell`.
        index: Of the episode in its data set.
        text: What the policy wrote, at most `MAX_TEXT` characters of it.
        error: Why there is no answer, see `focus_agents.rollout.records.Completion`.
        seconds: What the policy took for the episode's batch, divided by the episodes of the batch.
        answer: How it was scored.
    """

    policy: str
    dataset: str
    shots: int
    index: int
    text: str
    error: str | None
    seconds: float
    answer: ScoredAnswer

    def to_json(self) -> dict[str, Any]:
        """As one flat object."""
        own = {name: getattr(self, name) for name in self.__slots__ if name != "answer"}
        return {**own, **asdict(self.answer)}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> AnswerRecord:
        """Back from `to_json`."""
        own = {name: line[name] for name in cls.__slots__ if name != "answer"}
        return cls(**own, answer=read_answer(line))


class ResultsFolder:
    """The folder of an evaluation; see the module's docstring.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        data: Mapping[str, Mapping[str, Any]],
        policies: Mapping[str, Mapping[str, Any]],
        cells: Sequence[Cell],
    ) -> ResultsFolder:
        """Start an evaluation, or go on with the one that is there, which may get further cells.

        Args:
            path: The folder.
            data: By name of a data set, all that decides which episodes it has.
            policies: By name of a policy, all that decides what it answers.
            cells: What is to be answered.

        Raises:
            ValueError: If a data set or policy of the same name is there with other settings.
            CheckpointError: If the folder holds something else.
        """
        results = cls(path)
        config = results._config()
        for kind, settings in (("data", data), ("policies", policies)):
            for name, values in settings.items():
                # As it comes back from JSON: tuples are lists, paths are texts.
                new = json.loads(json.dumps(values, default=str))
                _check_same(f"{path}: {kind} {name!r}", config[kind].setdefault(name, new), new)
        known = {cell.name: cell for cell in results.cells()}
        for cell in cells:
            before = known.get(cell.name, cell)
            known[cell.name] = replace(cell, num_episodes=max(cell.num_episodes, before.num_episodes))
        for folder in ("answers", "sheets"):
            (path / folder).mkdir(parents=True, exist_ok=True)
        write_json(path / "config.json", {**config, "cells": [asdict(cell) for cell in known.values()]})
        return results

    def cells(self) -> list[Cell]:
        """All that was ever asked of this folder."""
        return [Cell(**cell) for cell in self._config()["cells"]]

    def data_settings(self) -> dict[str, dict[str, Any]]:
        """By name of a data set, all that decides which episodes it has."""
        settings: dict[str, dict[str, Any]] = self._config()["data"]
        return settings

    def read(self, cell: Cell) -> list[AnswerRecord]:
        """The answers of a cell in the order of their episodes; a line that was cut by a kill is left out.

        Raises:
            CheckpointError: If another line cannot be read, or an episode is there twice.
        """
        records: dict[int, AnswerRecord] = {}
        for number, line in enumerate(self._lines(cell), start=1):
            try:
                record = AnswerRecord.from_json(json.loads(line))
            except (KeyError, TypeError, ValueError) as error:
                raise CheckpointError(
                    f"{self._file(cell)}, line {number}: expected an answer in JSON ({error!r}); delete the line, and "
                    "its episode is answered again"
                ) from error
            if record.index in records:
                raise CheckpointError(
                    f"{self._file(cell)}, line {number}: episode {record.index} is there twice; delete one of the "
                    "lines, and do not let two runs write to one folder"
                )
            records[record.index] = record
        return [records[index] for index in sorted(records)]

    def reopen(self, cell: Cell, *, drop_failed: bool = False) -> list[AnswerRecord]:
        """As `read`; and a line that was cut goes from the file, so that others can follow.

        Args:
            cell: Which.
            drop_failed: Failed answers go as well, so that they are asked again.
        """
        records = self.read(cell)
        kept = [record for record in records if not (drop_failed and record.error is not None)]
        file = self._file(cell)
        if file.exists() and (len(kept) < len(records) or not file.read_text().endswith("\n")):
            write_text(file, _to_lines(kept))
        return kept

    def append(self, cell: Cell, records: Sequence[AnswerRecord]) -> None:
        """Add answers; when this returns, they are on the disk."""
        append_text(self._file(cell), _to_lines(records), is_synced=True)

    def sheet(self, cell: Cell) -> Path:
        """Where a cell's pictures are."""
        return self.path / "sheets" / f"{cell.name}.png"

    def _file(self, cell: Cell) -> Path:
        return self.path / "answers" / f"{cell.name}.jsonl"

    def _lines(self, cell: Cell) -> Iterator[str]:
        """The whole lines of a cell's file."""
        if self._file(cell).exists():
            with self._file(cell).open() as file:
                yield from (line for line in file if line.endswith("\n"))

    def _config(self) -> dict[str, Any]:
        file = self.path / "config.json"
        if not file.exists():
            return {"data": {}, "policies": {}, "cells": []}
        try:
            config: dict[str, Any] = json.loads(file.read_text())
        except ValueError as error:
            raise CheckpointError(f"{file}: expected JSON ({error}); choose another `output_dir`") from error
        if not {"data", "policies", "cells"} <= set(config):
            raise CheckpointError(f"{self.path} holds something else than an evaluation; choose another `output_dir`")
        return config


def _to_lines(records: Sequence[AnswerRecord]) -> str:
    return "".join(json.dumps(record.to_json()) + "\n" for record in records)


def _check_same(what: str, stored: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse settings that are not those of the answers in the folder."""
    differences = [
        f"{key} is {new.get(key)!r} here and {stored.get(key)!r} there"
        for key in (*new, *(key for key in stored if key not in new))
        if new.get(key) != stored.get(key)
    ]
    if differences:
        raise ValueError(
            f"{what} was answered with other settings: {'; '.join(differences)}. Choose another `output_dir`, or for "
            "a data set another `label`"
        )


def _file_name(text: str) -> str:
    """A text as part of a file's name; one that loses more than colons gets a digest, so that no two are the same."""
    name = re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip("-")
    if name == text.replace(":", "-") and len(name) <= _MAX_NAME:
        return name
    return f"{name[-_MAX_NAME:]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
