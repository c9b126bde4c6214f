"""Scores of answers: kept with them, and in the report beside how often boxes are right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from focus_agents.evaluation import reliability
from focus_agents.evaluation.answerer import Answerer, Chunk
from focus_agents.evaluation.notes import report_notes
from focus_agents.evaluation.records import AnswerRecord, Cell
from focus_agents.evaluation.report import report_tables, write_report
from focus_agents.finding import find
from focus_agents.policies.registry import PolicySpec
from focus_env.calibration import Calibration
from focus_env.datasets import SyntheticDataset
from focus_env.types import ParseStatus
from tests.answers import UNREADABLE, scored
from tests.focus_agents.evaluation.cells import fill


def test_by_hand(tmp_path: Path) -> None:
    answers = [scored(0.9), scored(0.5), scored(0.4), UNREADABLE, scored(0.0, status=ParseStatus.ABSENT), scored(0.7)]
    results, cell = fill(tmp_path, "mine", "tao", 2, answers, scores=[0.9, 0.9, 0.2, 0.8, 0.8, None])
    assert [record.score for record in results.read(cell)] == [0.9, 0.9, 0.2, 0.8, 0.8, None]
    summary = write_report(results)
    found = summary["cells"][0]["reliability"]
    assert found["num_scored"] == 3  # neither what is no box nor one without a score
    assert found["mean_score"]["mean"] == pytest.approx(2 / 3)
    assert found["share_right"] == {"mean": 2 / 3, "interval": (0.0, 1.0)}
    assert found["calibration_error"]["mean"] == pytest.approx((2 * 0.1 + 0.2) / 3)
    tables = report_tables(summary)
    assert tables["How sure, and how often right, * 100"][1][:3] == ["mine", "tao", "2"]
    assert tables["How sure, and how often right, * 100"][1][-1] == "3"
    assert [row[3:] for row in tables["Reliability: boxes by their scores"][1:]] == [
        ["0.2 to 0.3", "20.0", "0.0 [0.0, 0.0]", "1"],
        ["0.9 to 1.0", "90.0", "100.0 [100.0, 100.0]", "2"],
    ]
    assert any(note.startswith("right: boxes with an IoU of at least 0.5") for note in report_notes(summary))
    assert "## Reliability: boxes by their scores" in (tmp_path / "report.md").read_text()
    assert "](reliability.png)" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "report.html").read_text().count("data:image/png;base64,") == 1
    assert json.loads((tmp_path / "summary.json").read_text())["cells"][0]["reliability"]["num_scored"] == 3


def test_a_calibration_is_written_where_there_are_enough_boxes(tmp_path: Path) -> None:
    for number, name in ((reliability.MIN_BOXES, "enough"), (reliability.MIN_BOXES - 1, "few")):
        answers = [scored(0.9 if place % 4 else 0.1) for place in range(number)]
        results, cell = fill(tmp_path / name, "mine", "tao", 2, answers, scores=[0.5] * number)
        write_report(results)
    assert not (tmp_path / "few/calibration").exists()
    found = json.loads((tmp_path / f"enough/calibration/{cell.name}.json").read_text())
    told = {"policy": "mine", "weights": None, "dataset": "tao", "shots": 2, "num_boxes": reliability.MIN_BOXES}
    assert {name: found[name] for name in told} == told
    assert Calibration.from_json(found).share(0.5) == pytest.approx(37 / 50, abs=0.02)


def test_without_scores_the_report_is_as_before(tmp_path: Path) -> None:
    results, _ = fill(tmp_path, "mine", "tao", 2, [scored(0.9)])
    summary = write_report(results)
    assert "reliability" not in summary["cells"][0]
    assert len(report_tables(summary)) == 2
    assert not any("right:" in note for note in report_notes(summary))
    assert not (tmp_path / "reliability.png").exists()


def test_lines_of_earlier_releases_have_none(tmp_path: Path) -> None:
    results, cell = fill(tmp_path, "mine", "tao", 2, [scored(0.9)], scores=[0.3])
    (record,) = results.read(cell)
    line = json.loads(json.dumps(record.to_json()))
    for bad in (1.5, "high", True, [0.5]):
        with pytest.raises(ValueError, match="score"):
            AnswerRecord.from_json({**line, "score": bad})
    del line["score"]
    assert AnswerRecord.from_json(line).score is None


@pytest.mark.parametrize("policy", ["vlm:focus-small", "template_match", "center"])
def test_they_are_those_of_find(policy: str) -> None:
    if policy == "template_match":
        pytest.importorskip("cv2")
    episodes = SyntheticDataset(split="test", level=1, image_size=64, shots=1)
    cell = Cell(policy=policy, dataset="synthetic", shots=1, num_episodes=2)
    records = Answerer({1: episodes}, 48).answer(Chunk(cell, PolicySpec(text=policy), (0, 1)))
    for record in records:
        episode = episodes[record.index]
        support = episode.support[0]
        found = find([(support.frame.image(), tuple(support.box))], [episode.query_frame.image()], policy=policy)
        (answer,) = found.looked[0].answers
        assert record.score == (None if answer.score is None else pytest.approx(answer.score, abs=1e-3))
        assert (record.score is None) == (policy == "center")
