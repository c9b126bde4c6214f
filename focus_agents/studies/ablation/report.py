"""What the runs of an ablation say: tables with intervals, curves, and pictures of answers and of attention."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from focus_agents.policies.focus import FocusPolicy
from focus_agents.reports.documents import to_markdown, write_document
from focus_agents.reports.plotting import plot_runs
from focus_agents.reports.tables import figure, markdown_table
from focus_agents.runs.files import write_json
from focus_agents.runs.folder import RunDirectory
from focus_agents.studies.ablation.arms import ARMS, BASE, MAIN_SPLIT, PUBLISHED, SPLITS
from focus_agents.studies.ablation.runs import (
    AblationStudy,
    cell,
    cell_episodes,
    missing_cells,
    read_evaluation,
    split_episodes,
)
from focus_env.boxes import box_iou
from focus_env.metrics import seeds_bootstrap_interval
from focus_env.rendering import render_localization, stack_rows, write_picture

REPORT_NAME = "ablation"
SHOTS = 4
MAIN_CELL = cell(MAIN_SPLIT, SHOTS)
DEFAULT_ARM = "attention"
SHOWN_ARMS = ("sft", "attention")
NUM_SHOWN_EPISODES = 1

CLAIMS: Sequence[tuple[str, tuple[str, str], tuple[str, str]]] = (
    ("attention loss above plain SFT", ("sft", "unseen/4"), ("attention", "unseen/4")),
    ("GRPO on top of that", ("attention", "unseen/4"), ("attention-grpo", "unseen/4")),
    ("stage 1 once more instead of GRPO", ("attention", "unseen/4"), ("attention-twice", "unseen/4")),
    ("GRPO against stage 1 once more", ("attention-twice", "unseen/4"), ("attention-grpo", "unseen/4")),
    ("GRPO without stage 1", ("base", "unseen/4"), ("grpo", "unseen/4")),
    ("GRPO without the attention loss", ("sft", "unseen/4"), ("sft-grpo", "unseen/4")),
    ("four shots against one, attention loss", ("attention", "unseen/1"), ("attention", "unseen/4")),
    ("supports against shuffled ones, attention loss", ("attention", "shuffled/4"), ("attention", "unseen/4")),
    ("supports against shuffled ones, plain SFT", ("sft", "shuffled/4"), ("sft", "unseen/4")),
    ("two shots against one, final model", ("attention-grpo", "unseen/1"), ("attention-grpo", "unseen/2")),
    ("four shots against one, final model", ("attention-grpo", "unseen/1"), ("attention-grpo", "unseen/4")),
    ("supports against shuffled ones, final model", ("attention-grpo", "shuffled/4"), ("attention-grpo", "unseen/4")),
    ("plain SFT, against training on shuffled supports", ("shuffled", "unseen/4"), ("sft", "unseen/4")),
)
"""What is compared: a name, and (arm, cell) before and after."""

Scores = Mapping[str, Mapping[str, Mapping[int, npt.NDArray[np.float64]]]]
"""By arm, cell and seed, [episodes] IoU."""


def read_scores(study: AblationStudy) -> Scores:
    """The scores of all runs that were answered to the end; arms and seeds without any are left out."""
    wanted = {name for arm in study.arms for name in (*_ancestors(arm), arm)}
    scores: dict[str, dict[str, dict[int, npt.NDArray[np.float64]]]] = {}
    for arm in (arm for arm in ARMS if arm in wanted):
        for seed in study.seeds:
            run = study.run(arm, seed)
            if missing_cells(study, run):
                continue
            for key, values in read_evaluation(run).items():
                by_seed = scores.setdefault(arm, {}).setdefault(key, {})
                by_seed[seed] = np.array(values[: cell_episodes(study, key.split("/")[0])])
    return scores


def _ancestors(arm: str) -> list[str]:
    return [] if arm == BASE else [*_ancestors(ARMS[arm].parent), ARMS[arm].parent]


def summarize_scores(study: AblationStudy, scores: Scores) -> dict[str, Any]:
    """All figures of the report, mIoU from 0 to 1: means, each seed's mean, 95% intervals over seeds and episodes."""
    return {
        "study": {
            "seeds": list(study.seeds),
            "num_sft_steps": study.num_sft_steps,
            "num_grpo_iterations": study.num_grpo_iterations,
            "num_episodes": study.num_episodes,
        },
        "arms": {arm: {key: _describe(values) for key, values in cells.items()} for arm, cells in scores.items()},
        "differences": {
            name: found for name, before, after in CLAIMS if (found := _difference(scores, before, after)) is not None
        },
        "against_default": {
            arm: _difference(scores, (DEFAULT_ARM, MAIN_CELL), (arm, MAIN_CELL))
            for arm in scores
            if ARMS[arm].stage == "sft" and arm != DEFAULT_ARM
        },
    }


def _describe(by_seed: Mapping[int, npt.NDArray[np.float64]]) -> dict[str, Any]:
    values = np.stack(list(by_seed.values()))
    low, high = seeds_bootstrap_interval(values)
    means = {str(seed): round(float(each.mean()), 4) for seed, each in by_seed.items()}
    return {"mean": round(float(values.mean()), 4), "interval": [round(low, 4), round(high, 4)], "seeds": means}


def _difference(scores: Scores, before: tuple[str, str], after: tuple[str, str]) -> dict[str, Any] | None:
    """Of two cells, paired by the seeds and episodes that both have; None if there is nothing to pair."""
    old, new = (scores.get(arm, {}).get(key, {}) for arm, key in (before, after))
    shared = [seed for seed in old if seed in new]
    if not shared:
        return None
    length = min(len(old[shared[0]]), len(new[shared[0]]))  # cells begin with the same queries
    return _describe({seed: new[seed][:length] - old[seed][:length] for seed in shared})


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
    summary = summarize_scores(study, scores)
    write_json(folder / f"{REPORT_NAME}.json", summary)
    _draw_curves(study, summary, folder)
    _draw_answers(study, summary, folder)
    report = folder / f"{REPORT_NAME}.md"
    write_document(report, render_report(summary))
    return report


def _draw_curves(study: AblationStudy, summary: Mapping[str, Any], folder: Path) -> None:
    """Sample efficiency of stage 1, rewards of stage 2."""
    for stage, metrics in (("sft", ("lm_loss", "validation_miou")), ("grpo", ("reward", "validation_miou"))):
        shown = [arm for arm in summary["arms"] if ARMS[arm].is_paper or arm == "shuffled"]
        arms = [arm for arm in shown if ARMS[arm].stage == stage]
        runs = {ARMS[arm].title: [study.run(arm, seed).folder for seed in _seeds(summary, arm)] for arm in arms}
        lines = [line for folders in runs.values() for path in folders for line in RunDirectory(path).read_metrics()]
        # The shortest runs end before they validate.
        logged = [metric for metric in metrics if any(line.get(metric) is not None for line in lines)]
        if logged:
            plot_runs(runs, logged, folder / f"{REPORT_NAME}_{stage}.png", window=10)


def _draw_answers(study: AblationStudy, summary: Mapping[str, Any], folder: Path) -> None:
    """Answers, and where they look, without and with the attention loss, to the first test episodes."""
    rows, titles = [], []
    arms = [arm for arm in SHOWN_ARMS if arm in summary["arms"]]
    runs = {arm: study.run(arm, _seeds(summary, arm)[0]) for arm in arms}
    policies = {arm: FocusPolicy.from_pretrained(run.model) for arm, run in runs.items()}
    episodes = split_episodes(MAIN_SPLIT, 2, NUM_SHOWN_EPISODES)
    for index, (arm, policy) in itertools.product(range(NUM_SHOWN_EPISODES), policies.items()):
        episode = episodes[index]
        supports = [(exemplar.frame.image(), exemplar.box) for exemplar in episode.support]
        query = episode.query_frame.image()
        found = policy.locate(supports, query, with_attention=True)
        rows.append(render_localization(supports, query, found.box, found.attention))
        titles.append(f"{ARMS[arm].title}: IoU {box_iou(found.box, episode.target_box):.2f}")
    if rows:
        write_picture(folder / f"{REPORT_NAME}_answers.png", stack_rows(rows, titles, legend=[]))


def _seeds(summary: Mapping[str, Any], arm: str) -> list[int]:
    return [int(seed) for seed in summary["arms"][arm][MAIN_CELL]["seeds"]]


def render_report(summary: Mapping[str, Any]) -> str:
    """The tables in Markdown."""
    study = summary["study"]
    has_grpo = any(ARMS[arm].stage == "grpo" for arm in summary["arms"])
    grpo = f", {study['num_grpo_iterations']} iterations of stage 2" if has_grpo else ""
    parts = [
        "# The paper's ablation on synthetic scenes",
        f"Written by `focus ablation`: seeds {', '.join(map(str, study['seeds']))}; {study['num_sft_steps']} "
        f"steps of stage 1{grpo}; {study['num_episodes']} episodes a cell, four times as many for "
        f"{SPLITS[MAIN_SPLIT].title}. mIoU * 100, where unreadable answers count 0, with 95% "
        "intervals over seeds and episodes, or over the episodes alone where there is one seed. A run that is not done "
        "is left out, and stands as - among the seeds.",
        main_table(summary),
        "## By kind of episode, 4 shots",
        split_table(summary),
        "## Differences, paired by seed and episode",
        difference_table(summary),
        "## Settings of stage 1",
        settings_table(summary),
    ]
    return to_markdown(parts)


def main_table(summary: Mapping[str, Any]) -> str:
    """The paper's arms on unseen identities, beside what the paper reports, and the arm that learns from nothing."""
    rows = [["", "1 shot", "2 shots", "4 shots", "paper, TAO, 4 shots (published, other data)"]]
    for arm, cells in summary["arms"].items():
        if ARMS[arm].is_paper or arm == "shuffled":
            own = [_figure(summary, cells.get(cell(MAIN_SPLIT, shots))) for shots in SPLITS[MAIN_SPLIT].shots]
            rows.append([ARMS[arm].title, *own, f"{PUBLISHED[arm]:.1f}" if arm in PUBLISHED else ""])
    return markdown_table(rows)


def split_table(summary: Mapping[str, Any]) -> str:
    """The paper's arms on all splits."""
    rows = [["", *(split.title for split in SPLITS.values())]]
    for arm, cells in summary["arms"].items():
        if ARMS[arm].is_paper:
            rows.append([ARMS[arm].title, *(_figure(summary, cells.get(cell(name, SHOTS))) for name in SPLITS)])
    return markdown_table(rows)


def difference_table(summary: Mapping[str, Any]) -> str:
    """What the claims come to."""
    rows = [["", "difference", "by seed"]]
    for name, value in summary["differences"].items():
        rows.append([name, figure(value, signed=True), _by_seed(summary, value, "+.1f")])
    return markdown_table(rows)


def settings_table(summary: Mapping[str, Any]) -> str:
    """The other arms, beside the one that they vary."""
    rows = [["", "4 shots, unseen identities", "by seed", f"against {ARMS[DEFAULT_ARM].title}", "supports shuffled"]]
    for arm, cells in summary["arms"].items():
        if ARMS[arm].stage == "sft":
            main = cells[MAIN_CELL]
            difference = figure(summary["against_default"].get(arm), signed=True)
            shuffled = figure(cells.get(cell("shuffled", SHOTS)))
            rows.append([ARMS[arm].title, figure(main), _by_seed(summary, main, ".1f"), difference, shuffled])
    return markdown_table(rows)


def _figure(summary: Mapping[str, Any], value: Mapping[str, Any] | None) -> str:
    """A figure that says so where it rests on fewer seeds than the study has."""
    count = len(value["seeds"]) if value is not None else 0
    if count in (0, len(summary["study"]["seeds"])):
        return figure(value)
    return f"{figure(value)} ({count} seed{'s' * (count > 1)})"


def _by_seed(summary: Mapping[str, Any], value: Mapping[str, Any], style: str) -> str:
    means = value["seeds"]
    return ", ".join(
        format(100 * means[seed], style) if seed in means else "-" for seed in map(str, summary["study"]["seeds"])
    )
