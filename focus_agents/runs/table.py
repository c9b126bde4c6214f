"""The lines of `metrics.jsonl` as a table, for spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from focus_agents.runs.files import read_json_lines
from focus_agents.runs.metrics import counted, declared_order
from focus_env.files import append_text, write_text


def table_of(lines: Path) -> Path:
    """Return where the table of a file of JSON lines is: beside it."""
    return lines.with_suffix(".csv")


def add_to_table(lines: Path, record: Mapping[str, Any]) -> None:
    """Add to the table the line that a file of JSON lines has just got.

    A name that is new to the table is a new column, so the table is then written anew. One that cannot be written is
    removed, and so is whole again as soon as there is room.

    Raises:
        StorageError: If it cannot be written.
    """
    table = table_of(lines)
    try:
        columns = _columns(table)
        if set(record) <= set(columns):
            append_text(table, _to_csv(columns, [record]))
        else:
            write_table(lines)
    except OSError:
        drop_table(lines)
        raise


def write_table(lines: Path) -> None:
    """Write the table of a file of JSON lines, columns in the order of `METRICS`, which a run's lines have, too.

    Metrics that this version does not declare, as of a newer release's run, are the last columns.

    Raises:
        StorageError: If it cannot be written.
    """
    records = read_json_lines(lines)
    columns = declared_order(dict.fromkeys(name for record in records for name in record))
    write_text(table_of(lines), _to_csv(columns, [dict(zip(columns, columns, strict=True)), *records]))


def drop_table(lines: Path) -> None:
    """Remove the table of a file of JSON lines, which has changed; the next line brings it back."""
    table_of(lines).unlink(missing_ok=True)


def _columns(table: Path) -> list[str]:
    """Return the columns of a table; none if it is not there or has no whole line."""
    if not table.exists():
        return []
    with table.open(encoding="utf-8", errors="replace", newline="") as file:
        head = file.readline()
    return next(csv.reader([head]), []) if head.endswith("\n") else []


def _to_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as text; what is missing or not finite is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writerows(
        {name: counted(name, value) if _is_shown(value) else "" for name, value in row.items()} for row in rows
    )
    return text.getvalue()


def _is_shown(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))
