"""Studies whose code has changed between their runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from focus_agents.runs import folder
from focus_agents.runs.folder import RunDirectory
from focus_agents.studies import study as module
from focus_agents.studies.study import Run, Study


class SmallStudy(Study):
    """Two variants."""

    def run(self, variant: str, seed: int) -> Run:
        return Run(variant, seed, self.folder / variant)

    def runs(self) -> Sequence[Run]:
        return [self.run(variant, seed) for seed in self.seeds for variant in ("a", "b", "c")]


def test_runs_of_other_code_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are done, whose code is known; a run that goes on says so itself."""
    code: dict[str, Any] = {"versions": {"torch": "2.12"}, "sources": {"mine": "1"}}
    for part in (folder, module):
        monkeypatch.setattr(part, "provenance", lambda *used: json.loads(json.dumps(code)))
    study = SmallStudy(folder=tmp_path, seeds=(0,))
    for name in ("a", "b"):
        RunDirectory.create(tmp_path / name, {"seed": 0}).write_summary({"seconds": 1.0})
    RunDirectory.create(tmp_path / "c", {"seed": 0})
    assert study.changes_of_code() == []
    code["sources"]["mine"] = "2"
    assert study.changes_of_code() == ["since a, b: the source of mine is another than before"]
    (tmp_path / "a/config.json").write_text("{")
    assert study.changes_of_code() == ["since b: the source of mine is another than before"]
