"""The report of a benchmark of rewards: curves, scores with intervals, differences, pictures, and a verdict if any.

Axis letters: R seeds, N validation episodes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from focus_agents.reports.documents import code, picture, plain, to_markdown, write_document
from focus_agents.reports.plotting import Series, plot_bands, read_series
from focus_agents.reports.tables import figure, markdown_table
from focus_agents.runs.files import write_json
from focus_agents.runs.folder import RunDirectory
from focus_agents.studies.rewards.runs import START, RewardStudy
from focus_agents.studies.rewards.verdict import is_control, verdict
from focus_env.intervals import seeds_bootstrap_interval
from focus_env.metrics import ScoredAnswer
from focus_env.rendering import ANSWER_COLOURS, TARGET_COLOUR, render_episode, stack_rows, write_picture
from focus_env.types import Box

REPORT_NAME = "rewards_report"
NUM_SHOWN_EPISODES = 6
LAST_SHARE = 0.1
"""Fraction of the iterations, at the end, over which the figures of sampled answers are averaged."""


def share_of_picture(answer: ScoredAnswer, box: Box | None) -> float:
    """Return the area of a box as a fraction of the query image; 0 without a box, or if the image's size is unknown."""
    if box is None or answer.image_wh is None:
        return 0.0
    return (box.x2 - box.x1) * (box.y2 - box.y1) / math.prod(answer.image_wh)


ANSWER_METRICS: Mapping[str, tuple[str, Callable[[ScoredAnswer], float]]] = {
    "miou": ("mIoU", lambda answer: answer.credit),
    "acc_50": ("acc@0.5", lambda answer: answer.credit >= 0.5),
    "acc_75": ("acc@0.75", lambda answer: answer.credit >= 0.75),
    "parse_rate": ("parsed", lambda answer: answer.is_parsed),
    "whole_image_rate": ("whole image", lambda answer: answer.is_whole_image),
    "copy_rate": ("copies", lambda answer: answer.is_support_copy),
    "size": ("box size", lambda answer: share_of_picture(answer, answer.box)),
}
"""Columns of greedy answers to validation episodes: the heading, and the value of an answer."""

SAMPLED_METRICS: Mapping[str, str] = {
    "miou": "sampled mIoU, at the end",
    "zero_variance_rate": "groups without variance",
}
"""Metrics of sampled answers, in `runs.metrics.METRICS`: the first over the last iterations, the other over all."""

COMPARED = ("miou", "acc_75")
CURVES_CAPTION = "Means over the seeds, with a band from the lowest to the highest"
SHEET_CAPTION = "The first validation episodes, answered by the model of each reward's first seed"
SAMPLED_CURVES: Mapping[str, str] = {
    "miou": "mIoU of sampled answers",
    "zero_variance_rate": "share of groups without variance",
}
VALIDATION_TITLE = "mIoU of greedy answers, validation"

Answers = Mapping[str, Sequence[Sequence[ScoredAnswer]]]
"""[R][N] answers by reward; those before training under `START`."""


def read_answers(study: RewardStudy) -> Answers:
    """Read the validation answers of all runs."""
    folders = {name: [RunDirectory(study.run(name, seed).folder) for seed in study.seeds] for name in study.rewards}
    first = next(iter(folders.values()))
    return {START: [run.read_answers("before") for run in first]} | {
        name: [run.read_answers("after") for run in runs] for name, runs in folders.items()
    }


def summarize_study(study: RewardStudy) -> dict[str, Any]:
    """Return all figures of the report, fractions and means from 0 to 1, with 95% intervals over seeds and episodes.

    `differences` are of all pairs except those of two controls, unless there are no other pairs. Their intervals hold
    together: with `n` pairs each has a confidence of 1 - 0.05 / n (Bonferroni).
    """
    answers = read_answers(study)
    values = {
        name: {metric: _values(runs, value) for metric, (_, value) in ANSWER_METRICS.items()}
        for name, runs in answers.items()
    }
    controls = [name for name, spec in study.rewards.items() if is_control(spec)]
    all_pairs = list(itertools.combinations(study.rewards, 2))
    pairs = [pair for pair in all_pairs if not set(pair) <= set(controls)] or all_pairs
    return {
        "rewards": dict(study.rewards),
        "controls": controls,
        "seeds": list(study.seeds),
        "num_iterations": study.plan.settings.num_iterations,
        "num_validation_episodes": len(next(iter(answers.values()))[0]),
        "start": study.plan.model.model,
        "target_size": float(np.mean([share_of_picture(each, each.target_box) for each in answers[START][0]])),
        "scores": {
            name: {metric: _describe(array) for metric, array in metrics.items()} for name, metrics in values.items()
        },
        "sampled": {name: _sampled(study, name) for name in study.rewards},
        "differences": [
            {
                "metric": metric,
                "from": first,
                "to": second,
                **_describe(values[second][metric] - values[first][metric], confidence=1 - 0.05 / len(pairs)),
            }
            for metric in COMPARED
            for first, second in pairs
        ],
    }


def _values(runs: Sequence[Sequence[ScoredAnswer]], value: Callable[[ScoredAnswer], float]) -> npt.NDArray[np.float64]:
    """Return the value of each answer, [R, N]."""
    return np.array([[float(value(answer)) for answer in answers] for answers in runs])


def _describe(values: npt.NDArray[np.float64], *, confidence: float = 0.95) -> dict[str, Any]:
    """Return the mean, its interval over seeds and episodes, and the means by seed."""
    low, high = seeds_bootstrap_interval(values, confidence=confidence)
    return {
        "mean": float(values.mean()),
        "interval": [low, high],
        "seeds": [float(mean) for mean in values.mean(axis=1)],
    }


def _sampled(study: RewardStudy, name: str) -> dict[str, list[float]]:
    """Return the means by seed of `SAMPLED_METRICS`, the metrics of sampled answers."""
    found: dict[str, list[float]] = {metric: [] for metric in SAMPLED_METRICS}
    for seed in study.seeds:
        lines = RunDirectory(study.run(name, seed).folder).read_steps()
        last = lines[-max(1, round(LAST_SHARE * len(lines))) :]
        found["miou"].append(float(np.mean([line["miou"] for line in last])))
        found["zero_variance_rate"].append(float(np.mean([line["zero_variance_rate"] for line in lines])))
    return found


def write_report(study: RewardStudy, folder: Path, *, command: str) -> Path:
    """Write the report as Markdown and HTML, its figures as JSON, and its pictures.

    Args:
        study: A study whose runs are all done.
        folder: The folder of the files.
        command: The command of the study, shown in the report.

    Returns:
        The Markdown file; the HTML file lies beside it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summary = summarize_study(study)
    write_json(folder / f"{REPORT_NAME}.json", summary)
    curves, sheet = (folder / f"{REPORT_NAME}_{name}.png" for name in ("curves", "answers"))
    plot_bands(_curves(study), curves)
    _draw_answers(study, sheet)
    report = folder / f"{REPORT_NAME}.md"
    write_document(report, render_report(summary, curves, sheet, command=command))
    return report


def _curves(study: RewardStudy) -> dict[str, dict[str, list[Series]]]:
    """Return a series for each seed, by panel and reward."""
    window = max(1, study.plan.settings.num_iterations // 12)
    panels: dict[str, dict[str, list[Series]]] = {title: {} for title in (*SAMPLED_CURVES.values(), VALIDATION_TITLE)}
    answers = read_answers(study)
    for name in study.rewards:
        for position, seed in enumerate(study.seeds):
            lines = RunDirectory(study.run(name, seed).folder).read_steps()
            for metric, title in SAMPLED_CURVES.items():
                panels[title].setdefault(name, []).append(read_series(lines, metric, window))
            found = {0: answers[START][position], study.plan.settings.num_iterations: answers[name][position]}
            points = {step: float(np.mean([answer.credit for answer in given])) for step, given in found.items()}
            points |= {line["iteration"]: line["validation_miou"] for line in lines if "validation_miou" in line}
            steps = np.array(sorted(points), dtype=np.float64)
            panels[VALIDATION_TITLE].setdefault(name, []).append((steps, np.array([points[step] for step in steps])))
    return panels


def render_report(summary: Mapping[str, Any], curves: Path, sheet: Path, *, command: str) -> str:
    """Write the report in Markdown, in the order of reading."""
    num_pairs = len(summary["differences"]) // len(COMPARED)
    parts = [
        "# Rewards, compared by what they train",
        verdict(summary),
        f"Written by {code(command)}: {summary['num_iterations']} iterations of GRPO from {plain(summary['start'])}, "
        f"seeds {', '.join(map(str, summary['seeds']))}, one greedy answer to each of "
        f"{summary['num_validation_episodes']} validation episodes. Intervals are over seeds and episodes; with "
        "few seeds they say that other seeds would hardly turn the sign, and little more.",
        "## What was trained on",
        markdown_table([["name", "reward", ""], *_reward_rows(summary)]),
        "A control pays for something else than right boxes. A study that cannot tell a reward from it says nothing of "
        "that reward.",
        "## After training",
        markdown_table(score_rows(summary)),
        "All * 100. Whole images and copies of a support's box are what earns some IoU without looking. Box size is "
        f"the share of the picture that an answer covers, 0 without a box; the targets cover "
        f"{100 * summary['target_size']:.1f}. What was sampled has the mean of the seeds, and the lowest and the "
        "highest of them.",
        "## Learning curves",
        picture(curves, CURVES_CAPTION),
        "## Differences, paired by seed and episode",
        markdown_table(_difference_rows(summary)),
        f"In points of 100; the {num_pairs} intervals of a measure hold together with 95% confidence (Bonferroni).",
        "## Answers",
        picture(sheet, SHEET_CAPTION),
    ]
    return to_markdown(parts)


def _reward_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    return [[name, spec, "control" * (name in summary["controls"])] for name, spec in summary["rewards"].items()]


def score_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Return the heading, a row for the start, and a row for each reward."""
    heads = [head for head, _ in ANSWER_METRICS.values()]
    rows = [["", *heads, *SAMPLED_METRICS.values()]]
    for name, scores in summary["scores"].items():
        sampled = summary["sampled"].get(name, {})
        ranges = [_range(sampled[metric]) if metric in sampled else "" for metric in SAMPLED_METRICS]
        rows.append([name, *(figure(scores[metric]) for metric in ANSWER_METRICS), *ranges])
    return rows


def _difference_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    rows = [["", "measure", "difference", "by seed"]]
    for found in summary["differences"]:
        head = ANSWER_METRICS[found["metric"]][0]
        by_seed = ", ".join(f"{100 * mean:+.1f}" for mean in found["seeds"])
        rows.append([f"{found['to']} against {found['from']}", head, figure(found, signed=True), by_seed])
    return rows


def _range(values: Sequence[float]) -> str:
    """Write the mean over seeds, with the lowest and the highest seed."""
    return f"{100 * np.mean(values):.1f} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def _draw_answers(study: RewardStudy, path: Path) -> None:
    """Draw validation episodes with the truth and an answer of each reward's model."""
    episodes, answers = study.plan.validation_episodes, read_answers(study)
    colours = dict(zip(study.rewards, itertools.cycle(ANSWER_COLOURS), strict=False))
    rows = [
        render_episode(
            episodes[index], [(name, answers[name][0][index].box, colour) for name, colour in colours.items()]
        )
        for index in range(min(NUM_SHOWN_EPISODES, len(answers[START][0])))
    ]
    write_picture(path, stack_rows(rows, legend=[("truth", TARGET_COLOUR), *colours.items()]))
