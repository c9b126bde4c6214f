"""`focus paper`: the paper's table with what is on the disk, and what is missing by name."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focus_agents.cli import evaluate, paper
from focus_agents.evaluation.results import ResultsFolder
from tests.focus_agents.cli.commands import main_error

NUM_OBJECTS = 34


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PerSeg in its layout, with as many objects as have 5 pictures."""
    root = tmp_path_factory.mktemp("data")
    for number in range(NUM_OBJECTS):
        for kind in ("Images", "Annotations"):
            (root / "perseg" / kind / f"object{number}").mkdir(parents=True)
        for picture in range(5):
            mask = np.zeros((12, 16, 3), dtype=np.uint8)
            mask[2:8, picture : picture + 8] = (128, 0, 0)
            Image.fromarray(mask).save(root / f"perseg/Annotations/object{number}/{picture:02d}.png")
            Image.fromarray(mask).save(root / f"perseg/Images/object{number}/{picture:02d}.jpg")
    return root


def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["focus paper", *words])
    paper.main()
    return capsys.readouterr().out


def test_without_anything_there_are_the_published_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = told(monkeypatch, capsys, "--output-dir", str(tmp_path / "none"))
    assert text.count("(published, table ") == 14
    assert "ICL-LaSOT (lasot): no --data-root" in text
    assert "PerMIRS (permirs): no reader for its files" in text
    assert not (tmp_path / "none").exists()


def test_the_ablations_of_the_paper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One data set is looked for once, at the numbers of supports of all tables."""
    text = told(monkeypatch, capsys, "--output-dir", str(tmp_path / "none"), "--table", "3", "4", "5", "6", "4")
    assert text.count("(published, table ") == 3 + 2 + 3 + 22
    assert text.count("TAO (tao): no --data-root") == 1
    for line in (
        "Table 4, another base: TAO, mIoU * 100",
        "FOCUS, LLaVA-OV (published, table 4)",
        "mu 0.025, beta 0.25",
    ):
        assert line in text
    tables = [paper.LAYOUTS[number] for number in (6, 4)]
    args = paper.Args(data_root=tmp_path, shots=())
    asked = list[list[int]]()
    monkeypatch.setattr(paper, "find_column", lambda args, name, title, shots, before: asked.append(list(shots)))
    paper.find_columns(args, tables, ResultsFolder(tmp_path / "none"))
    assert asked == [[1, 2, 4]]


def test_a_dry_run_then_the_table_and_nothing_twice(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--data-root",
        str(data_root),
        "--output-dir",
        str(tmp_path / "paper"),
        "--table",
        "2",
        "--shots",
        "1",
        "2",
    ]
    words += ["--policy", "copy_support", "vlm:no/such-model"]
    before = told(monkeypatch, capsys, *words, "--dry-run")
    line = next(line for line in before.splitlines() if line.startswith("would run"))
    assert f"({2 * NUM_OBJECTS} answers; not known before the first answers: copy_support)" in line
    command = shlex.split(line.partition(": focus evaluate ")[2])
    assert evaluate.read_words(command).data.dataset == "perseg"
    assert not (tmp_path / "paper").exists()
    assert "copy_support (not evaluated)" in before
    assert "vlm:no/such-model (weights missing)" in before

    after = told(monkeypatch, capsys, *words)
    row = next(line for line in after.splitlines() if line.strip().startswith("copy_support "))
    assert len(row.split()) == 3, row  # a name and the two figures of PerSeg
    assert "Qwen2-VL-7B (published, table 2)" in after
    assert "vlm:no/such-model: model 'no/such-model'" in after

    answers = ResultsFolder(tmp_path / "paper")
    assert {(cell.dataset, cell.shots, len(answers.read(cell))) for cell in answers.cells()} == {
        ("perseg", 1, NUM_OBJECTS),
        ("perseg", 2, NUM_OBJECTS),
    }
    again = told(monkeypatch, capsys, *words, "--dry-run")
    assert "would run (0 answers)" in again


def test_other_episodes_stand_in_no_table(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data-root", str(data_root), "--output-dir", str(tmp_path / "paper"), "--table", "2", "--shots", "1"]
    text = told(monkeypatch, capsys, *words, "--policy", "copy_support", "--num-episodes", "9")
    assert "copy_support (not evaluated)" in text
    assert "left out beside the paper's rows" in text


def test_missing_files_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = told(monkeypatch, capsys, "--data-root", str(tmp_path), "--output-dir", str(tmp_path / "paper"))
    for file in ("tao/annotations/validation.json", "got10k/val/list.txt", "lasot/testing_set.txt", "perseg/Images"):
        assert f"{tmp_path / file}: expected this" in text


def test_flags_of_evaluate_are_read_before_anything_is_asked(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data-root", str(data_root), "--output-dir", str(tmp_path / "paper"), "--policy", "random"]
    assert "batch-size: expected 1 or more, got 0" in main_error(
        "paper_table", [*words, "--flags=--batch-size 0"], capsys
    )
    assert not (tmp_path / "paper").exists()
