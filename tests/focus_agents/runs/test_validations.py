"""The answers of validations through time: bounded, over the whole run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from focus_agents.runs import validations
from focus_agents.runs.answers import read_answers
from focus_agents.runs.validations import keep_validation, list_validations, rewind_validations, validation_picture
from focus_env.rendering import write_picture
from tests.answers import scored

ANSWERS = [scored(0.5), scored(0.25, index=1)]


def keep(run: Path, positions: range, counter: str = "iteration") -> None:
    (run / "samples").mkdir(exist_ok=True)
    (run / "validation").mkdir(exist_ok=True)
    for position in positions:
        keep_validation(run, counter, position, ANSWERS)
        write_picture(validation_picture(run, position), np.zeros((2, 2, 3), np.uint8))


@pytest.mark.parametrize("counter", ["iteration", "step"])
def test_every_other_one_goes_where_there_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counter: str
) -> None:
    monkeypatch.setattr(validations, "MOST_VALIDATIONS", 4)
    keep(tmp_path, range(10, 100, 10), counter)
    kept = list_validations(tmp_path)
    assert list(kept) == [10, 50, 70, 80, 90] or len(kept) <= 4
    assert {10, 90} <= set(kept)
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {f"validation_{n:06d}.png" for n in kept}
    assert read_answers(kept[90]) == ANSWERS


def test_what_came_after_a_checkpoint_goes_with_its_picture(tmp_path: Path) -> None:
    keep(tmp_path, range(100, 400, 100))
    (tmp_path / "validation" / "before.jsonl").touch()
    rewind_validations(tmp_path, 200)
    assert list(list_validations(tmp_path)) == [100, 200]
    assert not validation_picture(tmp_path, 300).exists()
    assert (tmp_path / "validation" / "before.jsonl").exists()


def test_a_folder_without_any(tmp_path: Path) -> None:
    assert list_validations(tmp_path) == {}
