"""The report of an evaluation: every figure with its interval, the paper's table layout, and the paper's own rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from focus_agents.evaluation.notes import has_absent, report_notes, shots_text
from focus_agents.evaluation.published import PAPER, TABLES, PublishedTable
from focus_agents.evaluation.records import Cell
from focus_agents.evaluation.reliability import reliability, reliability_tables, write_reliability
from focus_agents.evaluation.results import ResultsFolder
from focus_agents.reports.documents import paragraph, to_markdown, write_document
from focus_agents.reports.tables import figure, markdown_table
from focus_agents.runs.files import write_json
from focus_env.metrics import summarize_with_intervals
from focus_env.units import find_unit

COLUMNS: Mapping[str, str] = {
    "miou_all": "mIoU",
    "miou_parsed": "mIoU parsed",
    "acc_50": "acc@0.5",
    "acc_75": "acc@0.75",
    "parse_rate": "parsed",
    "whole_image_rate": "whole image",
    "copy_rate": "copies",
    "miou_present": "mIoU present",
    "absent_precision": "absent precision",
    "absent_recall": "absent recall",
    "f1_50": "F1@0.5",
}
"""Titles of metrics, in the order of the table; `focus_env.metrics.summarize` says what each is."""

_SETTING = re.compile(r"\\`(retry_failed|max_completion_tokens|frame)\\`")
"""Settings that notes name, as `paragraph` writes them."""
ALL = "All figures: scores and shares * 100, counts and seconds as they are"

Rows = list[list[str]]
"""The first is the heading."""


def summarize_folder(results: ResultsFolder, *, with_published: bool = False) -> dict[str, Any]:
    """Return all figures of a folder.

    Args:
        results: What was answered, by however many calls.
        with_published: Whether the paper's rows are to stand beside them.

    Returns:
        `data`: settings by name of a data set. `policies`: settings by name of a policy. `code_changes`: what has
        changed in the code since the first answer. `cells`: for each, `policy`, `dataset`, `shots`, `num_episodes`
        answered and `num_expected`, `num_failed` (answers that a policy could not get; they count as unreadable),
        `num_cut` (answers cut at the limit of tokens, if any), `seconds_per_episode`, `metrics`: by name, `mean` and
        `interval`, as `reliability` what `evaluation.reliability` says of boxes with a score, if there is one, and as
        `unit_hint` what `focus_env.units.find_unit` has found, if anything.
        `not_published`: for `dataset` and `shots`
        the `reason` why their episodes are not the paper's; those that are have none. `published`, if asked for: rows
        with `model`, `source` and `scores`, mIoU * 100 by data set and number of shots.
    """
    cells = [_summarize_cell(results, cell) for cell in results.cells()]
    summary: dict[str, Any] = {
        "data": results.data_settings(),
        "policies": results.policy_settings(),
        "code_changes": results.code_changes(),
        "cells": [cell for cell in cells if cell is not None],
        "not_published": _not_published(results),
    }
    if with_published:
        summary["published"] = [
            {
                "model": row.model,
                "source": f"{PAPER}, table {row.table}",
                "scores": {
                    name: dict(zip(map(str, table.datasets[name][1]), scores, strict=True))
                    for name, scores in row.scores.items()
                },
            }
            for table in TABLES
            for row in table.rows
        ]
    return summary


def _not_published(results: ResultsFolder) -> list[dict[str, Any]]:
    cells = {(cell.dataset, cell.shots): cell for cell in results.cells()}
    reasons = {place: results.read_episodes(cell)[1] for place, cell in cells.items()}
    return [
        {"dataset": dataset, "shots": shots, "reason": reason} for (dataset, shots), reason in reasons.items() if reason
    ]


def _summarize_cell(results: ResultsFolder, cell: Cell) -> dict[str, Any] | None:
    records = results.read(cell)
    if not records:
        return None
    answers = [record.answer for record in records]
    hint, num_cut = find_unit(answers), sum(record.is_cut for record in records)
    return {
        "policy": cell.policy,
        "dataset": cell.dataset,
        "shots": cell.shots,
        "num_episodes": len(records),
        "num_expected": cell.num_episodes,
        "num_failed": sum(record.error is not None for record in records),
        "seconds_per_episode": float(np.mean([record.seconds for record in records])),
        "metrics": summarize_with_intervals(answers),
        **({"num_cut": num_cut} if num_cut else {}),
        **({"reliability": found} if (found := reliability(records)) else {}),
        **({"unit_hint": str(hint)} if hint else {}),
    }


def report_tables(summary: Mapping[str, Any]) -> dict[str, Rows]:
    """Return tables by title: scores in the paper's layout, everything else, and the paper's rows with ours above."""
    tables = {"mIoU * 100 [95% interval]": score_rows(summary), ALL: detail_rows(summary)}
    tables |= reliability_tables(summary)
    if "published" in summary:
        for table in TABLES:
            names = " and ".join(title for title, _ in table.datasets.values())
            tables[f"Beside the paper: {names}, mIoU * 100"] = published_rows(summary, table)
    return tables


def score_rows(summary: Mapping[str, Any]) -> Rows:
    """Return policies by data sets and shots; with the average of all columns if there are several data sets."""
    datasets = list(dict.fromkeys(cell["dataset"] for cell in summary["cells"]))
    columns = [
        (dataset, shots)
        for dataset in datasets
        for shots in sorted({cell["shots"] for cell in summary["cells"] if cell["dataset"] == dataset})
    ]
    has_average = len(datasets) > 1
    rows = [
        ["", *(f"{dataset}, {shots_text(shots)}" for dataset, shots in columns), *(["average"] if has_average else [])]
    ]
    for policy, scores in _by_policy(summary).items():
        given = [scores.get(column) for column in columns]
        rows.append([policy, *map(figure, given), *([_mean(given)] if has_average else [])])
    return rows


def detail_rows(summary: Mapping[str, Any]) -> Rows:
    """Return a row for each cell; without the columns in which no cell has anything to say."""
    cells = summary["cells"]
    shown = [name for name in COLUMNS if any(name in cell["metrics"] for cell in cells)]
    if not has_absent(summary):
        shown.remove("miou_present")  # it is the mIoU
    counts = {"num_failed": "failed", "num_cut": "cut"}
    counts = {name: title for name, title in counts.items() if any(cell.get(name) for cell in cells)}
    rows = [["", "data set", "shots", *(COLUMNS[name] for name in shown), *counts.values(), "episodes", "s / episode"]]
    for cell in cells:
        count = str(cell["num_episodes"])
        if cell["num_episodes"] < cell["num_expected"]:
            count += f" of {cell['num_expected']}"
        rows.append(
            [
                cell["policy"],
                cell["dataset"],
                str(cell["shots"]),
                *(figure(cell["metrics"].get(name)) for name in shown),
                *(str(cell.get(name, 0)) for name in counts),
                count,
                f"{cell['seconds_per_episode']:.3f}",
            ]
        )
    return rows


def published_rows(summary: Mapping[str, Any], table: PublishedTable) -> Rows:
    """Return one of the paper's layouts: our policies where they were asked on its very data, and the paper's rows."""
    columns = [(name, shots) for name, (_, all_shots) in table.datasets.items() for shots in all_shots]
    rows = [["", *(f"{table.datasets[name][0]}, {shots_text(shots)}" for name, shots in columns)]]
    has_average = any(row.average is not None for row in table.rows)
    rows[0] += ["average"] if has_average else []
    for policy, scores in _by_policy(summary, is_published=True).items():
        given = [scores.get(column) for column in columns]
        if any(given):
            rows.append([policy, *map(figure, given), *([_mean(given)] if has_average else [])])
    for row in table.rows:
        values = {
            (name, shots): score
            for name, scores in row.scores.items()
            for shots, score in zip(table.datasets[name][1], scores, strict=True)
        }
        shown = [values.get(column) for column in columns] + ([row.average] if has_average else [])
        printed = ["" if value is None else f"{value:.1f}" for value in shown]
        rows.append([f"{row.model} (published, table {row.table})", *printed])
    return rows


def render_markdown(summary: Mapping[str, Any], *, pictures: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return the tables and notes in Markdown, with `pictures` in Markdown by the title of the table below each."""
    notes = [_SETTING.sub(r"`\1`", paragraph(note)) for note in report_notes(summary)]
    parts = ["# Evaluation", *notes]
    for title, rows in report_tables(summary).items():
        parts += [f"## {title}", *([pictures[title]] if title in pictures else []), markdown_table(rows)]
    return to_markdown(parts)


def write_report(results: ResultsFolder, *, with_published: bool = False) -> dict[str, Any]:
    """Write `summary.json`, `report.md`, `report.html`, `calibration/` and `reliability.png` of all in the folder.

    Returns:
        The summary, see `summarize_folder`.
    """
    summary = summarize_folder(results, with_published=with_published)
    write_json(results.path / "summary.json", summary)
    pictures = write_reliability(results, summary)
    write_document(results.path / "report.md", render_markdown(summary, pictures=pictures))
    return summary


def _others(summary: Mapping[str, Any]) -> set[tuple[str, int]]:
    """Data sets and shots that are not the paper's; all of them in a summary that does not say so."""
    cells = summary["cells"] if "not_published" not in summary else summary["not_published"]
    return {(cell["dataset"], cell["shots"]) for cell in cells}


def _by_policy(summary: Mapping[str, Any], *, is_published: bool = False) -> dict[str, dict[tuple[str, int], Any]]:
    """Return by policy the mIoU of each (data set, shots).

    Args:
        summary: All figures.
        is_published: Only those on the paper's very data, under the data set's own name rather than its label.
    """
    scores: dict[str, dict[tuple[str, int], Any]] = {}
    others = _others(summary) if is_published else set()
    for cell in summary["cells"]:
        name = summary["data"][cell["dataset"]].get("dataset") if is_published else cell["dataset"]
        if (cell["dataset"], cell["shots"]) not in others:
            scores.setdefault(cell["policy"], {})[name, cell["shots"]] = cell["metrics"]["miou_all"]
    return scores


def _mean(values: Sequence[Mapping[str, Any] | None]) -> str:
    """Return the average of a row that is complete."""
    means = [value["mean"] for value in values if value is not None]
    return f"{100 * sum(means) / len(means):.1f}" if len(means) == len(values) else ""
