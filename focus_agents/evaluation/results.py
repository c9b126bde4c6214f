"""Answers on disk, so that no episode is answered twice and none is lost.

runs/<evaluation>/
  config.json               the data sets, the policies, and the cells of the table
  episodes/<data>.json      digests of the episodes of a data set with a number of supports, and the data set
  answers/<cell>.jsonl      one line per answered episode, in the order of answering
  sheets/<cell>.png         the best, the worst and some other episodes
  calibration/<cell>.json   how often boxes of a score are right, if enough boxes have a score
  summary.json              every figure
  report.md, report.html    the tables
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_type_hints

from focus_agents.errors import CheckpointError
from focus_agents.evaluation.episodes import EpisodeDigests
from focus_agents.evaluation.records import AnswerRecord, Cell, file_name, is_value
from focus_agents.runs.files import append_json_lines, write_json, write_json_lines
from focus_agents.runs.provenance import differences


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
        code: Mapping[str, Any] | None = None,
    ) -> ResultsFolder:
        """Start an evaluation, or go on with the one that is there, which may get further cells.

        Args:
            path: The folder.
            data: By name of a data set, all that decides which episodes it has.
            policies: By name of a policy, all that decides what it answers.
            cells: What is to be answered.
            code: What `focus_agents.runs.provenance.provenance` says; where it is not what it was, the report does.

        Raises:
            ValueError: If a data set or policy of the same name is there with other settings, or two cells would have
                the same files.
            CheckpointError: If the folder holds something else.
        """
        results = cls(path)
        config = results._config()
        for kind, settings in (("data", data), ("policies", policies)):
            for name, values in settings.items():
                # As it comes back from JSON: tuples are lists, paths are texts.
                new = json.loads(json.dumps(values, default=str))
                _check_same(f"{path}: {kind} {name!r}", config[kind].setdefault(name, new), new)
        known = {cell.name.casefold(): cell for cell in results.cells()}
        for cell in cells:
            before = known.get(cell.name.casefold(), cell)
            if replace(before, num_episodes=cell.num_episodes) != cell:
                advice = (
                    "choose another `label`"
                    if cell.policy == before.policy
                    else "score them in different folders, by `output_dir`"
                )
                raise ValueError(
                    f"{path}: policy {cell.policy!r} on {cell.dataset!r} and policy {before.policy!r} on "
                    f"{before.dataset!r} would have the same files, {cell.name}; {advice}"
                )
            known[cell.name.casefold()] = replace(cell, num_episodes=max(cell.num_episodes, before.num_episodes))
        if code is not None:
            changes = differences(config["code"], code) if "code" in config else []
            config["code_changes"] = list(dict.fromkeys([*config.get("code_changes", ()), *changes]))
            config.setdefault("code", code)
        for folder in ("answers", "episodes", "sheets"):
            (path / folder).mkdir(parents=True, exist_ok=True)
        write_json(path / "config.json", {**config, "cells": [asdict(cell) for cell in known.values()]})
        return results

    def cells(self) -> list[Cell]:
        """Return all that was ever asked of this folder.

        Raises:
            CheckpointError: If the folder says so in another way than `open` writes it.
        """
        kinds = get_type_hints(Cell)
        cells = self._config()["cells"]
        for cell in cells:
            if set(cell) != set(kinds) or not all(is_value(cell[name], kind) for name, kind in kinds.items()):
                raise CheckpointError(
                    f"{self.path / 'config.json'}: cells: expected {', '.join(kinds)} of each, got {cell!r:.120}; "
                    "choose another `output_dir`"
                )
        return [Cell(**cell) for cell in cells]

    def data_settings(self) -> dict[str, dict[str, Any]]:
        """Return by name of a data set all that decides which episodes it has."""
        settings: dict[str, dict[str, Any]] = self._config()["data"]
        return settings

    def policy_settings(self) -> dict[str, dict[str, Any]]:
        """Return by name of a policy all that decides its answers."""
        settings: dict[str, dict[str, Any]] = self._config()["policies"]
        return settings

    def code_changes(self) -> list[str]:
        """Return sentences about what has changed in the code since the first answer, as far as calls have noticed."""
        return list(self._config().get("code_changes", ()))

    def read_episodes(self, cell: Cell) -> tuple[EpisodeDigests | None, str]:
        """Return the digests of a cell's episodes, and why they are not those of the paper ("": they are).

        Raises:
            CheckpointError: If the file cannot be read.
        """
        file = self._episodes_file(cell)
        if not file.exists():
            return None, "which data these are is not recorded"
        try:
            found = json.loads(file.read_text())
            return EpisodeDigests.from_json(found), str(found["not_published"])
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{file}: expected digests of episodes in JSON ({error}); delete the file, and they are made again"
            ) from error

    def write_episodes(self, cell: Cell, digests: EpisodeDigests, not_published: str) -> None:
        """Keep what `read_episodes` reads; cells of other policies share it."""
        self._episodes_file(cell).parent.mkdir(parents=True, exist_ok=True)
        write_json(self._episodes_file(cell), {**digests.to_json(), "not_published": not_published})

    def read(self, cell: Cell) -> list[AnswerRecord]:
        """Return the answers of a cell in the order of their episodes; a line that was cut by a kill is left out.

        Raises:
            CheckpointError: If another line cannot be read, or an episode is there twice.
        """
        records: dict[int, AnswerRecord] = {}
        for number, line in enumerate(self._lines(cell), start=1):
            try:
                record = AnswerRecord.from_json(json.loads(line, parse_constant=_no_number))
            except (ValueError, RecursionError) as error:
                raise CheckpointError(
                    f"{self._file(cell)}, line {number}: expected an answer in JSON ({error}); delete the line, and "
                    "its episode is answered again"
                ) from error
            if (record.policy, record.dataset, record.shots) != (cell.policy, cell.dataset, cell.shots):
                raise CheckpointError(
                    f"{self._file(cell)}, line {number}: expected an answer of {cell.policy!r} to {cell.dataset!r}, "
                    f"{cell.shots} supports, got one of {record.policy!r} to {record.dataset!r} with {record.shots}; "
                    "delete the line"
                )
            if record.index in records:
                raise CheckpointError(
                    f"{self._file(cell)}, line {number}: episode {record.index} is there twice; delete one of the "
                    "lines, and do not let two runs write to one folder"
                )
            records[record.index] = record
        return [records[index] for index in sorted(records)]

    def reopen(self, cell: Cell, *, drop_failed: bool = False) -> list[AnswerRecord]:
        """Read as `read` does, and remove a line that was cut from the file, so that others can follow.

        Args:
            cell: Which.
            drop_failed: Failed answers go as well, so that they are asked again.
        """
        records = self.read(cell)
        kept = [record for record in records if not (drop_failed and record.error is not None)]
        file = self._file(cell)
        if file.exists() and (len(kept) < len(records) or not file.read_text().endswith("\n")):
            write_json_lines(file, [record.to_json() for record in kept])
        return kept

    def append(self, cell: Cell, records: Sequence[AnswerRecord]) -> None:
        """Add answers; when this returns, they are on the disk."""
        append_json_lines(self._file(cell), [record.to_json() for record in records], is_synced=True)

    def sheet(self, cell: Cell) -> Path:
        """Return the place of a cell's pictures."""
        return self.path / "sheets" / f"{cell.name}.png"

    def _file(self, cell: Cell) -> Path:
        return self.path / "answers" / f"{cell.name}.jsonl"

    def _episodes_file(self, cell: Cell) -> Path:
        return self.path / "episodes" / f"{file_name(cell.dataset)}__{cell.shots}-shot.json"

    def _lines(self, cell: Cell) -> Iterator[str]:
        """Yield the whole lines of a cell's file."""
        if self._file(cell).exists():
            # A byte that is none of UTF-8 makes its line no JSON, which is said of that line.
            with self._file(cell).open(encoding="utf-8", errors="replace") as file:
                yield from (line for line in file if line.endswith("\n"))

    def _config(self) -> dict[str, Any]:
        file = self.path / "config.json"
        if not file.exists():
            return {"data": {}, "policies": {}, "cells": []}
        try:
            config: dict[str, Any] = json.loads(file.read_text())
        except ValueError as error:
            raise CheckpointError(f"{file}: expected JSON ({error}); choose another `output_dir`") from error
        kinds = {"data": dict, "policies": dict, "cells": list}
        if not isinstance(config, dict) or not set(kinds) <= set(config):
            raise CheckpointError(f"{self.path} holds something else than an evaluation; choose another `output_dir`")
        for name, kind in kinds.items():
            values = config[name].values() if isinstance(config[name], dict) else config[name]
            if not isinstance(config[name], kind) or not all(isinstance(value, dict) for value in values):
                raise CheckpointError(
                    f"{file}: {name}: expected the record of an evaluation, got {config[name]!r:.80}; choose "
                    "another `output_dir`"
                )
        return config


def _no_number(word: str) -> Any:
    raise ValueError(f"expected numbers, got {word}")


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
