"""The run folder over several calls: code that has changed, and a summary that stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from focus_agents.runs import folder
from focus_agents.runs.folder import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "runs" / "one", {"seed": 3})


class TestCode:
    """What `config.json` says of the code, and what is told when it has changed."""

    @pytest.fixture
    def code(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        """The state of the code, to be changed."""
        state: dict[str, Any] = {"versions": {"torch": "2.12"}, "sources": {"focus_env/rewards": "1"}}
        monkeypatch.setattr(folder, "provenance", lambda *used: json.loads(json.dumps(state)))
        return state

    def test_the_same_code_is_not_spoken_of(self, code: dict[str, Any], tmp_path: Path) -> None:
        run = RunDirectory.create(tmp_path, {"seed": 1})
        text = (tmp_path / "config.json").read_text()
        assert run.note_code() == []
        assert (tmp_path / "config.json").read_text() == text
        assert run.config() == {"seed": 1}
        assert json.loads(text) == {"seed": 1, "code": [code]}

    def test_each_change_is_told_and_kept(self, code: dict[str, Any], tmp_path: Path) -> None:
        run = RunDirectory.create(tmp_path, {"seed": 1})
        code["versions"]["torch"], code["sources"]["focus_env/rewards"] = "2.13", "2"
        told: list[str] = []
        RunDirectory.open(tmp_path, {}, is_resumed=True, warn=told.append)
        assert told == [
            f"run {tmp_path}: torch was 2.12 and is 2.13 now; what follows is by the code of now",
            f"run {tmp_path}: the source of focus_env (rewards) is another than before; what follows is by the code of "
            "now",
        ]
        assert len(run.note_code()) == 2
        assert len(json.loads((tmp_path / "config.json").read_text())["code"]) == 2
        assert run.config() == {"seed": 1}

    def test_a_run_of_an_older_version(self, code: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"seed": 1}')
        run = RunDirectory(tmp_path)
        for _ in range(2):
            assert run.note_code() == [
                "which code it was started with is not recorded, so what has changed since cannot be said"
            ]
        assert json.loads((tmp_path / "config.json").read_text())["code"] == [None, code]


class TestSummary:
    """A summary is not overwritten by nothing."""

    def test_a_finished_run_that_is_gone_on_with_keeps_its_seconds(self, run: RunDirectory) -> None:
        first = run.write_summary({"miou_end": 0.5, "interval": (0.4, 0.6), "num_steps": 9, "seconds": 100.0})
        text = (run.path / "summary.json").read_text()
        again = {"miou_end": 0.5, "interval": (0.4, 0.6), "num_steps": 9, "seconds": 0.2, "sheet": "elsewhere.png"}
        assert run.write_summary(again)["seconds"] == first["seconds"] == 100.0
        assert (run.path / "summary.json").read_text() == text

    def test_more_steps_add_to_the_seconds(self, run: RunDirectory) -> None:
        run.write_summary({"miou_end": 0.5, "num_steps": 9, "seconds": 100.0})
        assert run.write_summary({"miou_end": 0.5, "num_steps": 12, "seconds": 30.0})["seconds"] == 130.0

    @pytest.mark.parametrize("text", ["", "{", "[]"])
    def test_a_damaged_one_is_replaced(self, run: RunDirectory, text: str) -> None:
        (run.path / "summary.json").write_text(text)
        assert run.write_summary({"num_steps": 9, "seconds": 1.0}) == {"num_steps": 9, "seconds": 1.0}
        assert json.loads((run.path / "summary.json").read_text())["num_steps"] == 9
