"""Sheets of pictures: which answers are shown, and what is drawn."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focus_agents.evaluation.records import Cell
from focus_agents.evaluation.results import ResultsFolder
from focus_agents.evaluation.sheets import choose_shown, draw_sheet, write_sheet
from focus_env.rendering import ANSWER_COLOUR, render_episode, stack_rows
from focus_env.types import Box
from tests.answers import scored
from tests.fakes import FakeDataset
from tests.focus_agents.evaluation.cells import fill


def with_ious(path: Path, *ious: float, num_failed: int = 0) -> tuple[ResultsFolder, Cell]:
    answers = [scored(iou, index=index) for index, iou in enumerate(ious)]
    return fill(path, "mine", "fake", 2, answers, num_failed=num_failed)


class TestSheets:
    """The best, the worst and some others."""

    def chosen(self, path: Path, *ious: float, num_shown: int = 2, seed: int = 0) -> dict[str, list[int]]:
        results, cell = with_ious(path, *ious)
        found: dict[str, list[int]] = {"best": [], "worst": [], "random": []}
        for kind, record in choose_shown(results.read(cell), num_shown=num_shown, seed=seed):
            found[kind].append(record.index)
        return found

    def test_by_hand(self, tmp_path: Path) -> None:
        found = self.chosen(tmp_path, 0.5, 0.1, 0.9, 0.5, 0.0, 0.9, 0.6, 0.4)
        assert (found["best"], found["worst"]) == ([2, 5], [4, 1])
        assert set(found["random"]) < {0, 3, 6, 7}
        assert found["random"] == sorted(found["random"])
        assert len(found["random"]) == 2

    def test_random_ones_depend_on_the_seed_alone(self, tmp_path: Path) -> None:
        results, cell = with_ious(tmp_path, *np.linspace(0, 1, 40))
        records = results.read(cell)
        picks = [[record.index for _, record in choose_shown(records, seed=seed)] for seed in (0, 0, 1)]
        assert picks[0] == picks[1] != picks[2]

    @pytest.mark.parametrize(
        ("num", "expected"), [(1, (1, 0, 0)), (2, (2, 0, 0)), (3, (2, 1, 0)), (5, (2, 2, 1)), (9, (2, 2, 2))]
    )
    def test_few_episodes(self, tmp_path: Path, num: int, expected: tuple[int, int, int]) -> None:
        found = self.chosen(tmp_path, *[0.5] * num)
        assert tuple(len(indices) for indices in found.values()) == expected
        shown = [index for indices in found.values() for index in indices]
        assert len(set(shown)) == len(shown)

    def test_what_is_drawn(self, tmp_path: Path) -> None:
        results, cell = with_ious(tmp_path, 0.25, 0.75, num_failed=1)
        episodes = FakeDataset(2)
        write_sheet(results, cell, episodes)
        rows = [
            render_episode(episodes[index], [("answer", Box(1.5, 2.0, 30.0, 41.25), ANSWER_COLOUR)]) for index in (1, 0)
        ]
        titles = ["best: episode 1, score 0.75, 'text 1'", "best: episode 0, score 0.25, failed: too late"]
        with Image.open(results.path / "sheets" / "mine__fake__2-shot.png") as sheet:
            np.testing.assert_array_equal(np.array(sheet), stack_rows(rows, titles))

    def test_long_answers_do_not_widen_the_sheet(self, tmp_path: Path) -> None:
        results, cell = with_ious(tmp_path, 0.5)
        ((kind, record),) = choose_shown(results.read(cell))
        sheets = [draw_sheet([(kind, dataclasses.replace(record, text="x" * num))], FakeDataset()) for num in (80, 999)]
        np.testing.assert_array_equal(sheets[0], sheets[1])

    def test_nothing_to_draw(self, tmp_path: Path) -> None:
        results, cell = fill(tmp_path, "mine", "fake", 2, [], num_expected=2)
        write_sheet(results, cell, FakeDataset())
        assert list((tmp_path / "sheets").iterdir()) == []
