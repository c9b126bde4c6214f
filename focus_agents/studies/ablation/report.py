"""The files of an ablation's report: figures, tables, curves, and pictures of answers and of attention."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from focus_agents.policies.focus import FocusPolicy
from focus_agents.reports.documents import write_document
from focus_agents.reports.plotting import plot_runs
from focus_agents.runs.files import write_json
from focus_agents.runs.folder import RunDirectory
from focus_agents.studies.ablation.answers import split_episodes
from focus_agents.studies.ablation.arms import ARMS, BASES, KINDS, MAIN_CELL, MAIN_SPLIT
from focus_agents.studies.ablation.grid import Variant
from focus_agents.studies.ablation.runs import AblationStudy
from focus_agents.studies.ablation.summary import read_floors, read_scores, summarize_scores
from focus_agents.studies.ablation.tables import render_report
from focus_env.boxes import box_iou
from focus_env.rendering import render_localization, stack_rows, write_picture

REPORT_NAME = "ablation"
SHOWN_BASE = next(iter(BASES))
SHOWN_ARMS = ("sft", "attention")
NUM_SHOWN_EPISODES = 1
CURVES = {"sft": ("lm_loss", "validation_miou"), "grpo": ("reward", "validation_miou")}


def write_report(study: AblationStudy, folder: Path) -> Path:
    """Write `ablation.json`, `ablation.md`, `ablation.html` and pictures, of the runs that were answered to the end.

    Returns:
        The Markdown file; the HTML file lies beside it.

    Raises:
        ValueError: If there is no such run.
    """
    scores = read_scores(study)
    if not scores:
        raise ValueError(f"{study.folder}: expected answers of a run of this study, found none; run it first")
    folder.mkdir(parents=True, exist_ok=True)
    summary = summarize_scores(study, scores, read_floors(study, scores))
    write_json(folder / f"{REPORT_NAME}.json", summary)
    for scenes in KINDS:
        _draw_curves(study, summary, folder, scenes)
        _draw_answers(study, summary, folder, scenes)
    report = folder / f"{REPORT_NAME}.md"
    write_document(report, render_report(summary))
    return report


def _path(folder: Path, what: str, scenes: str) -> Path:
    """Return the path of a picture; those of the first kind of scenes have the short name."""
    kind = "" if scenes == next(iter(KINDS)) else f"_{scenes}"
    return folder / f"{REPORT_NAME}_{what}{kind}.png"


def _draw_curves(study: AblationStudy, summary: Mapping[str, Any], folder: Path, scenes: str) -> None:
    """Draw the sample efficiency of stage 1 and the rewards of GRPO: the paper's arms on the first base."""
    shown = [Variant(arm, SHOWN_BASE, scenes) for arm in ARMS if ARMS[arm].is_paper or arm == "shuffled"]
    for stage, metrics in CURVES.items():
        variants = [each for each in shown if ARMS[each.arm].stage == stage and str(each) in summary["rows"]]
        runs = {
            ARMS[each.arm].title: [study.run(each, seed).folder for seed in _seeds(summary, each)] for each in variants
        }
        lines = [line for folders in runs.values() for path in folders for line in RunDirectory(path).read_metrics()]
        # The shortest runs end before they validate.
        logged = [metric for metric in metrics if any(line.get(metric) is not None for line in lines)]
        if logged:
            plot_runs(runs, logged, _path(folder, stage, scenes), window=10)


def _draw_answers(study: AblationStudy, summary: Mapping[str, Any], folder: Path, scenes: str) -> None:
    """Draw answers to the first test episodes and their attention, without and with the attention loss."""
    rows, titles = [], []
    variants = [Variant(arm, SHOWN_BASE, scenes) for arm in SHOWN_ARMS]
    runs = {each: study.run(each, _seeds(summary, each)[0]) for each in variants if str(each) in summary["rows"]}
    policies = {each: FocusPolicy.from_pretrained(run.model) for each, run in runs.items()}
    episodes = split_episodes(MAIN_SPLIT, 2, NUM_SHOWN_EPISODES, scenes)
    for index, (each, policy) in itertools.product(range(NUM_SHOWN_EPISODES), policies.items()):
        episode = episodes[index]
        supports = [(exemplar.frame.image(), exemplar.box) for exemplar in episode.support]
        query = episode.query_frame.image()
        found = policy.locate(supports, query, with_attention=True)
        rows.append(render_localization(supports, query, found.box, found.attention))
        titles.append(f"{ARMS[each.arm].title}: IoU {box_iou(found.box, episode.target_box):.2f}")
    if rows:
        write_picture(_path(folder, "answers", scenes), stack_rows(rows, titles, legend=[]))


def _seeds(summary: Mapping[str, Any], variant: Variant) -> list[int]:
    return [int(seed) for seed in summary["rows"][str(variant)]["cells"][MAIN_CELL]["seeds"]]
