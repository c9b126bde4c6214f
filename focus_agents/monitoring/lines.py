"""Lines about answers, for the terminal: a validation in a sentence, the best and the worst answers as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TypeVar

from rich.cells import cell_len, set_cell_size
from rich.console import Console

from focus_agents.rollout.records import RolloutGroup
from focus_agents.runs.terminal import width_of
from focus_env.metrics import ScoredAnswer, summarize

T = TypeVar("T")

NUM_SHOWN = 3
"""Best and worst answers each."""
INDENT = 7
"""Of tables, below the line that they belong to."""
LEAST_WIDTH = 8
"""Of a column that is cut."""


def describe_validation(answers: Sequence[ScoredAnswer]) -> str:
    """Return what a person reads of a validation."""
    scores = summarize(answers)
    line = f"validation mIoU {scores['miou_all']:.3f}, parsed {scores['parse_rate']:.0%} of {len(answers)} answers"
    if "absent_rate" not in scores:
        return line
    num_absent = round(scores["absent_rate"] * len(answers))
    line += f", {scores['absent_recall']:.0%} of {num_absent} absent targets called absent"
    return line + (f", F1 {scores['f1_50']:.3f}" if "f1_50" in scores else "")


def show(console: Console, text: str, *, style: str | None = None) -> None:
    """Print a text as it is, on whatever console; nothing of an empty one."""
    if text:
        console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def show_validation(when: str, answers: Sequence[ScoredAnswer], console: Console, *, is_verbose: bool) -> None:
    """Print a validation in a line, and its best and worst answers below it if `is_verbose`."""
    show(console, f"{when}: {describe_validation(answers)}")
    if is_verbose:
        show(console, scores_table(answers, width=width_of(console)))


def answers_table(groups: Sequence[RolloutGroup], num_shown: int = NUM_SHOWN, *, width: int | None = None) -> str:
    """Return the best and the worst sampled answers of an iteration, by their rewards.

    Args:
        groups: What was sampled.
        num_shown: How many of each; of equal ones the first.
        width: Characters of a line of the terminal, whose columns are left out, and the text cut, until they fit; None:
            all are there.

    Returns:
        A heading and a line for each answer: its reward, what each term of it is worth, its IoU, how it was read, its
        episode and its text as a JSON string, in which no character breaks the line. Empty without answers.
    """
    found = [(group, position) for group in groups for position in range(len(group.answers))]
    found.sort(key=lambda item: -float(item[0].rewards[item[1]]))
    terms = list(dict.fromkeys(name for group in groups for each in group.reward_terms for name in each))
    rows = [["", "reward", *terms, "IoU", "status", "episode", "text"]]
    for which, (group, position) in _both_ends(found, num_shown):
        answer, values = group.answers[position], group.reward_terms[position]
        rows.append(
            [
                which,
                f"{group.rewards[position]:.3f}",
                *(f"{values[name]:.2f}" if name in values else "" for name in terms),
                f"{answer.iou:.2f}",
                str(answer.status),
                answer.episode_id,
                json.dumps(group.generation.completions[position].text, ensure_ascii=False),
            ]
        )
    return _aligned(rows, width, ["episode", *reversed(terms), "status"])


def scores_table(answers: Sequence[ScoredAnswer], num_shown: int = NUM_SHOWN, *, width: int | None = None) -> str:
    """Return the best and the worst answers of a validation, by IoU, in the manner of `answers_table`."""
    rows = [["", "IoU", "status", "episode", "box", "target"]]
    found = sorted(answers, key=lambda answer: -answer.credit)
    for which, answer in _both_ends(found, num_shown):
        boxes = ("" if box is None else " ".join(f"{value:.0f}" for value in box) for box in _boxes(answer))
        rows.append([which, f"{answer.credit:.2f}", str(answer.status), answer.episode_id, *boxes])
    return _aligned(rows, width, ["episode", "status"])


def _boxes(answer: ScoredAnswer) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    return answer.box, answer.target_box


def _both_ends(found: Sequence[T], num_shown: int) -> list[tuple[str, T]]:
    """Return the first and the last of a sorted list, each once, with what they are."""
    best = list(found[:num_shown])
    worst = list(found[max(len(best), len(found) - num_shown) :])
    return [*(("best", each) for each in best), *(("worst", each) for each in worst)]


def _aligned(rows: Sequence[Sequence[str]], width: int | None, dispensable: Sequence[str]) -> str:
    """Return rows below one another; none if there is a heading alone.

    Args:
        rows: The first one has the names of the columns.
        width: As of `answers_table`.
        dispensable: Columns that are left out where they do not fit, the first one first; then the last column is cut.
    """
    if len(rows) < 2:
        return ""
    columns = [*zip(*rows, strict=True)]
    leaving, indent = [*dispensable], INDENT
    while width is not None and _width(columns, indent) > width and (indent > 1 or leaving):
        if indent > 1:
            indent = 1
        else:
            del columns[[column[0] for column in columns].index(leaving.pop(0))]
    widths = [max(map(cell_len, column)) for column in columns]
    if width is not None and (excess := _width(columns, indent) - width) > 0:
        widths[-1] = max(LEAST_WIDTH, widths[-1] - excess)
    lines = ["  ".join(map(_cell, row, widths)) for row in zip(*columns, strict=True)]
    return "\n".join(f"{' ' * indent}{line.rstrip()}" for line in lines)


def _width(columns: Sequence[Sequence[str]], indent: int) -> int:
    return indent + sum(max(map(cell_len, column)) for column in columns) + 2 * (len(columns) - 1)


def _cell(text: str, width: int) -> str:
    """Return a text as wide as its column, cut if need be."""
    return set_cell_size(text, width) if cell_len(text) <= width else f"{set_cell_size(text, width - 1)}…"
