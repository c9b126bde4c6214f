"""The report of an evaluation: every figure with its interval, the paper's table layout, and the paper's own rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from focus_agents.evaluation.published import PAPER, TABLES, PublishedTable
from focus_agents.evaluation.records import Cell
from focus_agents.evaluation.reliability import reliability, reliability_notes, reliability_tables, write_reliability
from focus_agents.evaluation.results import ResultsFolder
from focus_agents.reports.documents import paragraph, to_markdown, write_document
from focus_agents.reports.tables import figure, markdown_table
from focus_agents.runs.figures import in_digits
from focus_agents.runs.files import write_json
from focus_env.datasets import entries_of
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
    "absent_precision": "absent precision",
    "absent_recall": "absent recall",
}
"""Titles of metrics, in the order of the table; `focus_env.metrics.summarize` says what each is."""

_SETTING = re.compile(r"\\`(retry_failed|max_completion_tokens|frame)\\`")
"""Settings that notes name, as `paragraph` writes them."""
ALL = "All figures: scores and shares * 100, counts and seconds as they are"
FEW_EPISODES = 100
"""Fewer are said."""

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
    rows = [["", *(f"{dataset}, {_shots(shots)}" for dataset, shots in columns), *(["average"] if has_average else [])]]
    for policy, scores in _by_policy(summary).items():
        given = [scores.get(column) for column in columns]
        rows.append([policy, *map(figure, given), *([_mean(given)] if has_average else [])])
    return rows


def detail_rows(summary: Mapping[str, Any]) -> Rows:
    """Return a row for each cell; without the columns in which no cell has anything to say."""
    cells = summary["cells"]
    shown = [name for name in COLUMNS if any(name in cell["metrics"] for cell in cells)]
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
    rows = [["", *(f"{table.datasets[name][0]}, {_shots(shots)}" for name, shots in columns)]]
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


def report_notes(summary: Mapping[str, Any]) -> list[str]:
    """Return the notes that a reader of the tables needs."""
    notes = [
        "mIoU counts an answer without a readable box as 0, and an absent target as 1 if it is called absent, else 0. "
        "Intervals are 95% bootstrap intervals over episodes."
    ]
    shown = {kind: {cell[kind] for cell in summary["cells"]} for kind in ("dataset", "policy")}
    data = {name: settings for name, settings in summary["data"].items() if name in shown["dataset"]}
    notes += [_data_note(name, settings) for name, settings in data.items()]
    policies = summary.get("policies", {}).items()
    notes += [_policy_note(name, settings) for name, settings in policies if settings and name in shown["policy"]]
    notes += _count_notes(summary)
    notes += reliability_notes(summary)
    if any(cell["num_failed"] for cell in summary["cells"]):
        notes.append(
            "failed: answers that a policy could not get; they count as unreadable. `retry_failed` asks them again."
        )
    if any(cell.get("num_cut") for cell in summary["cells"]):
        notes.append("cut: answers that were cut at `max_completion_tokens`; raise it if many are.")
    for cell in summary["cells"]:
        if "unit_hint" in cell:
            notes.append(f"{cell['policy']} on {cell['dataset']}, {_shots(cell['shots'])}: {cell['unit_hint']}.")
    if summary.get("code_changes"):
        notes.append(
            "Not all answers were given by the same code; since the first of them: "
            f"{'; '.join(summary['code_changes'])}."
        )
    if "published" in summary:
        notes.append(
            f"(published): printed in {PAPER}, not measured here: other models, its own choice of episodes, no "
            "intervals."
        )
        known = {name for table in TABLES for name in table.datasets}
        if others := [name for name, settings in data.items() if settings.get("dataset") not in known]:
            notes.append(
                f"The paper has nothing on {', '.join(others)}: other data, whose figures cannot be compared with its."
            )
        notes += [
            f"{found['dataset']}, {_shots(found['shots'])}: left out beside the paper's rows, since the episodes are "
            f"not the published ones: {found['reason']}."
            for found in summary.get("not_published", ())
            if found["dataset"] not in others
        ]
    return notes


def _data_note(name: str, settings: Mapping[str, Any]) -> str:
    """Name the episodes, by the settings that choose them."""
    is_drawn = settings.get("dataset") == "synthetic"
    kinds = [key for key in ("split", "protocol") if key in settings and key not in _ignored(settings)]
    told = [
        f"{key} {settings[key]}" for key in ("dataset", *kinds, *(["level"] if is_drawn else [])) if key in settings
    ]
    told += [f"scenes {settings['scenes']}"] if settings.get("scenes", "one_look") != "one_look" else []
    absent = settings.get("absent_fraction", 0) if is_drawn else 0
    told += [f"a share of {absent:g} absent"] if absent else []
    told += [f"from {settings['data_root']}"] if settings.get("data_root") else []
    told += ["supports of other episodes"] if settings.get("shuffle_supports") else []
    return f"{name}: {', '.join(told)}."


def _ignored(settings: Mapping[str, Any]) -> set[str]:
    """Return names of the settings that have no effect on a data set."""
    try:
        return set.intersection(*(set(entry.ignores) for entry in entries_of(str(settings.get("dataset")))))
    except ValueError:  # of a package that is not installed here, or a name of a caller's own
        return set()


def _policy_note(name: str, settings: Mapping[str, Any]) -> str:
    """Say how a policy was asked."""
    told = [f"prompt {settings['template']}", f"unit {settings['frame']}"] if "frame" in settings else []
    told += [f"weights {settings['weights']}"] if settings.get("weights") else []
    told += [f"endpoint {settings['endpoint']}"] if settings.get("endpoint") else []
    told += [f"code {module} {digest}" for module, digest in settings.get("code", {}).items()][:1]
    return f"{name}: {', '.join(told)}."


def _count_notes(summary: Mapping[str, Any]) -> list[str]:
    """Say on how many episodes figures rest, where these are few."""
    notes = []
    for dataset in dict.fromkeys(cell["dataset"] for cell in summary["cells"]):
        few = [cell for cell in summary["cells"] if cell["dataset"] == dataset and cell["num_episodes"] < FEW_EPISODES]
        if few:
            counts = sorted({cell["num_episodes"] for cell in few})
            intervals = [cell["metrics"]["miou_all"]["interval"] for cell in few]
            widest = max(intervals, key=lambda interval: interval[1] - interval[0])
            _, low, high = in_digits(0, [100 * bound for bound in widest], digits=1)
            notes.append(
                f"{dataset}: few episodes, {' and '.join(map(str, counts))}; an interval of the mIoU is as wide as "
                f"{low} to {high}, and rough itself."
            )
    of_videos = [
        name
        for name, settings in summary["data"].items()
        if settings.get("protocol") in ("focus", "iploc")
        and settings.get("dataset") not in (None, "synthetic", "store")
    ]
    if notes and of_videos:
        notes.append(f"The protocols focus and iploc give one episode for each video ({', '.join(of_videos)}).")
    return notes


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


def _shots(number: int) -> str:
    return "1 shot" if number == 1 else f"{number} shots"
