"""Lines and tables about answers."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from focus_agents.monitoring.lines import answers_table, describe_validation, scores_table, show_validation
from focus_env.metrics import ScoredAnswer
from focus_env.types import Box, ParseStatus
from tests.answers import scored


def answer(name: str, iou: float) -> ScoredAnswer:
    return ScoredAnswer(
        episode_id=name, status=ParseStatus.OK, is_strict=True, box=Box(1, 2, 3, 4), target_box=Box(0, 0, 9, 9),
        iou=iou, is_whole_image=False, is_support_copy=False,
    )  # fmt: skip


def group(name: str, *rewards: float, text: str = "<answer>") -> Any:
    completions = tuple(SimpleNamespace(text=f"{text}{reward}") for reward in rewards)
    return SimpleNamespace(
        rewards=np.array(rewards),
        reward_terms=tuple({"iou": reward} for reward in rewards),
        answers=tuple(answer(name, reward) for reward in rewards),
        generation=SimpleNamespace(completions=completions),
    )


def test_the_best_and_the_worst_answers_are_shown_once_each_in_a_line() -> None:
    table = answers_table([group("a", 0.1, 0.9), group("b", 0.5, 0.3, text="two\nlines [red]")], num_shown=1)
    head, best, worst = table.splitlines()
    assert head.split() == ["reward", "iou", "IoU", "status", "episode", "text"]
    assert best.split() == ["best", "0.900", "0.90", "0.90", "ok", "a", '"<answer>0.9"']
    assert worst.split() == ["worst", "0.100", "0.10", "0.10", "ok", "a", '"<answer>0.1"']
    all_four = answers_table([group("a", 0.1, 0.9), group("b", 0.5, 0.3, text="two\nlines [red]")])
    assert [line.split()[:2] for line in all_four.splitlines()[1:]] == [
        ["best", "0.900"], ["best", "0.500"], ["best", "0.300"], ["worst", "0.100"],
    ]  # fmt: skip
    assert '"two\\nlines [red]0.5"' in all_four
    assert answers_table([]) == scores_table([]) == ""


def test_a_validation_is_a_line_and_its_answers_follow_where_they_are_asked_for() -> None:
    answers = [answer("a", 0.25), answer("b", 0.75)]
    for is_verbose in (False, True):
        console = Console(file=io.StringIO(), width=30, force_terminal=True)
        show_validation("before", answers, console, is_verbose=is_verbose)
        assert isinstance(console.file, io.StringIO)
        first, *rest = console.file.getvalue().splitlines()  # without a colour, and not wrapped
        assert first == "before: validation mIoU 0.500, parsed 100% of 2 answers"
        assert [line.split()[:2] for line in rest[1:]] == ([["best", "0.75"], ["best", "0.25"]] if is_verbose else [])


def test_a_validation_says_how_many_absent_targets_were_called_absent() -> None:
    gone: dict[str, Any] = {"target_box": None}
    answers = [
        scored(0.75),
        scored(0.0, status=ParseStatus.ABSENT, **gone),
        scored(0.0, **gone),
    ]
    assert describe_validation(answers) == (
        "validation mIoU 0.583, parsed 100% of 3 answers, 50% of 2 absent targets called absent, F1 0.667"
    )
    assert describe_validation(answers[1:]).endswith("parsed 100% of 2 answers, 50% of 2 absent targets called absent")


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120])
def test_tables_fit_the_terminal_without_what_matters_least(width: int) -> None:
    text = "<answer>[250, 167, 750, 667]</answer>\N{CJK UNIFIED IDEOGRAPH-4E2D}"
    tables = (
        answers_table([group("synthetic/train/level3/seed0/176879", 0.1, 0.9, 0.5, text=text)], width=width),
        scores_table([answer("synthetic/train/level3/seed0/176879", 0.25)], width=width),
    )
    for table in tables:
        lines = table.splitlines()
        assert max(map(cell_len, lines)) <= width
        assert lines[0].split()[0] in ("reward", "IoU")
        assert len({line.split()[0] for line in lines[1:]} - {"best", "worst"}) == 0
    assert ("<answer>[250, 167, 750, 667]" in tables[0]) == (width >= 60)
    assert "0.900" in tables[0]
    assert "1 2 3 4  0 0 9 9" in tables[1]


def test_a_table_elsewhere_is_whole() -> None:
    table = answers_table([group("synthetic/train/level3/seed0/176879", 0.1, text="<answer>" * 40)])
    assert "<answer>" * 40 in table
    assert "synthetic/train/level3/seed0/176879" in table
