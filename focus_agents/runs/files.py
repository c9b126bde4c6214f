"""JSON files, and files with a JSON object in each line. All of it is JSON: what is not finite is null."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from focus_agents.errors import CheckpointError
from focus_env.files import append_text, write_text


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file at once; what JSON does not know becomes text."""
    write_text(path, to_json(content) + "\n")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: The file.
        what: Says in messages what is expected in it, such as "the arguments of a run".

    Raises:
        CheckpointError: If the file cannot be read or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected {what} in JSON ({error})") from error
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path}: expected {what}, got {content!r:.80}")
    return content


def write_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of JSON lines at once."""
    write_text(path, to_json_lines(records))


def append_json_lines(path: Path, records: Iterable[Mapping[str, Any]], *, is_synced: bool = False) -> None:
    """Append to a file of JSON lines; a last line that a killed writer has cut is removed first. See `append_text`."""
    append_text(path, to_json_lines(records), is_synced=is_synced)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines; none if it is not there. A last line that a kill has cut is left out.

    Raises:
        CheckpointError: If another line is no JSON object.
    """
    return _parse_lines(path, path.read_bytes()) if path.exists() else []


def _parse_lines(path: Path, content: bytes, *, first: int = 1) -> list[dict[str, Any]]:
    """Return the whole lines of a file, or of what follows on its front; `first` is the number of the first of them."""
    records = []
    for number, line in enumerate(content.splitlines(keepends=True), start=first):
        if not line.endswith(b"\n"):
            break
        try:
            record = json.loads(line, parse_constant=lambda _: None)  # bare NaN, as older versions wrote
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}, line {number}: expected JSON ({error}); delete the line") from error
        if not isinstance(record, dict):
            raise CheckpointError(f"{path}, line {number}: expected a JSON object, got {record!r:.80}; delete the line")
        records.append(record)
    return records


class NewLines:
    """Reads what was added to a file of JSON lines since the last look, so that a look costs as much as there is news.

    Args:
        path: The file, which may not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._offset, self._last, self._num_lines = path, 0, b"", 0

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """Return the new whole lines, and whether they begin at the front: at first, and after lines were dropped.

        A line that is being written comes at a later look. No lines come while the file cannot be read.

        Raises:
            CheckpointError: If a line is no JSON object.
        """
        try:
            with self._path.open("rb") as file:
                file.seek(max(0, self._offset - len(self._last)))
                is_anew = self._offset == 0 or file.read(len(self._last)) != self._last
                if is_anew:
                    file.seek(0)
                content = file.read()
        except OSError:
            return [], False
        content = content[: content.rfind(b"\n") + 1]
        if is_anew:
            self._offset, self._last, self._num_lines = 0, b"", 0
        records = _parse_lines(self._path, content, first=self._num_lines + 1)
        if records:
            self._offset += len(content)
            self._last = content.splitlines(keepends=True)[-1]
            self._num_lines += len(records)
        return records, is_anew


def keep_json_lines(path: Path, is_kept: Callable[[dict[str, Any]], bool]) -> None:
    """Drop lines of a file of JSON lines, and a last one that is cut; where only last ones go, no room is needed.

    Raises:
        CheckpointError: As `read_json_lines` does.
        StorageError: If the file cannot be written.
    """
    content, records = path.read_bytes(), read_json_lines(path)
    kept = [record for record in records if is_kept(record)]
    if kept != records[: len(kept)]:
        write_json_lines(path, kept)
        return
    size = sum(map(len, content.splitlines(keepends=True)[: len(kept)]))
    if size < len(content):
        os.truncate(path, size)


def to_json(content: Mapping[str, Any]) -> str:
    """Return an object as JSON for people to read; what JSON does not know becomes text."""
    return json.dumps(_finite(content), indent=2, default=str, allow_nan=False)


def to_json_lines(records: Iterable[Mapping[str, Any]]) -> str:
    """Return one JSON object a line."""
    return "".join(json.dumps(_finite(record), allow_nan=False) + "\n" for record in records)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _finite(value: Any) -> Any:
    """Return the same with null for numbers that are not finite, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value
