"""`focus plot`: labels of runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from focus_agents.reports.labels import find_runs, labels_by_name


@pytest.mark.parametrize(
    ("runs", "labels"),
    [
        (["runs/a-0", "runs/a-1", "runs/b"], {"a": ["runs/a-0", "runs/a-1"], "b": ["runs/b"]}),
        (["one/a-0", "two/a-0"], {"one/a": ["one/a-0"], "two/a": ["two/a-0"]}),
        (["x/one/a", "y/one/a"], {"x/one/a": ["x/one/a"], "y/one/a": ["y/one/a"]}),
        ([], {}),
    ],
)
def test_runs_of_one_name_in_several_folders_are_told_apart(runs: list[str], labels: dict[str, list[str]]) -> None:
    assert labels_by_name([Path(run) for run in runs]) == {
        name: [Path(run) for run in found] for name, found in labels.items()
    }


@pytest.mark.parametrize("again", ["runs/a", "runs/../runs/a", "./runs/a"])
def test_a_run_stands_once(again: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/a").mkdir(parents=True)
    Path("runs/a/metrics.jsonl").touch()
    with pytest.raises(ValueError, match="runs: expected different folders, got runs/a twice"):
        find_runs([Path("runs/a"), Path(again)])
