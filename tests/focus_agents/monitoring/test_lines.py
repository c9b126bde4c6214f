"""Lines and tables about answers."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
from rich.console import Console

from focus_agents.monitoring.lines import answers_table, scores_table, show_validation
from focus_env.metrics import ScoredAnswer
from focus_env.types import Box, ParseStatus


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
