"""`metrics.csv`: the same as `metrics.jsonl`, whatever happens on the way."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from focus_agents.monitoring.recorder import Recorder
from focus_agents.runs import table
from focus_agents.runs.folder import RunDirectory
from focus_env.errors import StorageError


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", {"name": "run"})


def rows(run: RunDirectory) -> list[dict[str, str]]:
    with (run.path / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_column_that_appears_later_is_empty_before(run: RunDirectory) -> None:
    run.log({"iteration": 0, "validation_miou": 0.5})
    run.log({"iteration": 1, "reward/iou_at(0.5)": 0.25, "reward": float("nan")})
    run.log({"iteration": 2, "reward": 0.75, "reward/iou_at(0.5)": 1.0})
    assert (run.path / "metrics.csv").read_text() == (
        "iteration,reward/iou_at(0.5),reward,validation_miou\n0,,,0.5\n1,0.25,,\n2,1.0,0.75,\n"
    )


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_after_a_rewind_it_has_the_lines_that_are_left(run: RunDirectory, kept: int) -> None:
    for iteration in (0, 1, 2, 3):
        run.log({"iteration": iteration, "reward": iteration / 4})
    run.rewind(kept, counter="iteration")
    run.log({"iteration": kept + 1, "reward": 9.0})
    assert [row["iteration"] for row in rows(run)] == [str(n) for n in range(kept + 2)]
    assert [row["reward"] for row in rows(run)] == [*(str(n / 4) for n in range(kept + 1)), "9.0"]


@pytest.mark.parametrize("text", ["", "iteration", "iteration,reward\n0,0.5", "nonsense\n", "\xff\n"])
def test_one_that_is_cut_or_damaged_is_mended(run: RunDirectory, text: str) -> None:
    run.log({"iteration": 0, "reward": 0.5})
    (run.path / "metrics.csv").write_text(text, encoding="latin-1")
    run.log({"iteration": 1, "reward": 0.25})
    assert rows(run)[-1] == {"iteration": "1", "reward": "0.25"}
    assert len(rows(run)) == 2 or text.startswith("iteration,reward\n")


def test_one_that_cannot_be_written_is_whole_as_soon_as_there_is_room(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.log({"iteration": 0, "reward": 0.5})

    def full(*_: Any) -> None:
        raise StorageError("no room")

    with monkeypatch.context() as patch:
        for name in ("append_text", "write_text"):
            patch.setattr(table, name, full)
        for iteration in (1, 2):
            with pytest.raises(StorageError, match="no room"):
                run.log({"iteration": iteration, "reward": 0.5})
    run.log({"iteration": 3, "reward": 0.5})
    assert [row["iteration"] for row in rows(run)] == ["0", "1", "2", "3"]


def test_metrics_of_a_newer_release_are_the_last_columns(run: RunDirectory) -> None:
    (run.path / "metrics.jsonl").write_text('{"iteration": 1, "of another release": 2.5, "reward": 0.5}\n')
    run.log({"iteration": 2, "reward": 0.25, "entropy": 1.5})
    assert (run.path / "metrics.csv").read_text() == (
        "iteration,reward,entropy,of another release\n1,0.5,,2.5\n2,0.25,1.5,\n"
    )


def test_counts_are_whole_numbers_and_both_files_have_one_order(run: RunDirectory) -> None:
    counts = {"skipped_steps": 3.0, "completion_tokens_min": 10.0}
    Recorder(run, Console(file=io.StringIO())).log({**counts, "completion_tokens": 10.0, "reward": 1.0, "iteration": 1})
    assert (run.path / "metrics.csv").read_text() == (
        "iteration,reward,completion_tokens,completion_tokens_min,skipped_steps\n1,1.0,10.0,10,3\n"
    )
    assert (run.path / "metrics.jsonl").read_text() == (
        '{"iteration": 1, "reward": 1.0, "completion_tokens": 10.0, "completion_tokens_min": 10, "skipped_steps": 3}\n'
    )
