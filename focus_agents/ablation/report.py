"""What the runs of an ablation say: tables with intervals, curves, and pictures of answers and of attention."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from focus_agents.ablation.arms import ARMS, BASE, MAIN_SPLIT, PUBLISHED, SPLITS
from focus_agents.ablation.runs import Study, cell, cell_episodes, plan_run, read_evaluation, split_episodes
from focus_agents.plotting import plot_runs
from focus_agents.policies.focus import FocusPolicy
from focus_agents.reporting import RunDirectory
from focus_agents.tables import figure, markdown_table
from focus_env.boxes import box_iou
from focus_env.metrics import seeds_bootstrap_interval
from focus_env.rendering import render_localization, stack_rows

REPORT_NAME = "ablation"
SHOTS = 4
SHOWN_ARMS = ("sft", "attention")
NUM_SHOWN_EPISODES = 1

CLAIMS: Sequence[tuple[str, tuple[str, str], tuple[str, str]]] = (
    ("attention loss above plain SFT", ("sft", "unseen/4"), ("attention", "unseen/4")),
    ("GRPO on top of that", ("attention", "unseen/4"), ("attention-grpo", "unseen/4")),
    ("GRPO without the attention loss", ("sft", "unseen/4"), ("sft-grpo", "unseen/4")),
    ("four shots against one, attention loss", ("attention", "unseen/1"), ("attention", "unseen/4")),
    ("supports against shuffled ones, attention loss", ("attention", "shuffled/4"), ("attention", "unseen/4")),
    ("supports against shuffled ones, plain SFT", ("sft", "shuffled/4"), ("sft", "unseen/4")),
    ("two shots against one, final model", ("attention-grpo", "unseen/1"), ("attention-grpo", "unseen/2")),
    ("four shots against one, final model", ("attention-grpo", "unseen/1"), ("attention-grpo", "unseen/4")),
    ("supports against shuffled ones, final model", ("attention-grpo", "shuffled/4"), ("attention-grpo", "unseen/4")),
    ("trained on shuffled supports, against plain SFT", ("shuffled", "unseen/4"), ("sft", "unseen/4")),
)
"""What is compared: a name, and (arm, cell) before and after."""

Scores = Mapping[str, Mapping[str, npt.NDArray[np.float64]]]
"""By arm and cell, [seeds, episodes] IoU."""


def read_scores(study: Study) -> Scores:
    """The scores of all arms that were run."""
    wanted = {name for arm in study.arms for name in (*_ancestors(arm), arm)}
    arms = [arm for arm in ARMS if arm in wanted]
    scores = {}
    for arm in arms:
        runs = [read_evaluation(plan_run(study, arm, seed)) for seed in study.seeds]
        scores[arm] = {key: np.array([run[key][: _num_episodes(study, key)] for run in runs]) for key in runs[0]}
    return scores


def _num_episodes(study: Study, key: str) -> int:
    name, shots = key.split("/")
    return cell_episodes(study, name, int(shots))


def _ancestors(arm: str) -> list[str]:
    return [] if arm == BASE else [*_ancestors(ARMS[arm].parent), ARMS[arm].parent]


def summarize_scores(study: Study, scores: Scores) -> dict[str, Any]:
    """All figures of the report, mIoU from 0 to 1: means, each seed's mean, 95% intervals over seeds and episodes."""

    def describe(values: npt.NDArray[np.float64]) -> dict[str, Any]:
        low, high = seeds_bootstrap_interval(values)
        by_seed = [round(float(mean), 4) for mean in values.mean(1)]
        return {"mean": round(float(values.mean()), 4), "interval": [round(low, 4), round(high, 4)], "seeds": by_seed}

    claims = {}
    for name, before, after in CLAIMS:
        if all(arm in scores and key in scores[arm] for arm, key in (before, after)):
            old, new = scores[before[0]][before[1]], scores[after[0]][after[1]]
            shared = min(old.shape[1], new.shape[1])  # cells begin with the same queries
            claims[name] = describe(new[:, :shared] - old[:, :shared])
    return {
        "study": {
            "seeds": list(study.seeds),
            "num_sft_steps": study.num_sft_steps,
            "num_grpo_iterations": study.num_grpo_iterations,
            "num_episodes": study.num_episodes,
        },
        "arms": {arm: {key: describe(values) for key, values in cells.items()} for arm, cells in scores.items()},
        "differences": claims,
    }


def write_report(study: Study, folder: Path) -> Path:
    """Write `ablation.json`, `ablation.md` and its curves.

    Returns:
        The Markdown file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summary = summarize_scores(study, read_scores(study))
    (folder / f"{REPORT_NAME}.json").write_text(json.dumps(summary, indent=1) + "\n")
    _draw_curves(study, summary, folder)
    _draw_answers(study, summary, folder)
    report = folder / f"{REPORT_NAME}.md"
    report.write_text(render_report(summary))
    return report


def _draw_curves(study: Study, summary: Mapping[str, Any], folder: Path) -> None:
    """Sample efficiency of stage 1, rewards of stage 2."""
    for stage, metrics in (("sft", ("lm_loss", "validation_miou")), ("grpo", ("reward", "validation_miou"))):
        shown = [arm for arm in summary["arms"] if ARMS[arm].is_paper or arm == "shuffled"]
        arms = [arm for arm in shown if ARMS[arm].stage == stage]
        runs = {ARMS[arm].title: [plan_run(study, arm, seed).folder for seed in study.seeds] for arm in arms}
        lines = [line for folders in runs.values() for path in folders for line in RunDirectory(path).read_metrics()]
        # The shortest runs end before they validate.
        logged = [metric for metric in metrics if any(line.get(metric) is not None for line in lines)]
        if logged:
            plot_runs(runs, logged, folder / f"{REPORT_NAME}_{stage}.png", window=10)


def _draw_answers(study: Study, summary: Mapping[str, Any], folder: Path) -> None:
    """Answers, and where they look, without and with the attention loss, to the first test episodes."""
    rows, titles = [], []
    arms = [arm for arm in SHOWN_ARMS if arm in summary["arms"]]
    policies = {arm: FocusPolicy.from_pretrained(plan_run(study, arm, study.seeds[0]).model) for arm in arms}
    episodes = split_episodes(MAIN_SPLIT, 2, NUM_SHOWN_EPISODES)
    for index, (arm, policy) in itertools.product(range(NUM_SHOWN_EPISODES), policies.items()):
        episode = episodes[index]
        supports = [(exemplar.frame.image(), exemplar.box) for exemplar in episode.support]
        query = episode.query_frame.image()
        found = policy.locate(supports, query, with_attention=True)
        rows.append(render_localization(supports, query, found.box, found.attention))
        titles.append(f"{ARMS[arm].title}: IoU {box_iou(found.box, episode.target_box):.2f}")
    if rows:
        Image.fromarray(stack_rows(rows, titles, legend=[])).save(folder / f"{REPORT_NAME}_answers.png")


def render_report(summary: Mapping[str, Any]) -> str:
    """The tables in Markdown."""
    study = summary["study"]
    has_grpo = any(ARMS[arm].stage == "grpo" for arm in summary["arms"])
    grpo = f", {study['num_grpo_iterations']} iterations of stage 2" if has_grpo else ""
    parts = [
        "# The paper's ablation on synthetic scenes",
        f"Written by `experiments/ablation.py`: seeds {', '.join(map(str, study['seeds']))}; {study['num_sft_steps']} "
        f"steps of stage 1{grpo}; {study['num_episodes']} episodes a cell, four times as many for "
        f"{SPLITS[MAIN_SPLIT].title} at {SHOTS} shots. mIoU * 100, where "
        "unreadable answers count 0, with 95% intervals over seeds and episodes.",
        main_table(summary),
        "## By kind of episode, 4 shots",
        split_table(summary),
        "## Differences, paired by seed and episode",
        difference_table(summary),
        "## Settings of stage 1",
        settings_table(summary),
    ]
    return "\n\n".join(parts) + "\n"


def main_table(summary: Mapping[str, Any]) -> str:
    """The paper's arms on unseen identities, beside what the paper reports."""
    rows = [["", "1 shot", "2 shots", "4 shots", "paper, TAO, 4 shots (published, other data)"]]
    for arm, cells in _paper_arms(summary).items():
        own = [figure(cells.get(cell(MAIN_SPLIT, shots))) for shots in SPLITS[MAIN_SPLIT].shots]
        rows.append([ARMS[arm].title, *own, f"{PUBLISHED[arm]:.1f}" if arm in PUBLISHED else ""])
    if "shuffled" in summary["arms"]:
        cells = summary["arms"]["shuffled"]
        own = [figure(cells.get(cell(MAIN_SPLIT, shots))) for shots in SPLITS[MAIN_SPLIT].shots]
        rows.append([ARMS["shuffled"].title, *own, ""])
    return markdown_table(rows)


def split_table(summary: Mapping[str, Any]) -> str:
    """The paper's arms on all splits."""
    rows = [["", *(split.title for split in SPLITS.values())]]
    for arm, cells in _paper_arms(summary).items():
        rows.append([ARMS[arm].title, *(figure(cells.get(cell(name, SHOTS))) for name in SPLITS)])
    return markdown_table(rows)


def difference_table(summary: Mapping[str, Any]) -> str:
    """What the claims come to."""
    rows = [["", "difference", "by seed"]]
    for name, value in summary["differences"].items():
        by_seed = ", ".join(f"{100 * mean:+.1f}" for mean in value["seeds"])
        low, high = value["interval"]
        rows.append([name, f"{100 * value['mean']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]", by_seed])
    return markdown_table(rows)


def settings_table(summary: Mapping[str, Any]) -> str:
    """The other arms, beside those that they vary."""
    rows = [["", "4 shots, unseen identities", "by seed", "supports shuffled"]]
    varied = [arm for arm in summary["arms"] if ARMS[arm].stage == "sft"]
    for arm in varied:
        cells = summary["arms"][arm]
        main = cells[cell(MAIN_SPLIT, SHOTS)]
        by_seed = ", ".join(f"{100 * mean:.1f}" for mean in main["seeds"])
        rows.append([ARMS[arm].title, figure(main), by_seed, figure(cells.get(cell("shuffled", SHOTS)))])
    return markdown_table(rows)


def _paper_arms(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {arm: cells for arm, cells in summary["arms"].items() if ARMS[arm].is_paper}
