"""Scored answers in JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from focus_agents.errors import CheckpointError
from focus_agents.runs.files import read_json_lines, write_json_lines
from focus_env.metrics import ScoredAnswer
from focus_env.types import Box, ParseStatus


def write_answers(file: Path, answers: Sequence[ScoredAnswer]) -> None:
    """Write answers to a file, one JSON object a line."""
    write_json_lines(file, map(asdict, answers))


def read_answers(file: Path) -> list[ScoredAnswer]:
    """Read the validation answers of a run.

    Raises:
        CheckpointError: If there are none, or the file is damaged.
    """
    if not file.exists():
        raise CheckpointError(f"{file}: expected the validation answers of the run, found none; start a new run")
    try:
        return [read_answer(record) for record in read_json_lines(file)]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: expected validation answers ({error!r}); start a new run") from error


def read_answer(record: Mapping[str, Any]) -> ScoredAnswer:
    """Return a scored answer back from a JSON object, which may hold more than that."""
    values = {field.name: record[field.name] for field in fields(ScoredAnswer) if field.default is MISSING}
    boxes = {key: None if record[key] is None else Box(*record[key]) for key in ("box", "target_box")}
    # Not in answers that an older version wrote.
    told = {key: None if record.get(key) is None else tuple(record[key]) for key in ("numbers", "image_wh")}
    return ScoredAnswer(**{**values, **boxes, **told, "status": ParseStatus(record["status"])})
