"""The linear probe in tables: of a terminal, a card, a run's page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from focus_agents.probing.states import PLACES
from focus_agents.reports.model_card import CardFacts, run_facts, write_card
from focus_agents.reports.probe_table import TITLES, probe_note, probe_rows, probe_section
from focus_agents.reports.run_page.page import render_page
from focus_agents.reports.run_page.pictures import PictureBook
from focus_agents.reports.run_page.records import read_run
from focus_agents.runs.folder import RunDirectory

PROBE: dict[str, Any] = {
    "target": "ground colour",
    "accuracy": {"numbers": [0.12, 0.5], "last_number": [0.1, 0.251], "text_end": [0.0, 1.0], "region": [0.5, 0.6]},
    "commonest": 0.135,
    "num_fit": 1100,
    "num_test": 400,
}


def test_rows_are_layers_and_columns_are_places() -> None:
    assert tuple(TITLES) == PLACES
    assert probe_rows(PROBE) == [
        ["hidden states of", "four numbers", "last number", "end of box text", "mean of region"],
        ["embedding", "0.12", "0.10", "0.00", "0.50"],
        ["layer 1", "0.50", "0.25", "1.00", "0.60"],
    ]


def test_the_note_has_chance_and_counts() -> None:
    note = probe_note(PROBE)
    assert "Share of 400 test episodes" in note
    assert "fitted on 1,100 others" in note
    assert "Commonest colour: 0.14. 95% intervals reach 0.05 at most" in note  # 1.96 * sqrt(1 / 4 / 400) = 0.049


def make_run(folder: Path, probe: Any) -> RunDirectory:
    run = RunDirectory.create(folder, {"command": "pretrain", "num_steps": 2, "seed": 0})
    (run.path / "metrics.jsonl").write_text('{"step": 1, "lm_loss": 2.0}\n{"step": 2, "lm_loss": 1.0}\n')
    summary = {"box_iou": 0.5, "name_accuracy": 0.4, "seconds": 3.0}
    (run.path / "summary.json").write_text(json.dumps(summary if probe is None else {**summary, "probe": probe}))
    (run.checkpoints / "final").mkdir(parents=True)
    return run


def test_the_card_and_the_page_of_a_run_show_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", PROBE)
    facts = run_facts(run.checkpoints / "final")
    card = write_card(CardFacts(name="me/base", **facts))
    assert f"## Linear probe\n\n{probe_section(PROBE)}\n\n## Training" in card
    assert "| layer 1 | 0.50 | 0.25 | 1.00 | 0.60 |" in card
    page = render_page([read_run(run.path)], [PictureBook(run.path, {})])
    assert '<section id="probe"><h2>Linear probe</h2>' in page
    assert "<th>layer 1</th><td>0.50</td><td>0.25</td>" in page
    assert probe_note(PROBE) in page


@pytest.mark.parametrize("probe", [None, {}, 3, {**PROBE, "accuracy": {"numbers": [1.0]}}, {**PROBE, "num_test": 0}])
def test_a_page_does_without_one_that_is_missing_or_damaged(tmp_path: Path, probe: Any) -> None:
    run = make_run(tmp_path / "run", probe)
    assert "Linear probe" not in render_page([read_run(run.path)], [PictureBook(run.path, {})])


def test_a_card_does_without(tmp_path: Path) -> None:
    facts = run_facts(make_run(tmp_path / "run", None).checkpoints / "final")
    assert "Linear probe" not in write_card(CardFacts(name="me/base", **facts))
