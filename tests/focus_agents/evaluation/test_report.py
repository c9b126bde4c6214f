"""Reports of evaluations: figures worked out by hand, and the paper's layout."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from focus_agents.evaluation.notes import FEW_EPISODES, report_notes
from focus_agents.evaluation.published import TABLES
from focus_agents.evaluation.report import (
    detail_rows,
    published_rows,
    render_markdown,
    report_tables,
    score_rows,
    summarize_folder,
    write_report,
)
from focus_agents.evaluation.results import ResultsFolder
from focus_agents.reports.tables import text_table
from focus_env.metrics import ScoredAnswer
from focus_env.types import Box, ParseStatus
from tests.answers import UNREADABLE, scored
from tests.focus_agents.evaluation.cells import fill

ABSENT = scored(0.0, status=ParseStatus.ABSENT)


def absent_target(answer: ScoredAnswer, index: int = 0) -> ScoredAnswer:
    values = {name: getattr(answer, name) for name in ScoredAnswer.__slots__}
    return ScoredAnswer(**{**values, "target_box": None, "iou": 0.0})


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
                "f1_50": 10 / (10 + 1 + 2),
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

    def test_absence_has_its_columns_and_its_note_where_a_target_is_absent(self, tmp_path: Path) -> None:
        results, _ = fill(tmp_path / "both", "mine", "tao", 1, [scored(0.5), absent_target(ABSENT), ABSENT])
        summary = write_report(results)
        heading, row = detail_rows(summary)
        shown = dict(zip(heading, row, strict=True))
        means = {name: shown[name].split()[0] for name in ("mIoU", "mIoU present", "absent recall", "F1@0.5")}
        assert means == {"mIoU": "50.0", "mIoU present": "25.0", "absent recall": "100.0", "F1@0.5": "66.7"}
        assert re.search(r"\[0\.0, 100\.0\]", shown["F1@0.5"])
        assert sum(note.startswith("mIoU present: ") for note in report_notes(summary)) == 1
        results, _ = fill(tmp_path / "present", "mine", "tao", 1, [scored(0.5), ABSENT])
        summary = write_report(results)
        assert not {"mIoU present", "absent recall", "F1@0.5"} & {*detail_rows(summary)[0]}
        assert not any("F1@0.5" in note for note in report_notes(summary))

    def test_the_note_on_data_says_what_share_is_absent_and_that_on_a_policy_what_it_was_told(self) -> None:
        data = {"dataset": "synthetic", "split": "test", "level": 3, "scenes": "mixed", "absent_fraction": 0.25}
        asked = {"template": "questions", "frame": "norm_100", "template_fields": {"allow_absent": True}}
        cell = {"dataset": "mine", "policy": "vlm", "shots": 1, "num_episodes": 900, "num_failed": 0, "metrics": {}}
        notes = report_notes({"data": {"mine": data}, "policies": {"vlm": asked}, "cells": [cell]})
        assert "mine: dataset synthetic, split test, level 3, scenes mixed, a share of 0.25 absent." in notes
        assert "vlm: prompt questions, unit norm_100, told what to answer where the object is absent." in notes
        plain = {"mine": data | {"absent_fraction": 0.0}}
        untold = {"vlm": asked | {"template_fields": {"allow_absent": False}}}
        notes = report_notes({"data": plain, "policies": untold, "cells": [cell]})
        assert not any("absent." in note for note in notes if note.startswith(("mine: ", "vlm: ")))

    def test_cut_answers_are_counted_where_answers_are(self, tmp_path: Path) -> None:
        results, _ = fill(tmp_path, "mine", "tao", 1, [scored(0.5)] * 5, num_failed=1, num_cut=2)
        fill(tmp_path, "mine", "tao", 2, [scored(0.5)] * 5)
        summary = summarize_folder(results)
        assert [cell.get("num_cut") for cell in summary["cells"]] == [2, None]
        heading, first, second = detail_rows(summary)
        assert heading[-4:] == ["failed", "cut", "episodes", "s / episode"]
        assert (first[-4:-2], second[-4:-2]) == (["1", "2"], ["0", "0"])
        assert "cut: answers that were cut at `max_completion_tokens`; raise it if many are." in report_notes(summary)

    def test_answers_in_another_unit_are_told(self, tmp_path: Path) -> None:
        """In the summary, the report and the terminal; those that fit as they are say nothing."""
        target = Box(20.0, 10.0, 60.0, 40.0)
        in_pixels = [scored(0.0, numbers=tuple(target), image_wh=(640, 480))] * 6
        in_thousandths = [scored(1.0, numbers=(31.25, 20.8, 93.75, 83.3), image_wh=(640, 480))] * 6
        results, _ = fill(tmp_path, "mine", "tao", 1, in_pixels)
        fill(tmp_path, "mine", "tao", 2, in_thousandths)
        summary = write_report(results)
        hint = summary["cells"][0]["unit_hint"]
        assert hint.startswith("6 answers fit another unit of coordinates: mIoU 1.000 if they are read as pixel, 0.000")
        assert hint.endswith("`frame` pixel")
        assert "unit_hint" not in summary["cells"][1]
        assert f"mine on tao, 1 shot: {hint}." in report_notes(summary)
        assert "6 answers fit another unit of coordinates" in (tmp_path / "report.md").read_text()

    def test_settings_stand_in_the_report_as_they_are_written(self, tmp_path: Path) -> None:
        in_pixels = [scored(0.0, numbers=(20.0, 10.0, 60.0, 40.0), image_wh=(640, 480))] * 6
        results, _ = fill(tmp_path, "a`b", "tao", 1, in_pixels, num_failed=1, num_cut=1)
        write_report(results)
        text = (tmp_path / "report.md").read_text()
        for setting in ("retry_failed", "max_completion_tokens", "frame"):
            assert f"`{setting}`" in text.replace("a\\`b", "")
            assert f"<code>{setting}</code>" in (tmp_path / "report.html").read_text()
        assert "a\\`b" in text

    def test_a_policy_or_data_set_without_an_answer_has_no_note(self, tmp_path: Path) -> None:
        """As where an evaluation was stopped before it came to them."""
        results, _ = fill(tmp_path, "mine", "tao", 1, [scored(0.5)])
        fill(tmp_path, "other", "got10k", 1, [])
        notes = report_notes(summarize_folder(results))
        assert any(note.startswith("tao: ") for note in notes)
        assert not any(note.startswith(("other: ", "got10k: ")) for note in notes)

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

    def test_other_data_of_a_published_name_are_left_out(self, tmp_path: Path) -> None:
        """And a label that is a published name makes no data the published ones."""
        fill(tmp_path, "mine", "got10k", 1, [scored(0.5)], not_published="4 episodes of 4 objects")
        results, _ = fill(tmp_path, "mine", "tao", 1, [scored(0.5)], not_published="no figures")
        summary = write_report(results, with_published=True)
        assert not any(row[0] == "mine" for row in published_rows(summary, TABLES[0]))
        notes = "\n".join(report_notes(summary))
        assert "got10k, 1 shot: left out beside the paper's rows, since" in notes
        assert "not the published ones: 4 episodes of 4 objects." in notes
        assert ["mine", "50.0 [50.0, 50.0]", "50.0 [50.0, 50.0]", "50.0"] in score_rows(summary)

    def test_few_episodes_are_said(self, tmp_path: Path) -> None:
        fill(tmp_path, "few", "got10k", 1, [scored(0.25), scored(0.75)])
        results, _ = fill(tmp_path, "many", "tao", 4, [scored(0.5)] * FEW_EPISODES)
        notes = report_notes(summarize_folder(results))
        (note,) = [note for note in notes if "few episodes" in note]
        assert note.startswith("got10k: few episodes, 2; an interval of the mIoU is as wide as 25.0 to 75.0, and rough")
        assert "The protocols focus and iploc give one episode for each video (got10k, tao)." in notes

    def test_ours_in_full_has_an_average_there(self, tmp_path: Path) -> None:
        for name in ("tao", "got10k", "lasot"):
            for shots in (1, 2, 4):
                results, _ = fill(tmp_path, "mine", name, shots, [scored(shots / 8)])
        row = published_rows(summarize_folder(results), TABLES[0])[1]
        assert (row[0], row[-1]) == ("mine", "29.2")
