"""docs/notebooks: each runs anew, prints what the file shows but for figures, and is small."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.notebooks import code_cells, execute_apart, notebooks, run_cell
from tests.pages import with_any_figures
from tests.places import ROOT

PATHS = notebooks()


def printed(notebook: dict[str, Any]) -> list[list[str]]:
    """The lines that each cell prints."""
    return [
        [line for output in cell["outputs"] if "text" in output for line in "".join(output["text"]).splitlines()]
        for cell in code_cells(notebook)
    ]


def kinds(notebook: dict[str, Any]) -> list[list[str]]:
    """The kinds of value that each cell shows."""
    return [
        sorted(kind for output in cell["outputs"] for kind in output.get("data", {})) for cell in code_cells(notebook)
    ]


def test_a_cell_shows_what_it_prints_and_its_last_value() -> None:
    names: dict[str, Any] = {}
    assert run_cell("x = 1\nprint(x)\nx + 1", names) == [
        {"name": "stdout", "output_type": "stream", "text": ["1\n"]},
        {"data": {"text/plain": "2"}, "metadata": {}, "output_type": "display_data"},
    ]
    assert run_cell("x = 2", names) == []
    names["picture"] = Image.new("RGB", (4, 4))
    assert run_cell("picture", names)[0]["data"]["image/png"].startswith("iVBOR")
    names["array"] = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(TypeError, match=r"Image\.fromarray"):
        run_cell("array", names)


def test_there_are_three_and_the_page_leads_to_each() -> None:
    linked = re.findall(r"\]\(notebooks/(\w+)\.ipynb\)", (ROOT / "docs/notebooks.md").read_text(encoding="utf-8"))
    assert sorted(linked) == [path.stem for path in PATHS]
    assert len(linked) == 3


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_was_executed(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 300_000
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert [cell["execution_count"] for cell in code_cells(notebook)] == [*range(1, len(code_cells(notebook)) + 1)]
    assert any("image/png" in shown for shown in kinds(notebook))
    assert str(ROOT) not in path.read_text(encoding="utf-8")


@pytest.mark.ray
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_prints_what_it_shows(path: Path) -> None:
    shown = json.loads(path.read_text(encoding="utf-8"))
    found = execute_apart(path)
    assert kinds(found) == kinds(shown)
    for now, before in zip(printed(found), printed(shown), strict=True):
        assert len(now) == len(before), now
        for line, pattern in zip(now, map(with_any_figures, before), strict=True):
            assert pattern.fullmatch(line), (line, pattern.pattern)
