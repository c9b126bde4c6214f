"""`focus report`: of one run, of several, and of what is no run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from focus_agents.cli import report
from tests.watched_runs import write_run


def focus_report(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["focus report", *words])
    report.main()


def test_one_run_and_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [write_run(tmp_path / place / "run", num_iterations=2, num_groups=1).path for place in ("a", "b")]
    focus_report(monkeypatch, str(runs[0]))
    assert capsys.readouterr().out.strip() == str(runs[0] / "report.html")
    assert "<h1>run</h1>" in (runs[0] / "report.html").read_text()
    output = tmp_path / "new" / "both.html"
    focus_report(monkeypatch, *map(str, runs), "--output", str(output))
    page = output.read_text()
    assert "2 runs side by side" in page
    assert "a/run" in page
    assert "b/run" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none"], r"expected a run's folder with config.json"),
        ([], r"--runs|runs|required"),
        (["same", "./same"], r"expected each of them once"),
        ([*map(str, range(9))], r"expected 1 to 8 run folders, got 9"),
    ],
)
def test_what_cannot_be_is_said(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        focus_report(monkeypatch, *words)
    assert stopped.value.code == 2
    assert __import__("re").search(message, capsys.readouterr().err)


def test_pictures_of_synthetic_scenes_come_from_the_settings() -> None:
    given = report.episodes_of({"dataset": "synthetic", "level": 2, "shots": 2})
    assert {name: len(given[name][0].support) for name in given} == {"training": 2, "validation": 2}
    assert report.episodes_of({"dataset": "none such"}) == {}
