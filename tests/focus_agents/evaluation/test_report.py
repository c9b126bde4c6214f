"""Reports of evaluations: figures worked out by hand, the paper's layout, its rows, and the pictures."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from focus_agents.evaluation.published import TABLES
from focus_agents.evaluation.report import (
    detail_rows,
    published_rows,
    render_markdown,
    report_notes,
    report_tables,
    score_rows,
    summarize_folder,
    write_report,
)
from focus_agents.evaluation.results import AnswerRecord, Cell, ResultsFolder
from focus_agents.evaluation.sheets import choose_shown, draw_sheet, write_sheet
from focus_agents.reports.tables import text_table
from focus_env.metrics import ScoredAnswer
from focus_env.rendering import ANSWER_COLOUR, render_episode, stack_rows
from focus_env.types import Box, ParseStatus
from tests.answers import UNREADABLE, scored
from tests.fakes import FakeDataset

PUBLISHED = """
Idefics3      | 6.8 15.0 25.5  | 9.3 21.2 32.3  | 3.6 8.7 14.7   | 15.2
Pixtral-12B   | 8.2 22.7 16.8  | 13.9 19.4 23.7 | 4.6 7.6 22.4   | 15.5
LLaVA-OV      | 22.5 29.5 33.5 | 18.6 26.4 33.7 | 10.8 14.1 17.7 | 23.0
Qwen2-VL-7B   | 26.0 31.6 36.1 | 36.2 37.0 39.3 | 26.2 22.3 25.0 | 31.1
IPLoc, Qwen2-VL-7B | 51.7 54.3 56.1 | 64.2 68.1 68.7 | 49.7 57.1 59.4 | 58.8
Qwen2-VL-72B  | 46.2 52.8 55.6 | 62.7 60.1 59.9 | 51.9 50.7 55.4 | 55.0
InternVL2-76B | 50.4 55.2 57.5 | 65.8 66.7 65.4 | 44.2 47.3 52.5 | 56.1
FOCUS, Qwen2-VL-7B | 55.8 63.0 68.5 | 77.1 80.6 82.6 | 56.1 59.9 65.6 | 67.7
"""
"""Table 1: TAO, GOT-10k and ICL-LaSOT at 1, 2 and 4 shots, and the average."""
PUBLISHED_OTHERS = """
Qwen2-VL-7B  | 24.5 50.2 | 64.0 65.7 63.4
IPLoc, Qwen2-VL-7B | 41.2 53.3 | 84.1 83.1 79.4
Qwen2-VL-72B | 43.9 54.3 | 91.5 92.6 95.8
FOCUS, Qwen2-VL-7B | 53.8 72.8 | 95.5 96.6 97.5
"""
"""Table 2: PerMIRS at 1 and 2 shots, PerSeg at 1, 2 and 4."""

ABSENT = scored(0.0, status=ParseStatus.ABSENT)


def absent_target(answer: ScoredAnswer, index: int = 0) -> ScoredAnswer:
    values = {name: getattr(answer, name) for name in ScoredAnswer.__slots__}
    return ScoredAnswer(**{**values, "target_box": None, "iou": 0.0})


def fill(
    path: Path,
    policy: str,
    dataset: str,
    shots: int,
    answers: Sequence[ScoredAnswer],
    *,
    num_failed: int = 0,
    num_expected: int | None = None,
    **settings: Any,
) -> tuple[ResultsFolder, Cell]:
    """Answers of one cell; the first ones failed, and each took a second longer than the one before."""
    cell = Cell(policy=policy, dataset=dataset, shots=shots, num_episodes=num_expected or len(answers))
    given = {"dataset": dataset, "split": "test", "protocol": "focus", **settings}
    results = ResultsFolder.open(path, data={dataset: given}, policies={policy: {}}, cells=[cell])
    records = [
        AnswerRecord(
            policy=policy,
            dataset=dataset,
            shots=shots,
            index=index,
            text=f"text {index}",
            error="too late" if index < num_failed else None,
            seconds=float(index),
            answer=answer,
        )
        for index, answer in enumerate(answers)
    ]
    results.append(cell, records)
    return results, cell


class TestFigures:
    """`summary.json`."""

    def test_by_hand(self, tmp_path: Path) -> None:
        answers = [
            UNREADABLE,  # 0
            scored(0.5),
            scored(0.5, is_support_copy=True),
            scored(0.5, is_strict=False),
            absent_target(ABSENT),  # 1
            absent_target(scored(0.0)),  # 0
            ABSENT,  # 0, wrongly
            absent_target(ABSENT),  # 1
            scored(0.5),
            scored(0.5),
        ]
        results, _ = fill(tmp_path, "mine", "tao", 2, answers, num_failed=1)
        summary = write_report(results)
        assert json.loads((tmp_path / "summary.json").read_text()) == json.loads(json.dumps(summary))
        (cell,) = summary["cells"]
        metrics = cell.pop("metrics")
        assert cell == {
            "policy": "mine",
            "dataset": "tao",
            "shots": 2,
            "num_episodes": 10,
            "num_expected": 10,
            "num_failed": 1,
            "seconds_per_episode": 4.5,
        }
        means = {name: value["mean"] for name, value in metrics.items()}
        assert means == pytest.approx(
            {
                "miou_all": 4.5 / 10,
                "miou_parsed": 4.5 / 9,
                "miou_present": 2.5 / 7,
                "acc_50": 7 / 10,
                "acc_75": 2 / 10,
                "parse_rate": 9 / 10,
                "format_rate": 5 / 10,
                "whole_image_rate": 0.0,
                "copy_rate": 1 / 10,
                "absent_rate": 3 / 10,
                "absent_recall": 2 / 3,
                "absent_precision": 2 / 3,
            }
        )
        intervals = {name: tuple(value["interval"]) for name, value in metrics.items()}
        # Of a share of 1 in 10, a resample has none in 35% of cases, up to 3 in 98.7% and up to 2 in 93.0%.
        assert intervals["copy_rate"] == pytest.approx((0.0, 0.3))
        assert intervals["parse_rate"] == pytest.approx((0.7, 1.0))
        # Of 2 in 3, a resample of 3 has none in 3.7% of cases, and all in 29.6%.
        assert intervals["absent_recall"] == intervals["absent_precision"] == (0.0, 1.0)
        assert intervals["whole_image_rate"] == (0.0, 0.0)
        low, high = intervals["miou_all"]
        # The standard deviation of credits is 0.350, that of their mean 0.111.
        assert low == pytest.approx(0.45 - 1.96 * 0.111, abs=0.05)
        assert high == pytest.approx(0.45 + 1.96 * 0.111, abs=0.05)

    def test_what_is_not_defined_is_left_out(self, tmp_path: Path) -> None:
        results, _ = fill(tmp_path, "mine", "tao", 1, [UNREADABLE, UNREADABLE])
        (cell,) = summarize_folder(results)["cells"]
        assert {"miou_parsed", "absent_recall", "absent_precision"}.isdisjoint(cell["metrics"])
        json.dumps(cell, allow_nan=False)
        heading, row = detail_rows(summarize_folder(results))
        assert heading == [
            "", "data set", "shots", "mIoU", "acc@0.5", "acc@0.75", "parsed", "whole image", "copies", "episodes",
            "s / episode",
        ]  # fmt: skip
        assert row == ["mine", "tao", "1", *["0.0 [0.0, 0.0]"] * 6, "2", "0.500"]

    def test_cells_that_differ_in_what_is_defined(self, tmp_path: Path) -> None:
        fill(tmp_path, "a", "tao", 1, [absent_target(ABSENT)])
        results, _ = fill(tmp_path, "b", "tao", 1, [scored(1.0)], num_failed=1, num_expected=3)
        heading, first, second = detail_rows(summarize_folder(results))
        columns = {name: (first[column], second[column]) for column, name in enumerate(heading)}
        assert columns["absent precision"] == columns["absent recall"] == ("100.0 [100.0, 100.0]", "")
        assert columns["failed"] == ("0", "1")
        assert columns["episodes"] == ("1", "1 of 3")

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        results, _ = fill(tmp_path, "a", "tao", 1, [], num_expected=3)
        assert summarize_folder(results)["cells"] == []
        assert score_rows(summarize_folder(results)) == [[""]]


class TestLayout:
    """Policies by data sets and shots."""

    @pytest.fixture
    def results(self, tmp_path: Path) -> ResultsFolder:
        for shots, iou in ((4, 0.75), (1, 0.25)):
            fill(tmp_path, "vlm:a|b", "tao", shots, [scored(iou)])
        fill(tmp_path, "center", "tao", 1, [scored(0.5)])
        return fill(tmp_path, "vlm:a|b", "synthetic", 1, [scored(1.0), scored(1.0)], level=3, shuffle_supports=True)[0]

    def test_markdown(self, results: ResultsFolder) -> None:
        write_report(results)
        text = (results.path / "report.md").read_text()
        table = [
            "## mIoU * 100 [95% interval]",
            "",
            "|  | tao, 1 shot | tao, 4 shots | synthetic, 1 shot | average |",
            "| --- | --- | --- | --- | --- |",
            "| vlm:a\\|b | 25.0 [25.0, 25.0] | 75.0 [75.0, 75.0] | 100.0 [100.0, 100.0] | 66.7 |",
            "| center | 50.0 [50.0, 50.0] |  |  |  |",
            "",
        ]
        assert "\n".join(table) in text
        assert "| center | tao | 1 | 50.0 [50.0, 50.0] |" in text
        assert "\ntao: dataset tao, split test, protocol focus.\n" in text
        assert "\nsynthetic: dataset synthetic, split test, level 3, supports of other episodes.\n" in text
        assert "published" not in text

    def test_html_has_the_same_tables(self, results: ResultsFolder) -> None:
        write_report(results)
        page = (results.path / "report.html").read_text()
        row = ("vlm:a|b", "25.0 [25.0, 25.0]", "75.0 [75.0, 75.0]", "100.0 [100.0, 100.0]", "66.7")
        assert "<tr>\n" + "".join(f"<td>{cell}</td>\n" for cell in row) + "</tr>" in page
        assert page.count("<table>") == 2
        assert "<p>tao: dataset tao, split test, protocol focus.</p>" in page

    def test_names_are_shown_as_they_are(self, tmp_path: Path) -> None:
        results, _ = fill(tmp_path, "<b>|x", "# <i>|y", 1, [scored(0.5)])
        write_report(results)
        text, page = ((results.path / name).read_text() for name in ("report.md", "report.html"))
        assert "\n| \\<b>\\|x | 50.0 [50.0, 50.0] |\n" in text
        assert "\n\\# \\<i>\\|y: dataset # \\<i>\\|y, split test" in text
        assert "<td>&lt;b&gt;|x</td>" in page
        assert "<th># &lt;i&gt;|y, 1 shot</th>" in page
        assert "<p># &lt;i&gt;|y: dataset # &lt;i&gt;|y, split test" in page
        assert not re.search("<[bi]>", page)

    def test_a_terminal_shows_the_same_figures(self, results: ResultsFolder) -> None:
        output = io.StringIO()
        for title, rows in report_tables(summarize_folder(results)).items():
            Console(file=output, width=160).print(text_table(rows, title))
        text = output.getvalue()
        for shown in (
            "vlm:a|b",
            "tao, 4 shots",
            "75.0",
            "75.0-75.0",
            "66.7",
            "acc@0.75",
            "whole image",
            "s / episode",
        ):
            assert shown in text

    def test_published_rows_stand_below_ours(self, results: ResultsFolder) -> None:
        summary = write_report(results, with_published=True)
        rows = published_rows(summary, TABLES[0])
        assert rows[0][:4] == ["", "TAO, 1 shot", "TAO, 2 shots", "TAO, 4 shots"]
        assert rows[1] == ["vlm:a|b", "25.0 [25.0, 25.0]", "", "75.0 [75.0, 75.0]", *[""] * 7]
        assert rows[2] == ["center", "50.0 [50.0, 50.0]", *[""] * 9]
        assert rows[10] == [
            "FOCUS, Qwen2-VL-7B (published, table 1)",
            "55.8", "63.0", "68.5", "77.1", "80.6", "82.6", "56.1", "59.9", "65.6", "67.7",
        ]  # fmt: skip
        assert all("(published, table " in row[0] for row in rows[3:])
        assert all("(published, table 2)" in row[0] for row in published_rows(summary, TABLES[1])[1:])
        notes = " ".join(report_notes(summary))
        assert "printed in arXiv:2605.31145, not measured here" in notes
        assert "The paper has nothing on synthetic" in notes
        text = render_markdown(summary)
        assert "## Beside the paper: PerMIRS and PerSeg, mIoU * 100" in text
        assert "| FOCUS, Qwen2-VL-7B (published, table 2) | 53.8 | 72.8 | 95.5 | 96.6 | 97.5 |" in text
        stored = json.loads((results.path / "summary.json").read_text())["published"]
        focus = next(row for row in stored if row["model"] == "FOCUS, Qwen2-VL-7B")
        assert focus["source"] == "arXiv:2605.31145, table 1"
        assert focus["scores"]["got10k"] == {"1": 77.1, "2": 80.6, "4": 82.6}

    def test_ours_in_full_has_an_average_there(self, tmp_path: Path) -> None:
        for name in ("tao", "got10k", "lasot"):
            for shots in (1, 2, 4):
                results, _ = fill(tmp_path, "mine", name, shots, [scored(shots / 8)])
        row = published_rows(summarize_folder(results), TABLES[0])[1]
        assert (row[0], row[-1]) == ("mine", "29.2")


class TestPublished:
    """The paper's figures, typed a second time."""

    @pytest.mark.parametrize(("position", "text"), [(0, PUBLISHED), (1, PUBLISHED_OTHERS)])
    def test_figures(self, position: int, text: str) -> None:
        expected = {}
        for line in text.strip().splitlines():
            model, *columns = (part.strip() for part in line.split("|"))
            expected[model] = [[float(value) for value in column.split()] for column in columns]
        table = TABLES[position]
        found = {row.model: [list(scores) for scores in row.scores.values()] for row in table.rows if row.table < 3}
        for row in table.rows:
            if row.average is not None:
                found[row.model].append([row.average])
        assert found == expected
        assert all(row.table in (position + 1, 3, 4) for row in table.rows)
        for row in table.rows:
            assert [len(scores) for scores in row.scores.values()] == [
                len(table.datasets[name][1]) for name in row.scores
            ]

    def test_rows_of_other_tables(self) -> None:
        rows = {row.table: row for row in TABLES[0].rows if row.table > 2}
        assert rows[3].scores == {"tao": (24.3, 27.2, 33.7)}
        assert rows[4].scores == {"tao": (52.2, 59.7, 65.7)}

    def test_averages_are_those_of_the_figures(self) -> None:
        averages = [(row.average, np.mean(sum(row.scores.values(), ()))) for row in TABLES[0].rows if row.table == 1]
        assert len(averages) == 8
        for printed, mean in averages:
            assert printed == pytest.approx(mean, abs=0.051)


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
